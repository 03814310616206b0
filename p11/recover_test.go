package p11

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/provider"
)

// A signature gives back what was signed, by the token's key and by one that came from elsewhere.
func TestSignaturesThatHoldTheirData(t *testing.T) {
	t.Parallel()
	w, s, private, public, key := rsaWorld(t, provider.Use{Sign: true})
	pkcs := mechanismOf(CKM_RSA_PKCS)
	data := digestInfo([32]byte{1, 2, 3})
	w.must(w.SignRecoverInit(s, pkcs, private))
	w.refused(w.SignRecoverInit(s, pkcs, private), CKR_OPERATION_ACTIVE)
	if n := w.commands(func() {
		w.must(w.SignRecover(s, data, &Output{Query: true}))
		w.refused(w.SignRecover(s, data, &Output{Capacity: 255}), CKR_BUFFER_TOO_SMALL)
	}); n != 0 {
		t.Errorf("asking for the length took %d commands", n)
	}
	out := Output{Capacity: 256}
	w.must(w.SignRecover(s, data, &out))
	_, signature := out.Result()
	w.refused(w.SignRecover(s, data, &out), CKR_OPERATION_NOT_INITIALIZED)

	imported, err := w.CreateObject(s, []Attribute{class(CKO_PUBLIC_KEY), {CKA_KEY_TYPE, ulong(CKK_RSA)}, {CKA_MODULUS, key.N.Bytes()}, {CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}}})
	w.must(err)
	for _, o := range []ObjectHandle{public, imported} {
		w.must(w.VerifyRecoverInit(s, pkcs, o))
		w.must(w.VerifyRecover(s, signature, &Output{Query: true}))
		w.refused(w.VerifyRecover(s, signature, &Output{Capacity: 5}), CKR_BUFFER_TOO_SMALL)
		room := Output{Capacity: 256}
		w.must(w.VerifyRecover(s, signature, &room))
		if _, got := room.Result(); !bytes.Equal(got, data) {
			t.Errorf("recovered % x", got)
		}
		w.refused(w.VerifyRecover(s, signature, &room), CKR_OPERATION_NOT_INITIALIZED)
	}

	bent := bytes.Clone(signature)
	bent[100] ^= 1
	encrypted, err := rsa.EncryptPKCS1v15(rand.Reader, key, data)
	w.must(err)
	for name, c := range map[string]struct {
		signature []byte
		want      RV
	}{
		"changed":        {bent, CKR_SIGNATURE_INVALID},
		"no signature":   {encrypted, CKR_SIGNATURE_INVALID},
		"as the modulus": {key.N.Bytes(), CKR_SIGNATURE_INVALID},
		"of zeros":       {make([]byte, 256), CKR_SIGNATURE_INVALID},
		"too short":      {signature[1:], CKR_SIGNATURE_LEN_RANGE},
	} {
		w.must(w.VerifyRecoverInit(s, pkcs, public))
		room := Output{Capacity: 256}
		if err := w.VerifyRecover(s, c.signature, &room); RVOf(err) != c.want {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		w.refused(w.VerifyRecover(s, signature, &room), CKR_OPERATION_NOT_INITIALIZED)
	}
	w.must(w.VerifyRecoverInit(s, pkcs, public))
	w.must(w.SessionCancel(s, CKF_VERIFY_RECOVER))
	w.refused(w.VerifyRecover(s, signature, &out), CKR_OPERATION_NOT_INITIALIZED)
	w.refused(w.SignRecoverInit(s, mechanismOf(CKM_SHA256_RSA_PKCS), private), CKR_MECHANISM_INVALID)
	w.refused(w.SignRecoverInit(s, pkcs, public), CKR_KEY_FUNCTION_NOT_PERMITTED)
	w.must(w.SignRecoverInit(s, pkcs, private))
	w.refused(w.SignRecover(s, make([]byte, 246), &out), CKR_DATA_LEN_RANGE)
}
