package p11

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// flatGCM is CK_GCM_PARAMS as it crosses the boundary.
func flatGCM(nonce, aad []byte, tagBits uint64) Mechanism {
	p := append(ulong(uint64(len(nonce))), nonce...)
	p = append(p, ulong(8*uint64(len(nonce)))...)
	p = append(append(p, ulong(uint64(len(aad)))...), aad...)
	return Mechanism{Type: CKM_AES_GCM, Parameter: append(p, ulong(tagBits)...)}
}

// The plaintext and the keys of NIST SP 800-38A, appendix F.
const (
	f128   = "2b7e151628aed2a6abf7158809cf4f3c"
	f256   = "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4"
	fPlain = "6bc1bee22e409f96e93d7e117393172a ae2d8a571e03ac9c9eb76fac45af8e51 30c81c46a35ce411e5fbc1191a0a52ef f69f2445df4f9b17ad2b417be66c3710"
)

func TestAESKnownAnswers(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(false)
	gcmKey := "feffe9928665731c6d6a8f9467308308"
	gcmPlain := "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
	gcmAAD := unhex(t, "feedfacedeadbeeffeedfacedeadbeefabaddad2")
	for _, v := range []struct {
		name, key, plain, cipher string
		m                        Mechanism
	}{
		{"SP 800-38A F.2.1, CBC", f128, fPlain,
			"7649abac8119b246cee98e9b12e9197d 5086cb9b507219ee95db113a917678b2 73bed6b8e3c1743b7116e69e22229516 3ff1caa1681fac09120eca307586e1a7",
			Mechanism{CKM_AES_CBC, unhex(t, "000102030405060708090a0b0c0d0e0f")}},
		{"SP 800-38A F.2.5, CBC", f256, fPlain,
			"f58c4c04d6e5f1ba779eabfb5f7bfbd6 9cfc4e967edb808d679f777bc6702c7d 39f23369a9d9bacfa530e26304231461 b2eb05e2c39be9fcda6c19078c6a9d1b",
			Mechanism{CKM_AES_CBC, unhex(t, "000102030405060708090a0b0c0d0e0f")}},
		{"SP 800-38A F.5.1, CTR", f128, fPlain,
			"874d6191b620e3261bef6864990db6ce 9806f66b7970fdff8617187bb9fffdff 5ae4df3edbd5d35e5b4f09020db03eab 1e031dda2fbe03d1792170a0f3009cee",
			Mechanism{CKM_AES_CTR, append(ulong(128), unhex(t, "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")...)}},
		{"SP 800-38A F.5.5, CTR", f256, fPlain,
			"601ec313775789a5b7a7f504bbf3d228 f443e3ca4d62b59aca84e990cacaf5c5 2b0930daa23de94ce87017ba2d84988d dfc9c58db67aada613c2dd08457941a6",
			Mechanism{CKM_AES_CTR, append(ulong(128), unhex(t, "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")...)}},
		{"GCM, test case 2", "00000000000000000000000000000000", "00000000000000000000000000000000",
			"0388dace60b6a392f328c2b971b2fe78 ab6e47d42cec13bdf53a67b21257bddf", flatGCM(make([]byte, 12), nil, 128)},
		{"GCM, test case 4", gcmKey, gcmPlain,
			"42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091 5bc94fbc3221a5db94fae95ae7121a47",
			flatGCM(unhex(t, "cafebabefacedbaddecaf888"), gcmAAD, 128)},
		{"GCM, test case 4 with 96 bits of its tag", gcmKey, gcmPlain,
			"42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091 5bc94fbc3221a5db94fae95a",
			flatGCM(unhex(t, "cafebabefacedbaddecaf888"), gcmAAD, 96)},
		{"GCM, test case 5, an IV of 8 bytes", gcmKey, gcmPlain,
			"61353b4c2806934a777ff51fa22a4755699b2a714fcdc6f83766e5f97b6c742373806900e49f24b22b097544d4896b424989b5e1ebac0f07c23f4598 3612d2e79e3b0785561be14aaca2fccb",
			flatGCM(unhex(t, "cafebabefacedbad"), gcmAAD, 128)},
	} {
		plain, ciphertext := unhex(t, v.plain), unhex(t, v.cipher)
		key := w.aes(s, unhex(t, v.key))
		if got, err := w.encrypt(s, v.m, key, bytes.Clone(plain)); err != nil || !bytes.Equal(got, ciphertext) {
			t.Errorf("%s: encrypted %x, %v", v.name, got, err)
		}
		if got, err := w.decrypt(s, v.m, key, bytes.Clone(ciphertext)); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%s: decrypted %x, %v", v.name, got, err)
		}
		for _, size := range []int{1, 7, 16, 33, 1000} {
			w.must(w.EncryptInit(s, v.m, key))
			got, err := inParts(func(p []byte, o *Output) error { return w.EncryptUpdate(s, p, o) }, func(o *Output) error { return w.EncryptFinal(s, o) }, plain, size)
			if err != nil || !bytes.Equal(got, ciphertext) {
				t.Errorf("%s: encrypted in parts of %d: %x, %v", v.name, size, got, err)
			}
			w.must(w.DecryptInit(s, v.m, key))
			got, err = inParts(func(p []byte, o *Output) error { return w.DecryptUpdate(s, p, o) }, func(o *Output) error { return w.DecryptFinal(s, o) }, ciphertext, size)
			if err != nil || !bytes.Equal(got, plain) {
				t.Errorf("%s: decrypted in parts of %d: %x, %v", v.name, size, got, err)
			}
		}
	}
}

