package p11

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"math/big"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/internal/keyuse"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// digestInfo is the DER of a SHA-256 DigestInfo.
func digestInfo(digest [32]byte) []byte {
	return append([]byte("\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20"), digest[:]...)
}

// rsaWorld is an open token with one RSA-2048 key that was made elsewhere, which is quick.
func rsaWorld(t *testing.T, use provider.Use) (w *world, s SessionHandle, private, public ObjectHandle, key *rsa.PublicKey) {
	t.Helper()
	w = open(t)
	made, err := rsa.GenerateKey(rand.Reader, 2048)
	w.must(err)
	_, err = w.token.ImportKey(context.Background(), made, keystore.KeySpec{Label: "rsa", Use: use, Wrapped: true})
	w.must(err)
	s = w.session(true)
	return w, s, w.one(s, CKO_PRIVATE_KEY), w.one(s, CKO_PUBLIC_KEY), &made.PublicKey
}

func TestRSASignaturesOfEveryMechanism(t *testing.T) {
	t.Parallel()
	w, s, private, public, key := rsaWorld(t, provider.Use{Sign: true})
	text := []byte("what is signed")
	sum256, sum384, sum512 := sha256.Sum256(text), sha512.Sum384(text), sha512.Sum512(text)
	pss := func(h crypto.Hash) *rsa.PSSOptions { return &rsa.PSSOptions{SaltLength: h.Size(), Hash: h} }
	for name, c := range map[string]struct {
		mechanism Mechanism
		data      []byte
		check     func(signature []byte) error
	}{
		"PKCS":       {mechanismOf(CKM_RSA_PKCS), digestInfo(sum256), func(b []byte) error { return rsa.VerifyPKCS1v15(key, crypto.SHA256, sum256[:], b) }},
		"SHA256":     {mechanismOf(CKM_SHA256_RSA_PKCS), text, func(b []byte) error { return rsa.VerifyPKCS1v15(key, crypto.SHA256, sum256[:], b) }},
		"SHA384":     {mechanismOf(CKM_SHA384_RSA_PKCS), text, func(b []byte) error { return rsa.VerifyPKCS1v15(key, crypto.SHA384, sum384[:], b) }},
		"SHA512":     {mechanismOf(CKM_SHA512_RSA_PKCS), text, func(b []byte) error { return rsa.VerifyPKCS1v15(key, crypto.SHA512, sum512[:], b) }},
		"PSS":        {mechanismOf(CKM_RSA_PKCS_PSS, uint64(CKM_SHA256), CKG_MGF1_SHA256, 32), sum256[:], func(b []byte) error { return rsa.VerifyPSS(key, crypto.SHA256, sum256[:], b, pss(crypto.SHA256)) }},
		"SHA256 PSS": {mechanismOf(CKM_SHA256_RSA_PKCS_PSS, uint64(CKM_SHA256), CKG_MGF1_SHA256, 32), text, func(b []byte) error { return rsa.VerifyPSS(key, crypto.SHA256, sum256[:], b, pss(crypto.SHA256)) }},
		"SHA384 PSS": {mechanismOf(CKM_SHA384_RSA_PKCS_PSS, uint64(CKM_SHA384), CKG_MGF1_SHA384, 48), text, func(b []byte) error { return rsa.VerifyPSS(key, crypto.SHA384, sum384[:], b, pss(crypto.SHA384)) }},
		"SHA512 PSS": {mechanismOf(CKM_SHA512_RSA_PKCS_PSS, uint64(CKM_SHA512), CKG_MGF1_SHA512, 64), text, func(b []byte) error { return rsa.VerifyPSS(key, crypto.SHA512, sum512[:], b, pss(crypto.SHA512)) }},
	} {
		signature, err := w.sign(s, c.mechanism, private, c.data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := c.check(signature); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		w.must(w.VerifyInit(s, c.mechanism, public))
		if err := w.Verify(s, c.data, signature); err != nil {
			t.Errorf("%s: C_Verify: %v", name, err)
		}
		signature[9] ^= 1
		w.must(w.VerifyInit(s, c.mechanism, public))
		w.refused(w.Verify(s, c.data, signature), CKR_SIGNATURE_INVALID)
		w.must(w.VerifyInit(s, c.mechanism, public))
		w.refused(w.Verify(s, c.data, signature[:9]), CKR_SIGNATURE_LEN_RANGE)
	}
}

func TestRSAMechanismsThatAreRefused(t *testing.T) {
	t.Parallel()
	w, s, private, public, _ := rsaWorld(t, provider.Use{Sign: true})
	for name, c := range map[string]struct {
		mechanism Mechanism
		key       ObjectHandle
		data      []byte
		want      RV
	}{
		"unknown mechanism":     {mechanismOf(0x9999), private, nil, CKR_MECHANISM_INVALID},
		"digest mechanism":      {mechanismOf(CKM_SHA256), private, nil, CKR_MECHANISM_INVALID},
		"SHA-1 signature":       {mechanismOf(CKM_SHA1_RSA_PKCS), private, nil, CKR_MECHANISM_INVALID},
		"ECDSA with RSA":        {mechanismOf(CKM_ECDSA), private, nil, CKR_KEY_TYPE_INCONSISTENT},
		"public key":            {mechanismOf(CKM_RSA_PKCS), public, nil, CKR_KEY_FUNCTION_NOT_PERMITTED},
		"no key":                {mechanismOf(CKM_RSA_PKCS), 42, nil, CKR_KEY_HANDLE_INVALID},
		"parameter of none":     {mechanismOf(CKM_RSA_PKCS, 1), private, nil, CKR_MECHANISM_PARAM_INVALID},
		"PSS without parameter": {mechanismOf(CKM_RSA_PKCS_PSS), private, nil, CKR_MECHANISM_PARAM_INVALID},
		"PSS short parameter":   {mechanismOf(CKM_RSA_PKCS_PSS, uint64(CKM_SHA256), 2), private, nil, CKR_MECHANISM_PARAM_INVALID},
		"PSS of two hashes":     {mechanismOf(CKM_RSA_PKCS_PSS, uint64(CKM_SHA256), CKG_MGF1_SHA1, 32), private, nil, CKR_MECHANISM_PARAM_INVALID},
		"PSS of another hash":   {mechanismOf(CKM_SHA256_RSA_PKCS_PSS, uint64(CKM_SHA384), CKG_MGF1_SHA384, 48), private, nil, CKR_MECHANISM_PARAM_INVALID},
		"PSS salt too long":     {mechanismOf(CKM_RSA_PKCS_PSS, uint64(CKM_SHA256), CKG_MGF1_SHA256, 1<<40), private, nil, CKR_MECHANISM_PARAM_INVALID},
		"PSS digest too short":  {mechanismOf(CKM_RSA_PKCS_PSS, uint64(CKM_SHA256), CKG_MGF1_SHA256, 32), private, make([]byte, 20), CKR_DATA_LEN_RANGE},
		"PSS salt of any size":  {mechanismOf(CKM_RSA_PKCS_PSS, uint64(CKM_SHA256), CKG_MGF1_SHA256, 20), private, make([]byte, 32), CKR_KEY_FUNCTION_NOT_PERMITTED},
		"message too long":      {mechanismOf(CKM_RSA_PKCS), private, make([]byte, 246), CKR_DATA_LEN_RANGE},
	} {
		if _, err := w.sign(s, c.mechanism, c.key, c.data); RVOf(err) != c.want {
			t.Errorf("%s: %v (%v), want %v", name, RVOf(err), err, c.want)
		}
	}
	w.refused(w.DecryptInit(s, mechanismOf(CKM_RSA_PKCS_OAEP, uint64(CKM_SHA256), CKG_MGF1_SHA256, 1, ^uint64(0)), private), CKR_KEY_FUNCTION_NOT_PERMITTED)
	w.refused(w.EncryptInit(s, mechanismOf(CKM_RSA_PKCS), public), CKR_KEY_FUNCTION_NOT_PERMITTED)
}

// What a key cannot do is told before there is anything to sign.
func TestPSSIsRefusedWhenItBegins(t *testing.T) {
	t.Parallel()
	pss := func(hash MechanismType, mgf, salt uint64) Mechanism {
		return mechanismOf(CKM_RSA_PKCS_PSS, uint64(hash), mgf, salt)
	}
	w, s, private, public, _ := rsaWorld(t, provider.Use{Sign: true})
	for _, salt := range []uint64{0, 20, 222} {
		w.refused(w.SignInit(s, pss(CKM_SHA256, CKG_MGF1_SHA256, salt), private), CKR_KEY_FUNCTION_NOT_PERMITTED)
	}
	w.refused(w.SignInit(s, pss(CKM_SHA_1, CKG_MGF1_SHA1, 20), private), CKR_MECHANISM_PARAM_INVALID)
	w.refused(w.VerifyInit(s, pss(CKM_SHA256, CKG_MGF1_SHA256, 0), public), CKR_MECHANISM_PARAM_INVALID)
	w.must(w.VerifyInit(s, pss(CKM_SHA_1, CKG_MGF1_SHA1, 20), public))

	w, s, private, public, _ = rsaWorld(t, provider.Use{Sign: true, Decrypt: true})
	digest := make([]byte, 32)
	_, err := w.sign(s, pss(CKM_SHA256, CKG_MGF1_SHA256, 0), private, digest)
	w.must(err)
	signature, err := w.sign(s, pss(CKM_SHA256, CKG_MGF1_SHA256, 20), private, digest)
	w.must(err)
	w.must(w.VerifyInit(s, pss(CKM_SHA256, CKG_MGF1_SHA256, 20), public))
	w.must(w.Verify(s, digest, signature))
}

// A key made elsewhere may have one scheme and hash, which its area tells.
func TestKeysOfOneScheme(t *testing.T) {
	t.Parallel()
	key := func(scheme tpm2.TPMAlgID, sign, decrypt bool) *object {
		return &object{
			public: strangersKey(t), entry: keystore.Entry{Label: "one"},
			tpm: &use{Use: keyuse.Use{Sign: sign, Decrypt: decrypt, Scheme: scheme, Hash: crypto.SHA256}},
		}
	}
	signs, opens := key(tpm2.TPMAlgRSAPSS, true, false), key(tpm2.TPMAlgOAEP, false, true)
	label := func(text string) []byte { return append(numbers(CKZ_DATA_SPECIFIED, uint64(len(text))), text...) }
	for _, c := range []struct {
		name      string
		o         *object
		id        MechanismType
		how       Flags
		parameter []byte
		want      RV
	}{
		{"its hash", signs, CKM_RSA_PKCS_PSS, CKF_SIGN, numbers(uint64(CKM_SHA256), CKG_MGF1_SHA256, 32), CKR_OK},
		{"another hash", signs, CKM_RSA_PKCS_PSS, CKF_SIGN, numbers(uint64(CKM_SHA384), CKG_MGF1_SHA384, 48), CKR_MECHANISM_PARAM_INVALID},
		{"no label", opens, CKM_RSA_PKCS_OAEP, CKF_DECRYPT, append(numbers(uint64(CKM_SHA256), CKG_MGF1_SHA256), label("")...), CKR_OK},
		{"a label of the TPM's kind", opens, CKM_RSA_PKCS_OAEP, CKF_DECRYPT, append(numbers(uint64(CKM_SHA256), CKG_MGF1_SHA256), label("l\x00")...), CKR_OK},
		{"another label", opens, CKM_RSA_PKCS_OAEP, CKF_DECRYPT, append(numbers(uint64(CKM_SHA256), CKG_MGF1_SHA256), label("l")...), CKR_MECHANISM_PARAM_INVALID},
		{"OAEP with another hash", opens, CKM_RSA_PKCS_OAEP, CKF_DECRYPT, append(numbers(uint64(CKM_SHA_1), CKG_MGF1_SHA1), label("")...), CKR_MECHANISM_PARAM_INVALID},
	} {
		row, err := mechanisms.find(c.id, c.how)
		if err != nil {
			t.Fatal(err)
		}
		if row.sign != nil {
			_, err = row.sign(row, c.how, c.o, parameter{rest: c.parameter})
		} else {
			_, err = row.cipher(row, c.how, c.o, parameter{rest: c.parameter})
		}
		if RVOf(err) != c.want {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

func TestSizeQueriesNeverReachTheTPM(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.make(ecKey("web"))
	s := w.session(false)
	key := w.one(s, CKO_PRIVATE_KEY)
	w.must(w.SignInit(s, mechanismOf(CKM_ECDSA), key))
	n := w.commands(func() {
		out := Output{Query: true}
		w.must(w.Sign(s, make([]byte, 32), &out))
		if length, _ := out.Result(); length != 64 {
			t.Errorf("length %d", length)
		}
		out = Output{Capacity: 63}
		w.refused(w.Sign(s, make([]byte, 32), &out), CKR_BUFFER_TOO_SMALL)
		if length, data := out.Result(); length != 64 || data != nil {
			t.Errorf("length %d, %d bytes", length, len(data))
		}
	})
	if n != 0 {
		t.Errorf("%d TPM commands", n)
	}
	out := Output{Capacity: 64}
	w.must(w.Sign(s, make([]byte, 32), &out))
	if _, data := out.Result(); len(data) != 64 {
		t.Errorf("a signature of %d bytes", len(data))
	}
	w.refused(w.Sign(s, make([]byte, 32), &Output{Query: true}), CKR_OPERATION_NOT_INITIALIZED)
}

func TestSigningInParts(t *testing.T) {
	t.Parallel()
	w := open(t)
	entry := w.make(ecKey("web"))
	public, err := entry.Object.Public.Key()
	w.must(err)
	s := w.session(false)
	private := w.one(s, CKO_PRIVATE_KEY)
	w.must(w.SignInit(s, mechanismOf(CKM_ECDSA_SHA256), private))
	w.refused(w.SignInit(s, mechanismOf(CKM_ECDSA_SHA256), private), CKR_OPERATION_ACTIVE)
	w.must(w.SignUpdate(s, []byte("in ")))
	w.must(w.SignUpdate(s, []byte("parts")))
	w.must(w.SignFinal(s, &Output{Query: true}))
	out := Output{Capacity: 100}
	w.must(w.SignFinal(s, &out))
	_, signature := out.Result()
	digest := sha256.Sum256([]byte("in parts"))
	r, v := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
	if !ecdsa.Verify(public.(*ecdsa.PublicKey), digest[:], r, v) {
		t.Error("the signature does not verify")
	}

	check := w.one(s, CKO_PUBLIC_KEY)
	w.must(w.VerifyInit(s, mechanismOf(CKM_ECDSA_SHA256), check))
	w.must(w.VerifyUpdate(s, []byte("in parts")))
	w.must(w.VerifyFinal(s, signature))
	w.must(w.VerifyInit(s, mechanismOf(CKM_ECDSA_SHA256), check))
	w.must(w.VerifyUpdate(s, []byte("in other parts")))
	w.refused(w.VerifyFinal(s, signature), CKR_SIGNATURE_INVALID)

	w.must(w.SignInit(s, mechanismOf(CKM_ECDSA_SHA256), private))
	w.must(w.SignUpdate(s, []byte("in ")))
	w.refused(w.Sign(s, []byte("parts"), &Output{Capacity: 64}), CKR_OPERATION_ACTIVE)
	w.refused(w.SignUpdate(s, nil), CKR_OPERATION_NOT_INITIALIZED)
	w.refused(w.SignFinal(s, &Output{Capacity: 64}), CKR_OPERATION_NOT_INITIALIZED)

	w.must(w.SignInit(s, mechanismOf(CKM_ECDSA), private))
	w.must(w.SignUpdate(s, make([]byte, rawECDSALimit)))
	w.refused(w.SignUpdate(s, []byte{1}), CKR_DATA_LEN_RANGE)
	w.refused(w.SignFinal(s, &Output{Capacity: 64}), CKR_OPERATION_NOT_INITIALIZED)
}

func TestECDSATakesTheLeftmostBits(t *testing.T) {
	t.Parallel()
	w := open(t)
	entry := w.make(ecKey("web"))
	public, err := entry.Object.Public.Key()
	w.must(err)
	s := w.session(false)
	private, check := w.one(s, CKO_PRIVATE_KEY), w.one(s, CKO_PUBLIC_KEY)
	data := bytes.Repeat([]byte{0xa5, 1, 7}, 100)
	for _, n := range []int{1, 20, 27, 28, 32, 33, 48, 64, 65, 300} {
		signature, err := w.sign(s, mechanismOf(CKM_ECDSA), private, data[:n])
		w.must(err)
		r, v := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
		if !ecdsa.Verify(public.(*ecdsa.PublicKey), data[:n], r, v) {
			t.Errorf("%d bytes: the signature does not verify", n)
		}
		w.must(w.VerifyInit(s, mechanismOf(CKM_ECDSA), check))
		w.must(w.Verify(s, data[:n], signature))
	}
	for _, m := range []MechanismType{CKM_ECDSA_SHA256, CKM_ECDSA_SHA384, CKM_ECDSA_SHA512} {
		signature, err := w.sign(s, mechanismOf(m), private, data)
		w.must(err)
		w.must(w.VerifyInit(s, mechanismOf(m), check))
		w.must(w.Verify(s, data, signature))
	}
	_, err = w.sign(s, mechanismOf(CKM_ECDSA), private, nil)
	w.refused(err, CKR_DATA_LEN_RANGE)
}

func TestOAEP(t *testing.T) {
	t.Parallel()
	w, s, private, public, key := rsaWorld(t, provider.Use{Decrypt: true})
	plaintext := []byte("a data key")
	for _, c := range []struct {
		hash  MechanismType
		mgf   uint64
		alg   crypto.Hash
		label []byte
	}{
		{CKM_SHA_1, CKG_MGF1_SHA1, crypto.SHA1, nil},
		{CKM_SHA256, CKG_MGF1_SHA256, crypto.SHA256, []byte("label")},
		{CKM_SHA384, CKG_MGF1_SHA384, crypto.SHA384, []byte("label\x00")},
		{CKM_SHA512, CKG_MGF1_SHA512, crypto.SHA512, nil},
	} {
		length := uint64(len(c.label))
		m := mechanismOf(CKM_RSA_PKCS_OAEP, uint64(c.hash), c.mgf, CKZ_DATA_SPECIFIED, length)
		m.Parameter = append(m.Parameter, c.label...)
		ciphertext, err := rsa.EncryptOAEP(c.alg.New(), rand.Reader, key, plaintext, c.label)
		w.must(err)
		most := 256 - 2*c.alg.Size() - 2

		w.must(w.DecryptInit(s, m, private))
		n := w.commands(func() {
			out := Output{Query: true}
			w.must(w.Decrypt(s, ciphertext, &out))
			if told, _ := out.Result(); told != uint64(most) {
				t.Errorf("%v: length %d, want %d", c.alg, told, most)
			}
		})
		if n != 0 {
			t.Errorf("%v: %d TPM commands", c.alg, n)
		}
		small := Output{Capacity: uint64(len(plaintext)) - 1}
		w.refused(w.Decrypt(s, ciphertext, &small), CKR_BUFFER_TOO_SMALL)
		if told, given := small.Result(); told != uint64(len(plaintext)) || given != nil {
			t.Errorf("%v: a small buffer was told length %d and given %q", c.alg, told, given)
		}
		out := Output{Capacity: uint64(len(plaintext))}
		w.must(w.Decrypt(s, ciphertext, &out))
		if length, got := out.Result(); !bytes.Equal(got, plaintext) || length != uint64(len(plaintext)) {
			t.Errorf("%v: decrypted %q, length %d", c.alg, got, length)
		}

		w.must(w.EncryptInit(s, m, public))
		sealed := Output{Capacity: 256}
		w.must(w.Encrypt(s, plaintext, &sealed))
		_, ciphertext = sealed.Result()
		w.must(w.DecryptInit(s, m, private))
		out = Output{Capacity: 256}
		w.must(w.Decrypt(s, ciphertext, &out))
		if _, got := out.Result(); !bytes.Equal(got, plaintext) {
			t.Errorf("%v: there and back: %q", c.alg, got)
		}

		ciphertext[100] ^= 1
		w.must(w.DecryptInit(s, m, private))
		w.refused(w.Decrypt(s, ciphertext, &Output{Capacity: 256}), CKR_ENCRYPTED_DATA_INVALID)
		w.must(w.DecryptInit(s, m, private))
		w.refused(w.Decrypt(s, ciphertext[1:], &Output{Capacity: 256}), CKR_ENCRYPTED_DATA_LEN_RANGE)
		w.must(w.EncryptInit(s, m, public))
		w.refused(w.Encrypt(s, make([]byte, most+1), &Output{Capacity: 256}), CKR_DATA_LEN_RANGE)
	}
	none := ^uint64(0)
	for name, m := range map[string]Mechanism{
		"two hashes":     mechanismOf(CKM_RSA_PKCS_OAEP, uint64(CKM_SHA256), CKG_MGF1_SHA1, 1, none),
		"no hash":        mechanismOf(CKM_RSA_PKCS_OAEP, 0, 0, 1, none),
		"unknown source": mechanismOf(CKM_RSA_PKCS_OAEP, uint64(CKM_SHA256), CKG_MGF1_SHA256, 7, none),
		"label cut off":  mechanismOf(CKM_RSA_PKCS_OAEP, uint64(CKM_SHA256), CKG_MGF1_SHA256, 1, 5),
		"label too long": mechanismOf(CKM_RSA_PKCS_OAEP, uint64(CKM_SHA256), CKG_MGF1_SHA256, 1, none-1),
		"a huge label":   {CKM_RSA_PKCS_OAEP, append(numbers(uint64(CKM_SHA256), CKG_MGF1_SHA256, 1, maxOAEPLabel+1), make([]byte, maxOAEPLabel+1)...)},
		"no parameter":   mechanismOf(CKM_RSA_PKCS_OAEP),
	} {
		if err := w.DecryptInit(s, m, private); RVOf(err) != CKR_MECHANISM_PARAM_INVALID {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.refused(w.DecryptInit(s, mechanismOf(CKM_RSA_PKCS), private), CKR_MECHANISM_INVALID)
	w.refused(w.SignInit(s, mechanismOf(CKM_RSA_PKCS), private), CKR_KEY_FUNCTION_NOT_PERMITTED)
	if strings.Contains(w.log.String(), string(plaintext)) {
		t.Error("the log holds the plaintext")
	}
	// Nothing is encrypted to a key of the token that it will not decrypt; others' keys are their own affair.
	w.refused(w.EncryptInit(s, mechanismOf(CKM_RSA_PKCS), public), CKR_MECHANISM_INVALID)
	if allowed := w.attribute(s, public, CKA_ALLOWED_MECHANISMS); !bytes.Equal(allowed, ulong(uint64(CKM_RSA_PKCS_OAEP))) {
		t.Errorf("allowed mechanisms %x", allowed)
	}
	theirs, err := w.CreateObject(s, []Attribute{class(CKO_PUBLIC_KEY), {CKA_KEY_TYPE, ulong(CKK_RSA)}, {CKA_MODULUS, key.N.Bytes()}, {CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}}})
	w.must(err)
	w.must(w.EncryptInit(s, mechanismOf(CKM_RSA_PKCS), theirs))
	out := Output{Capacity: 256}
	w.must(w.Encrypt(s, plaintext, &out))
	if _, c := out.Result(); len(c) != 256 {
		t.Errorf("a ciphertext of %d bytes", len(c))
	}
}

func TestDigestsAreSoftware(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(false)
	n := w.commands(func() {
		w.must(w.DigestInit(s, mechanismOf(CKM_SHA384)))
		w.refused(w.DigestInit(s, mechanismOf(CKM_SHA384)), CKR_OPERATION_ACTIVE)
		w.must(w.DigestUpdate(s, []byte("ab")))
		w.must(w.DigestUpdate(s, []byte("c")))
		w.must(w.DigestFinal(s, &Output{Query: true}))
		w.refused(w.DigestFinal(s, &Output{Capacity: 47}), CKR_BUFFER_TOO_SMALL)
		out := Output{Capacity: 48}
		w.must(w.DigestFinal(s, &out))
		want := sha512.Sum384([]byte("abc"))
		if _, got := out.Result(); !bytes.Equal(got, want[:]) {
			t.Errorf("%x", got)
		}
		w.refused(w.DigestUpdate(s, nil), CKR_OPERATION_NOT_INITIALIZED)
		w.must(w.DigestInit(s, mechanismOf(CKM_SHA256)))
		out = Output{Capacity: 48}
		w.must(w.Digest(s, []byte("abc"), &out))
		want2 := sha256.Sum256([]byte("abc"))
		if _, got := out.Result(); !bytes.Equal(got, want2[:]) {
			t.Errorf("%x", got)
		}
		w.refused(w.DigestInit(s, mechanismOf(CKM_SHA256, 1)), CKR_MECHANISM_PARAM_INVALID)
		w.refused(w.DigestInit(s, mechanismOf(CKM_ECDSA)), CKR_MECHANISM_INVALID)
	})
	if n != 0 {
		t.Errorf("%d TPM commands", n)
	}
}

func TestVerifyingWithAKeyFromElsewhere(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(false)
	signer, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	w.must(err)
	material, err := keyMaterial(&signer.PublicKey)
	w.must(err)
	template := []Attribute{class(CKO_PUBLIC_KEY), {CKA_KEY_TYPE, ulong(CKK_EC)}, {CKA_EC_PARAMS, material[CKA_EC_PARAMS]}, {CKA_EC_POINT, material[CKA_EC_POINT]}, label("theirs")}
	key, err := w.CreateObject(s, template)
	w.must(err)
	if key&sessionObjectBit == 0 {
		t.Errorf("handle 0x%x", key)
	}
	digest := sha512.Sum384([]byte("signed elsewhere"))
	r, v, err := ecdsa.Sign(rand.Reader, signer, digest[:])
	w.must(err)
	signature := append(r.FillBytes(make([]byte, 48)), v.FillBytes(make([]byte, 48))...)
	w.must(w.VerifyInit(s, mechanismOf(CKM_ECDSA_SHA384), key))
	w.must(w.Verify(s, []byte("signed elsewhere"), signature))
	w.refused(w.SignInit(s, mechanismOf(CKM_ECDSA_SHA384), key), CKR_KEY_FUNCTION_NOT_PERMITTED)

	other := w.session(false)
	if got := w.one(other, CKO_PUBLIC_KEY, label("theirs")); got != key {
		t.Errorf("another session finds %x", got)
	}
	w.must(w.SetAttributeValue(s, key, []Attribute{label("renamed")}))
	w.one(other, CKO_PUBLIC_KEY, label("renamed"))
	w.must(w.CloseSession(s))
	if found := w.find(other); len(found) != 0 {
		t.Errorf("found %d objects of a closed session", len(found))
	}
	for name, c := range map[string]struct {
		template []Attribute
		want     RV
	}{
		"as a token object": {append(template[:4:4], onToken), CKR_TEMPLATE_INCONSISTENT},
		"no point":          {template[:3], CKR_TEMPLATE_INCOMPLETE},
		"point off curve":   {append(template[:3:3], Attribute{CKA_EC_POINT, append([]byte{4, 97, 4}, make([]byte, 96)...)}), CKR_ATTRIBUTE_VALUE_INVALID},
		"private key":       {[]Attribute{class(CKO_PRIVATE_KEY)}, CKR_TEMPLATE_INCONSISTENT},
		"no class":          {template[1:], CKR_TEMPLATE_INCOMPLETE},
		"RSA of 512 bits":   {[]Attribute{class(CKO_PUBLIC_KEY), {CKA_KEY_TYPE, ulong(CKK_RSA)}, {CKA_MODULUS, bytes.Repeat([]byte{0xff}, 64)}, {CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}}}, CKR_ATTRIBUTE_VALUE_INVALID},
	} {
		if _, err := w.CreateObject(other, c.template); RVOf(err) != c.want {
			t.Errorf("%s: %v (%v), want %v", name, RVOf(err), err, c.want)
		}
	}
}
