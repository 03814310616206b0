package p11

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"math/big"
	"slices"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// configure goes on as if the configuration had said so from the beginning.
func (w *world) configure(c config.Config) {
	w.t.Helper()
	w.lib.set.Config, w.lib.mechanisms = c, offered(c)
	w.lib.forget(w.lib.slots[0])
}

func (w *world) decrypted(s SessionHandle, m Mechanism, key ObjectHandle, ciphertext []byte) ([]byte, error) {
	if err := w.DecryptInit(s, m, key); err != nil {
		return nil, err
	}
	out := Output{Capacity: 1 << 12}
	err := w.Decrypt(s, ciphertext, &out)
	_, plaintext := out.Result()
	return plaintext, err
}

func (w *world) offers(s SessionHandle, key ObjectHandle, id MechanismType) bool {
	w.t.Helper()
	for listed := range slices.Chunk(w.attribute(s, key, CKA_ALLOWED_MECHANISMS), 8) {
		if bytes.Equal(listed, ulong(uint64(id))) {
			return true
		}
	}
	return false
}

func TestWhatOldApplicationsNeedIsOff(t *testing.T) {
	t.Parallel()
	w, s, private, public, key := rsaWorld(t, provider.Use{Sign: true, Decrypt: true})
	ciphertext, err := rsa.EncryptPKCS1v15(rand.Reader, key, []byte("hello"))
	w.must(err)
	list, err := w.GetMechanismList(0)
	w.must(err)
	if slices.Contains(list, CKM_RSA_X_509) {
		t.Error("CKM_RSA_X_509 is listed")
	}
	for _, id := range []MechanismType{CKM_RSA_X_509, CKM_SHA1_RSA_PKCS, CKM_SHA1_RSA_PKCS_PSS} {
		_, err := w.sign(s, mechanismOf(id), private, []byte("x"))
		w.refused(err, CKR_MECHANISM_INVALID)
		if w.offers(s, private, id) {
			t.Errorf("mechanism 0x%x is among those of the key", uint64(id))
		}
	}
	for _, id := range []MechanismType{CKM_RSA_X_509, CKM_RSA_PKCS} {
		_, err := w.decrypted(s, mechanismOf(id), private, ciphertext)
		w.refused(err, CKR_MECHANISM_INVALID)
	}
	w.refused(w.EncryptInit(s, mechanismOf(CKM_RSA_X_509), public), CKR_MECHANISM_INVALID)
	if !bytes.Contains([]byte(w.log.String()), []byte("legacy has \\\"raw-rsa\\\"")) {
		t.Errorf("the log does not say how to switch it on:\n%s", w.log)
	}
}

func TestRawRSA(t *testing.T) {
	t.Parallel()
	w, s, private, public, key := rsaWorld(t, provider.Use{Sign: true, Decrypt: true})
	w.configure(config.Config{Legacy: []string{config.RawRSA}})
	raw := mechanismOf(CKM_RSA_X_509)
	data := []byte("a number")
	whole := append(make([]byte, 256-len(data)), data...)

	signature, err := w.sign(s, raw, private, data)
	w.must(err)
	if got := new(big.Int).Exp(new(big.Int).SetBytes(signature), big.NewInt(int64(key.E)), key.N); !bytes.Equal(got.Bytes(), data) {
		t.Errorf("the signature is of % x", got.Bytes())
	}
	for _, signed := range [][]byte{data, whole} {
		w.must(w.VerifyInit(s, raw, public))
		w.must(w.Verify(s, signed, signature))
	}
	w.must(w.VerifyInit(s, raw, public))
	w.refused(w.Verify(s, []byte("another"), signature), CKR_SIGNATURE_INVALID)
	w.must(w.VerifyInit(s, raw, public))
	w.refused(w.Verify(s, data, key.N.Bytes()), CKR_SIGNATURE_INVALID)

	w.must(w.EncryptInit(s, raw, public))
	out := Output{Capacity: 256}
	w.must(w.Encrypt(s, data, &out))
	_, ciphertext := out.Result()
	plaintext, err := w.decrypted(s, raw, private, ciphertext)
	w.must(err)
	if !bytes.Equal(plaintext, whole) {
		t.Errorf("decrypted to % x", plaintext)
	}

	over := key.N.Bytes()
	_, err = w.sign(s, raw, private, over)
	w.refused(err, CKR_DATA_INVALID)
	_, err = w.decrypted(s, raw, private, over)
	w.refused(err, CKR_ENCRYPTED_DATA_INVALID)
	_, err = w.sign(s, raw, private, make([]byte, 257))
	w.refused(err, CKR_DATA_LEN_RANGE)
	_, err = w.decrypted(s, raw, private, make([]byte, 255))
	w.refused(err, CKR_ENCRYPTED_DATA_LEN_RANGE)
	_, err = w.sign(s, mechanismOf(CKM_RSA_X_509, 1), private, data)
	w.refused(err, CKR_MECHANISM_PARAM_INVALID)
	if !w.offers(s, private, CKM_RSA_X_509) {
		t.Error("the key does not list it")
	}
}