// Padding comes and goes for every length, in one part and in several.
func TestPaddedMessages(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(false)
	key := w.aes(s, unhex(t, f128))
	m := Mechanism{CKM_AES_CBC_PAD, make([]byte, 16)}
	for n := range 50 {
		plain := bytes.Repeat([]byte{byte(n)}, n)
		ciphertext, err := w.encrypt(s, m, key, bytes.Clone(plain))
		w.must(err)
		if len(ciphertext) != (n/16+1)*16 {
			t.Fatalf("%d bytes became %d", n, len(ciphertext))
		}
		if got, err := w.decrypt(s, m, key, bytes.Clone(ciphertext)); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes came back as %x, %v", n, got, err)
		}
		for _, size := range []int{1, 5, 16, 31} {
			w.must(w.EncryptInit(s, m, key))
			got, err := inParts(func(p []byte, o *Output) error { return w.EncryptUpdate(s, p, o) }, func(o *Output) error { return w.EncryptFinal(s, o) }, plain, size)
			if err != nil || !bytes.Equal(got, ciphertext) {
				t.Errorf("%d bytes in parts of %d: %x, %v", n, size, got, err)
			}
			w.must(w.DecryptInit(s, m, key))
			got, err = inParts(func(p []byte, o *Output) error { return w.DecryptUpdate(s, p, o) }, func(o *Output) error { return w.DecryptFinal(s, o) }, ciphertext, size)
			if err != nil || !bytes.Equal(got, plain) {
				t.Errorf("%d bytes came back in parts of %d as %x, %v", n, size, got, err)
			}
		}
	}
}

// What does not decrypt is one error, in one part and in several; and GCM gives nothing before its tag was checked.
func TestCiphertextsThatAreWrong(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(false)
	key := w.aes(s, unhex(t, f128))
	block := Mechanism{CKM_AES_CBC, make([]byte, 16)}
	pad := Mechanism{CKM_AES_CBC_PAD, make([]byte, 16)}
	for name, last := range map[string]string{
		"no padding": "000102030405060708090a0b0c0d0e00", "more than a block": "11111111111111111111111111111111", "a hole in it": "00010203040506070809040404040304",
		"one byte too few": "000102030405060708090a0b0c0d0302",
	} {
		ciphertext, err := w.encrypt(s, block, key, unhex(t, last))
		w.must(err)
		if _, err := w.decrypt(s, pad, key, bytes.Clone(ciphertext)); RVOf(err) != CKR_ENCRYPTED_DATA_INVALID || err != error(CKR_ENCRYPTED_DATA_INVALID) {
			t.Errorf("%s: %v", name, err)
		}
		w.must(w.DecryptInit(s, pad, key))
		_, err = inParts(func(p []byte, o *Output) error { return w.DecryptUpdate(s, p, o) }, func(o *Output) error { return w.DecryptFinal(s, o) }, ciphertext, 9)
		if err != error(CKR_ENCRYPTED_DATA_INVALID) {
			t.Errorf("%s, in parts: %v", name, err)
		}
	}
	for _, n := range []int{0, 1, 15, 17} {
		_, err := w.decrypt(s, pad, key, make([]byte, n))
		w.refused(err, CKR_ENCRYPTED_DATA_LEN_RANGE)
	}
	_, err := w.encrypt(s, block, key, make([]byte, 15))
	w.refused(err, CKR_DATA_LEN_RANGE)

	gcm := flatGCM(make([]byte, 12), []byte("header"), 128)
	ciphertext, err := w.encrypt(s, gcm, key, []byte("the contract"))
	w.must(err)
	for i := range ciphertext {
		bent := bytes.Clone(ciphertext)
		bent[i] ^= 0x80
		if got, err := w.decrypt(s, gcm, key, bent); RVOf(err) != CKR_ENCRYPTED_DATA_INVALID || len(got) != 0 {
			t.Errorf("byte %d is bent: %q, %v", i, got, err)
		}
	}
	_, err = w.decrypt(s, flatGCM(make([]byte, 12), []byte("Header"), 128), key, bytes.Clone(ciphertext))
	w.refused(err, CKR_ENCRYPTED_DATA_INVALID)
	_, err = w.decrypt(s, gcm, key, make([]byte, 15))
	w.refused(err, CKR_ENCRYPTED_DATA_LEN_RANGE)
	w.must(w.DecryptInit(s, gcm, key))
	got, err := inParts(func(p []byte, o *Output) error { return w.DecryptUpdate(s, p, o) }, func(o *Output) error { return w.DecryptFinal(s, o) }, ciphertext[:20], 3)
	if RVOf(err) != CKR_ENCRYPTED_DATA_INVALID || len(got) != 0 {
		t.Errorf("a part of the message gave %q, %v", got, err)
	}
	w.refused(w.DecryptFinal(s, &Output{Query: true}), CKR_OPERATION_NOT_INITIALIZED)

	// More than a message that GCM gathers.
	w.must(w.DecryptInit(s, gcm, key))
	_, err = inParts(func(p []byte, o *Output) error { return w.DecryptUpdate(s, p, o) }, func(o *Output) error { return w.DecryptFinal(s, o) }, make([]byte, maxPartLength+1), 1<<18)
	w.refused(err, CKR_ENCRYPTED_DATA_LEN_RANGE)
}

func TestParametersThatAreWrong(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(false)
	key := w.aes(s, unhex(t, f128))
	for name, m := range map[string]Mechanism{
		"CBC without an IV":                   {Type: CKM_AES_CBC},
		"CBC with a short IV":                 {CKM_AES_CBC, make([]byte, 15)},
		"CBC with padding, long IV":           {CKM_AES_CBC_PAD, make([]byte, 17)},
		"CTR without anything":                {Type: CKM_AES_CTR},
		"CTR with no counter bits":            {CKM_AES_CTR, append(ulong(0), make([]byte, 16)...)},
		"CTR with 129 counter bits":           {CKM_AES_CTR, append(ulong(129), make([]byte, 16)...)},
		"CTR with half a block":               {CKM_AES_CTR, append(ulong(64), make([]byte, 8)...)},
		"GCM without anything":                {Type: CKM_AES_GCM},
		"GCM without an IV":                   flatGCM(nil, nil, 128),
		"GCM with a tag of 8 bits":            flatGCM(make([]byte, 12), nil, 8),
		"GCM with a tag of 95 bits":           flatGCM(make([]byte, 12), nil, 95),
		"GCM with a tag of 2^40":              flatGCM(make([]byte, 12), nil, 1<<40),
		"GCM with a short tag and another IV": flatGCM(make([]byte, 16), nil, 96),
		"GCM with something behind":           {CKM_AES_GCM, append(flatGCM(make([]byte, 12), nil, 128).Parameter, 0)},
	} {
		if err := w.EncryptInit(s, m, key); RVOf(err) != CKR_MECHANISM_PARAM_INVALID {
			t.Errorf("%s: %v", name, err)
		}
		if err := w.DecryptInit(s, m, key); RVOf(err) != CKR_MECHANISM_PARAM_INVALID {
			t.Errorf("%s, decrypting: %v", name, err)
		}
	}
}