// Who signs with the bare operation decrypts, and the other way round: a client that may do one of them alone does neither so.
func TestRawRSAIsForClientsThatMaySignAndDecrypt(t *testing.T) {
	t.Parallel()
	w, _, private, _, _ := rsaWorld(t, provider.Use{Sign: true, Decrypt: true})
	raw := mechanismOf(CKM_RSA_X_509)
	for _, c := range []struct {
		purposes []string
		want     RV
	}{
		{[]string{"sign"}, CKR_KEY_FUNCTION_NOT_PERMITTED},
		{[]string{"decrypt"}, CKR_KEY_FUNCTION_NOT_PERMITTED},
		{[]string{"sign", "decrypt"}, CKR_OK},
	} {
		guard := func(_, _, purpose string) bool { return slices.Contains(c.purposes, purpose) }
		client := w.client(nil, guard)
		client.configure(config.Config{Legacy: []string{config.RawRSA}})
		s := client.session(false)
		for name, err := range map[string]error{
			"signs":          second(client.sign(s, raw, private, []byte("a number"))),
			"signs messages": client.MessageSignInit(s, raw, private),
			"decrypts":       second(client.decrypted(s, raw, private, append(make([]byte, 255), 2))),
		} {
			if RVOf(err) != c.want {
				t.Errorf("who may %q %s: %v, want %v", c.purposes, name, err, c.want)
			}
		}
	}
}

// Whoever could use a key bare would need neither its policy nor KMS.
func TestRawRSAIsNotForKeysThatAreBound(t *testing.T) {
	t.Parallel()
	w, s, private, public, _ := rsaWorld(t, provider.Use{Sign: true, Decrypt: true})
	bare := func(private, public ObjectHandle) {
		t.Helper()
		_, err := w.sign(s, mechanismOf(CKM_RSA_X_509), private, []byte("x"))
		w.refused(err, CKR_MECHANISM_INVALID)
		_, err = w.decrypted(s, mechanismOf(CKM_RSA_X_509), private, make([]byte, 256))
		w.refused(err, CKR_MECHANISM_INVALID)
		w.refused(w.EncryptInit(s, mechanismOf(CKM_RSA_X_509), public), CKR_MECHANISM_INVALID)
		if w.offers(s, private, CKM_RSA_X_509) {
			t.Error("a bound key lists it")
		}
	}
	w.configure(config.Config{Legacy: []string{config.RawRSA}, KMS: config.KMS{Line: 1}})
	bare(private, public)

	w.configure(config.Config{Legacy: []string{config.RawRSA}})
	made, err := rsa.GenerateKey(rand.Reader, 2048)
	w.must(err)
	bound, err := policy.Parse("sha256:16")
	w.must(err)
	_, err = w.token.ImportKey(context.Background(), made, keystore.KeySpec{Label: "bound", Use: provider.Use{Sign: true, Decrypt: true}, Wrapped: true, Policy: bound, NoPIN: true, Force: true})
	w.must(err)
	bare(w.one(s, CKO_PRIVATE_KEY, label("bound")), w.one(s, CKO_PUBLIC_KEY, label("bound")))

	made, err = rsa.GenerateKey(rand.Reader, 2048)
	w.must(err)
	_, err = w.token.ImportKey(context.Background(), made, keystore.KeySpec{Label: "signs", Use: provider.Use{Sign: true}, Wrapped: true})
	w.must(err)
	_, err = w.sign(s, mechanismOf(CKM_RSA_X_509), w.one(s, CKO_PRIVATE_KEY, label("signs")), []byte("x")) // it is a decryption to the TPM
	w.refused(err, CKR_MECHANISM_INVALID)
}