// A counter wraps in its bits, leaves the others alone, and is never used twice.
func TestCounterWraps(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(false)
	key := w.aes(s, unhex(t, f128))
	counter := func(bits uint64, block string) Mechanism {
		return Mechanism{CKM_AES_CTR, append(ulong(bits), unhex(t, block)...)}
	}
	for _, c := range []struct {
		bits          uint64
		first, second string
	}{
		{8, "000000000000000000000000000000ff", "00000000000000000000000000000000"},
		{4, "0000000000000000000000000000000f", "00000000000000000000000000000000"},
		{4, "000000000000000000000000000000af", "000000000000000000000000000000a0"},
		{12, "00000000000000000000000000007fff", "00000000000000000000000000007000"},
		{13, "00000000000000000000000000000fff", "00000000000000000000000000001000"},
		{128, "ffffffffffffffffffffffffffffffff", "00000000000000000000000000000000"},
	} {
		both, err := w.encrypt(s, counter(c.bits, c.first), key, make([]byte, 32))
		w.must(err)
		second, err := w.encrypt(s, counter(128, c.second), key, make([]byte, 16))
		w.must(err)
		if !bytes.Equal(both[16:], second) {
			t.Errorf("%d bits after %s: another block than %s", c.bits, c.first, c.second)
		}
	}
	w.must(func() error { _, err := w.encrypt(s, counter(2, f128), key, make([]byte, 64)); return err }())
	_, err := w.encrypt(s, counter(2, f128), key, make([]byte, 65))
	w.refused(err, CKR_DATA_LEN_RANGE)
}

// Lengths are told without consuming anything, a buffer that is too small keeps the operation, and everything else ends it.
func TestSecretKeyOperationsAndLengths(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(false)
	key := w.aes(s, unhex(t, f128))
	pad := Mechanism{CKM_AES_CBC_PAD, make([]byte, 16)}
	length := func(f func(*Output) error, want uint64) {
		t.Helper()
		query := Output{Query: true}
		w.must(f(&query))
		if n, _ := query.Result(); n != want {
			t.Errorf("the length is %d, want %d", n, want)
		}
		small := Output{Capacity: want - 1}
		w.refused(f(&small), CKR_BUFFER_TOO_SMALL)
		if n, _ := small.Result(); n != want {
			t.Errorf("the length is %d after CKR_BUFFER_TOO_SMALL, want %d", n, want)
		}
	}
	w.must(w.EncryptInit(s, pad, key))
	w.refused(w.EncryptInit(s, pad, key), CKR_OPERATION_ACTIVE)
	length(func(o *Output) error { return w.Encrypt(s, make([]byte, 20), o) }, 32)
	length(func(o *Output) error { return w.EncryptUpdate(s, make([]byte, 20), o) }, 16)
	out := Output{Capacity: 16}
	w.must(w.EncryptUpdate(s, make([]byte, 20), &out))
	_, ciphertext := out.Result()
	length(func(o *Output) error { return w.EncryptFinal(s, o) }, 16)
	out = Output{Capacity: 16}
	w.must(w.EncryptFinal(s, &out))
	_, rest := out.Result()
	ciphertext = append(bytes.Clone(ciphertext), rest...)
	w.refused(w.EncryptFinal(s, &out), CKR_OPERATION_NOT_INITIALIZED)
	w.refused(w.EncryptUpdate(s, nil, &out), CKR_OPERATION_NOT_INITIALIZED)
	w.refused(w.Encrypt(s, nil, &out), CKR_OPERATION_NOT_INITIALIZED)

	// How much is padding is known at the end alone.
	w.must(w.DecryptInit(s, pad, key))
	query := Output{Query: true}
	w.must(w.Decrypt(s, bytes.Clone(ciphertext), &query))
	if n, _ := query.Result(); n != 32 {
		t.Errorf("the longest plaintext is %d", n)
	}
	small := Output{Capacity: 19}
	w.refused(w.Decrypt(s, bytes.Clone(ciphertext), &small), CKR_BUFFER_TOO_SMALL)
	exact := Output{Capacity: 20}
	w.must(w.Decrypt(s, bytes.Clone(ciphertext), &exact))
	if n, got := exact.Result(); n != 20 || !bytes.Equal(got, make([]byte, 20)) {
		t.Errorf("the plaintext is %x", got)
	}

	// A message in parts ends in parts.
	w.must(w.DecryptInit(s, pad, key))
	w.must(w.DecryptUpdate(s, bytes.Clone(ciphertext[:16]), &Output{Capacity: 100}))
	w.refused(w.Decrypt(s, bytes.Clone(ciphertext), &Output{Capacity: 100}), CKR_OPERATION_ACTIVE)
	w.refused(w.DecryptFinal(s, &Output{Capacity: 100}), CKR_OPERATION_NOT_INITIALIZED)

	// A closed session's operations are gone.
	gcm := flatGCM(make([]byte, 12), nil, 128)
	w.must(w.EncryptInit(s, gcm, key))
	w.must(w.EncryptUpdate(s, []byte("part"), &Output{}))
	w.must(w.CloseSession(s))
	w.refused(w.EncryptFinal(s, &Output{}), CKR_SESSION_HANDLE_INVALID)
}

// A key does what it is for and nothing else.
func TestSecretKeysHaveTheirUses(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(false)
	iv := Mechanism{CKM_AES_CBC_PAD, make([]byte, 16)}
	encrypts := w.aes(s, unhex(t, f128), flag(CKA_DECRYPT, false))
	w.must(w.EncryptInit(s, iv, encrypts))
	w.refused(w.DecryptInit(s, iv, encrypts), CKR_KEY_FUNCTION_NOT_PERMITTED)
	w.refused(w.SignInit(s, Mechanism{Type: CKM_SHA256_HMAC}, encrypts), CKR_KEY_TYPE_INCONSISTENT)
	wraps := w.aes(s, unhex(t, f128), flag(CKA_WRAP, true))
	w.refused(w.DecryptInit(s, iv, wraps), CKR_KEY_FUNCTION_NOT_PERMITTED)
	mac := w.create(s, secretTemplate(CKK_GENERIC_SECRET, Attribute{CKA_VALUE, []byte("secret")})...)
	w.refused(w.DecryptInit(s, iv, mac), CKR_KEY_TYPE_INCONSISTENT)
	asked := w.create(s, secretTemplate(CKK_GENERIC_SECRET, flag(CKA_ENCRYPT, true), Attribute{CKA_VALUE, []byte("0123456789abcdef")})...)
	if !bytes.Equal(w.attribute(s, asked, CKA_ENCRYPT), []byte{0}) {
		t.Error("a generic secret says that it encrypts")
	}
	limited := w.aes(s, unhex(t, f128), Attribute{CKA_ALLOWED_MECHANISMS, ulong(uint64(CKM_AES_GCM))})
	w.refused(w.DecryptInit(s, iv, limited), CKR_MECHANISM_INVALID)
	w.must(w.DecryptInit(s, flatGCM(make([]byte, 12), nil, 128), limited))
	if got := w.attribute(s, limited, CKA_ALLOWED_MECHANISMS); !bytes.Equal(got, ulong(uint64(CKM_AES_GCM))) {
		t.Errorf("CKA_ALLOWED_MECHANISMS is %x", got)
	}
	data := w.create(s, class(CKO_DATA), Attribute{CKA_VALUE, unhex(t, f128)})
	w.refused(w.DecryptInit(s, iv, data), CKR_KEY_HANDLE_INVALID)
}