func TestSHA1SignaturesWhereTheConfigurationSaysSo(t *testing.T) {
	t.Parallel()
	w, s, private, public, key := rsaWorld(t, provider.Use{Sign: true})
	w.make(keystore.KeySpec{Label: "ec", Type: provider.P256, Use: provider.Use{Sign: true}, Wrapped: true})
	w.configure(config.Config{Legacy: []string{config.SHA1Signatures}})
	text := []byte("what is signed")
	sum := sha1.Sum(text)
	ec, ecPublic := w.one(s, CKO_PRIVATE_KEY, label("ec")), w.one(s, CKO_PUBLIC_KEY, label("ec"))
	ecKey, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), w.attribute(s, ecPublic, CKA_EC_POINT)[2:])
	w.must(err)
	for name, c := range map[string]struct {
		mechanism       Mechanism
		private, public ObjectHandle
		good            func(signature []byte) bool
	}{
		"PKCS #1": {mechanismOf(CKM_SHA1_RSA_PKCS), private, public, func(b []byte) bool { return rsa.VerifyPKCS1v15(key, crypto.SHA1, sum[:], b) == nil }},
		"PSS": {mechanismOf(CKM_SHA1_RSA_PKCS_PSS, uint64(CKM_SHA_1), CKG_MGF1_SHA1, 20), private, public, func(b []byte) bool {
			return rsa.VerifyPSS(key, crypto.SHA1, sum[:], b, &rsa.PSSOptions{SaltLength: 20}) == nil
		}},
		"ECDSA": {mechanismOf(CKM_ECDSA_SHA1), ec, ecPublic, func(b []byte) bool {
			return ecdsa.Verify(ecKey, sum[:], new(big.Int).SetBytes(b[:32]), new(big.Int).SetBytes(b[32:]))
		}},
	} {
		signature, err := w.sign(s, c.mechanism, c.private, text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !c.good(signature) {
			t.Errorf("%s: the signature is not good", name)
		}
		w.must(w.VerifyInit(s, c.mechanism, c.public))
		w.must(w.Verify(s, text, signature))
	}
	_, err = w.sign(s, mechanismOf(CKM_RSA_PKCS_PSS, uint64(CKM_SHA_1), CKG_MGF1_SHA1, 20), private, sum[:])
	w.refused(err, CKR_MECHANISM_PARAM_INVALID) // who has only a digest is not helped
}

func TestPKCS1DecryptionTellsNothing(t *testing.T) {
	t.Parallel()
	w, s, private, public, key := rsaWorld(t, provider.Use{Decrypt: true})
	w.configure(config.Config{Legacy: []string{config.PKCS1Decryption}})
	pkcs := mechanismOf(CKM_RSA_PKCS)
	w.must(w.EncryptInit(s, pkcs, public))
	out := Output{Capacity: 256}
	w.must(w.Encrypt(s, []byte("hello"), &out))
	_, ciphertext := out.Result()
	message, err := w.decrypted(s, pkcs, private, ciphertext)
	w.must(err)
	if string(message) != "hello" {
		t.Errorf("decrypted to %q", message)
	}

	// What was changed on its way gives a message, and the same one each time, in each session, after a new start too.
	log := len(w.log.String())
	bad := bytes.Clone(ciphertext)
	bad[200] ^= 1
	first, err := w.decrypted(s, pkcs, private, bad)
	w.must(err)
	var commands [2]int
	for i, c := range [][]byte{ciphertext, bad} {
		commands[i] = w.commands(func() { _, err = w.decrypted(s, pkcs, private, c) })
		w.must(err)
	}
	if commands[0] != commands[1] {
		t.Errorf("a good ciphertext takes %d commands, a bad one %d", commands[0], commands[1])
	}
	again, err := w.decrypted(w.session(false), pkcs, private, bad)
	w.must(err)
	if !bytes.Equal(first, again) || string(first) == "hello" {
		t.Errorf("one ciphertext is % x and then % x", first, again)
	}
	if said := w.log.String()[log:]; bytes.Contains([]byte(said), []byte("WARN")) {
		t.Errorf("the log tells of it:\n%s", said)
	}

	// A buffer that is too small is told how much it takes, as with any message.
	w.must(w.DecryptInit(s, pkcs, private))
	small := Output{Capacity: uint64(max(1, len(first))) - 1}
	if len(first) > 0 {
		w.refused(w.Decrypt(s, bad, &small), CKR_BUFFER_TOO_SMALL)
	}
	room := Output{Capacity: 256}
	w.must(w.Decrypt(s, bad, &room))
	if _, got := room.Result(); !bytes.Equal(got, first) {
		t.Errorf("then it is % x", got)
	}
	_, err = w.decrypted(s, pkcs, private, ciphertext[1:])
	w.refused(err, CKR_ENCRYPTED_DATA_LEN_RANGE)
	_, err = w.decrypted(s, pkcs, private, key.N.Bytes())
	w.refused(err, CKR_ENCRYPTED_DATA_INVALID)
	if !w.offers(s, private, CKM_RSA_PKCS) || !w.offers(s, public, CKM_RSA_PKCS) {
		t.Error("the key does not list it")
	}
}