// HMAC of RFC 4231, test cases 1, 2, 5 and 6.
func TestHMACKnownAnswers(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(false)
	for _, v := range []struct {
		m         MechanismType
		kind      uint64
		key, data []byte
		mac       string
		bytes     uint64
	}{
		{CKM_SHA256_HMAC, CKK_GENERIC_SECRET, bytes.Repeat([]byte{0x0b}, 20), []byte("Hi There"), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7", 0},
		{CKM_SHA224_HMAC, CKK_SHA224_HMAC, bytes.Repeat([]byte{0x0b}, 20), []byte("Hi There"), "896fb1128abbdf196832107cd49df33f47b4b1169912ba4f53684b22", 0},
		{CKM_SHA384_HMAC, CKK_SHA384_HMAC, bytes.Repeat([]byte{0x0b}, 20), []byte("Hi There"), "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59cfaea9ea9076ede7f4af152e8b2fa9cb6", 0},
		{CKM_SHA512_HMAC, CKK_SHA512_HMAC, []byte("Jefe"), []byte("what do ya want for nothing?"), "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737", 0},
		{CKM_SHA256_HMAC, CKK_SHA256_HMAC, bytes.Repeat([]byte{0xaa}, 131), []byte("Test Using Larger Than Block-Size Key - Hash Key First"), "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54", 0},
		{CKM_SHA256_HMAC_GENERAL, CKK_GENERIC_SECRET, bytes.Repeat([]byte{0x0c}, 20), []byte("Test With Truncation"), "a3b6167473100ee06e0c796c2955552b", 16},
	} {
		key := w.create(s, secretTemplate(v.kind, Attribute{CKA_VALUE, bytes.Clone(v.key)})...)
		m := Mechanism{Type: v.m}
		if v.bytes != 0 {
			m.Parameter = ulong(v.bytes)
		}
		want := unhex(t, v.mac)
		if got, err := w.sign(s, m, key, v.data); err != nil || !bytes.Equal(got, want) {
			t.Errorf("0x%x: %x, %v", uint64(v.m), got, err)
		}
		w.must(w.VerifyInit(s, m, key))
		w.must(w.VerifyUpdate(s, v.data[:3]))
		w.must(w.VerifyUpdate(s, v.data[3:]))
		w.must(w.VerifyFinal(s, want))
		bent := bytes.Clone(want)
		bent[len(bent)-1] ^= 1
		w.must(w.VerifyInit(s, m, key))
		w.refused(w.Verify(s, v.data, bent), CKR_SIGNATURE_INVALID)
		w.must(w.VerifyInit(s, m, key))
		w.refused(w.Verify(s, v.data, want[:len(want)-1]), CKR_SIGNATURE_LEN_RANGE)
	}
	key := w.create(s, secretTemplate(CKK_SHA256_HMAC, Attribute{CKA_VALUE, []byte("secret")})...)
	w.refused(w.SignInit(s, Mechanism{Type: CKM_SHA384_HMAC}, key), CKR_KEY_TYPE_INCONSISTENT)
	for _, n := range []uint64{0, 3, 33, 1 << 60} {
		w.refused(w.SignInit(s, Mechanism{CKM_SHA256_HMAC_GENERAL, ulong(n)}, key), CKR_MECHANISM_PARAM_INVALID)
	}
	w.refused(w.SignInit(s, Mechanism{Type: CKM_SHA256_HMAC_GENERAL}, key), CKR_MECHANISM_PARAM_INVALID)
	w.refused(w.SignInit(s, Mechanism{CKM_SHA256_HMAC, []byte{1}}, key), CKR_MECHANISM_PARAM_INVALID)

	// With SHA-1 (RFC 2202, test case 2) only what is there is verified.
	old := w.create(s, secretTemplate(CKK_SHA_1_HMAC, Attribute{CKA_VALUE, []byte("Jefe")})...)
	w.refused(w.SignInit(s, Mechanism{Type: CKM_SHA_1_HMAC}, old), CKR_MECHANISM_INVALID)
	w.must(w.VerifyInit(s, Mechanism{Type: CKM_SHA_1_HMAC}, old))
	w.must(w.Verify(s, []byte("what do ya want for nothing?"), unhex(t, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79")))
}

// Secret keys that may leave are wrapped with keys that may wrap, and come back as what the template says.
func TestWrappedKeys(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(true)
	kek := w.aes(s, unhex(t, "000102030405060708090A0B0C0D0E0F"), flag(CKA_WRAP, true), flag(CKA_UNWRAP, true))
	value := unhex(t, "00112233445566778899AABBCCDDEEFF")
	key := w.aes(s, value, flag(CKA_EXTRACTABLE, true), flag(CKA_SENSITIVE, true))
	kw, kwp := Mechanism{Type: CKM_AES_KEY_WRAP}, Mechanism{Type: CKM_AES_KEY_WRAP_KWP}
	query := Output{Query: true}
	w.must(w.WrapKey(s, kw, kek, key, &query))
	if n, _ := query.Result(); n != 24 {
		t.Errorf("the length is %d", n)
	}
	w.refused(w.WrapKey(s, kw, kek, key, &Output{Capacity: 23}), CKR_BUFFER_TOO_SMALL)
	out := Output{Capacity: 24}
	w.must(w.WrapKey(s, kw, kek, key, &out))
	_, wrapped := out.Result()
	if want := unhex(t, "1FA68B0A8112B447AEF34BD8FB5A7B829D3E862371D2CFE5"); !bytes.Equal(wrapped, want) {
		t.Errorf("wrapped %x", wrapped)
	}
	back, err := w.UnwrapKey(s, kw, kek, bytes.Clone(wrapped), secretTemplate(CKK_AES, flag(CKA_EXTRACTABLE, true)))
	w.must(err)
	if got := w.attribute(s, back, CKA_VALUE); !bytes.Equal(got, value) {
		t.Errorf("unwrapped %x", got)
	}
	closed, err := w.UnwrapKey(s, kw, kek, bytes.Clone(wrapped), secretTemplate(CKK_AES))
	w.must(err)
	for a, want := range map[AttributeType]bool{CKA_SENSITIVE: true, CKA_EXTRACTABLE: false, CKA_LOCAL: false, CKA_ALWAYS_SENSITIVE: false, CKA_NEVER_EXTRACTABLE: false} {
		if got := w.attribute(s, closed, a); !bytes.Equal(got, boolean(want)) {
			t.Errorf("attribute 0x%x of an unwrapped key is %x, want %t", uint64(a), got, want)
		}
	}

	// A secret of any length, with padding.
	odd := w.create(s, secretTemplate(CKK_GENERIC_SECRET, flag(CKA_EXTRACTABLE, true), Attribute{CKA_VALUE, []byte("password")[:7]})...)
	w.refused(w.WrapKey(s, kw, kek, odd, &Output{Capacity: 100}), CKR_KEY_SIZE_RANGE)
	out = Output{Capacity: 100}
	w.must(w.WrapKey(s, kwp, kek, odd, &out))
	_, padded := out.Result()
	back, err = w.UnwrapKey(s, kwp, kek, bytes.Clone(padded), secretTemplate(CKK_GENERIC_SECRET, flag(CKA_EXTRACTABLE, true)))
	w.must(err)
	if got := w.attribute(s, back, CKA_VALUE); string(got) != "passwor" {
		t.Errorf("unwrapped %q", got)
	}

	// What is not for wrapping.
	w.make(keystore.KeySpec{Label: "ec", Type: provider.P256, Use: provider.Use{Sign: true}})
	private, public := w.one(s, CKO_PRIVATE_KEY), w.one(s, CKO_PUBLIC_KEY)
	trusted := w.aes(s, value, flag(CKA_EXTRACTABLE, true), flag(CKA_WRAP_WITH_TRUSTED, true))
	none := &Output{Capacity: 100}
	w.refused(w.WrapKey(s, kw, kek, closed, none), CKR_KEY_UNEXTRACTABLE)
	w.refused(w.WrapKey(s, kw, kek, private, none), CKR_KEY_NOT_WRAPPABLE)
	w.refused(w.WrapKey(s, kw, kek, public, none), CKR_KEY_HANDLE_INVALID)
	w.refused(w.WrapKey(s, kw, kek, trusted, none), CKR_KEY_NOT_WRAPPABLE)
	w.refused(w.WrapKey(s, kw, kek, 12345, none), CKR_KEY_HANDLE_INVALID)
	w.refused(w.WrapKey(s, kw, 12345, key, none), CKR_WRAPPING_KEY_HANDLE_INVALID)
	w.refused(w.WrapKey(s, kw, odd, key, none), CKR_WRAPPING_KEY_TYPE_INCONSISTENT)
	w.refused(w.WrapKey(s, kw, key, key, none), CKR_KEY_FUNCTION_NOT_PERMITTED)
	w.refused(w.WrapKey(s, Mechanism{CKM_AES_KEY_WRAP, make([]byte, 8)}, kek, key, none), CKR_MECHANISM_PARAM_INVALID)
	w.refused(w.WrapKey(s, Mechanism{CKM_AES_CBC, make([]byte, 16)}, kek, key, none), CKR_MECHANISM_INVALID)

	bent := bytes.Clone(wrapped)
	bent[5] ^= 1
	for name, c := range map[string]struct {
		want     RV
		m        Mechanism
		key      ObjectHandle
		wrapped  []byte
		template []Attribute
	}{
		"a bent bit":           {CKR_WRAPPED_KEY_INVALID, kw, kek, bent, secretTemplate(CKK_AES)},
		"half of it":           {CKR_WRAPPED_KEY_LEN_RANGE, kw, kek, wrapped[:23], secretTemplate(CKK_AES)},
		"nothing":              {CKR_WRAPPED_KEY_LEN_RANGE, kw, kek, nil, secretTemplate(CKK_AES)},
		"the other mechanism":  {CKR_WRAPPED_KEY_INVALID, kwp, kek, wrapped, secretTemplate(CKK_AES)},
		"a key that is none":   {CKR_UNWRAPPING_KEY_HANDLE_INVALID, kw, 12345, wrapped, secretTemplate(CKK_AES)},
		"a key of the TPM":     {CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT, kw, private, wrapped, secretTemplate(CKK_AES)},
		"one that decrypts":    {CKR_KEY_FUNCTION_NOT_PERMITTED, kw, key, wrapped, secretTemplate(CKK_AES)},
		"no class":             {CKR_TEMPLATE_INCOMPLETE, kw, kek, wrapped, nil},
		"a private key":        {CKR_TEMPLATE_INCONSISTENT, kw, kek, wrapped, []Attribute{class(CKO_PRIVATE_KEY)}},
		"no type":              {CKR_TEMPLATE_INCOMPLETE, kw, kek, wrapped, []Attribute{class(CKO_SECRET_KEY)}},
		"a value":              {CKR_TEMPLATE_INCONSISTENT, kw, kek, wrapped, secretTemplate(CKK_AES, Attribute{CKA_VALUE, make([]byte, 16)})},
		"another length":       {CKR_TEMPLATE_INCONSISTENT, kw, kek, wrapped, secretTemplate(CKK_AES, number(CKA_VALUE_LEN, 32))},
		"AES out of 7 letters": {CKR_ATTRIBUTE_VALUE_INVALID, kwp, kek, padded, secretTemplate(CKK_AES)},
	} {
		if _, err := w.UnwrapKey(s, c.m, c.key, bytes.Clone(c.wrapped), c.template); RVOf(err) != c.want {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}
