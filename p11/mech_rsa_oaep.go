package p11

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/signer"
)

// rsaOAEPMechanisms are RSAES-OAEP (PKCS #11 v3.1, section 6.1.8) with MGF1 of the same hash.
var rsaOAEPMechanisms = []mechanism{
	{id: CKM_RSA_PKCS_OAEP, flags: CKF_HW | CKF_DECRYPT | CKF_ENCRYPT, keys: CKK_RSA, scheme: tpm2.TPMAlgOAEP, cipher: newRSAOAEP, sizes: rsaSizes},
}

// rsaOAEP is RSAES-OAEP.
type rsaOAEP struct {
	key   *rsa.PublicKey
	h     crypto.Hash
	label []byte
}

// newRSAOAEP reads CK_RSA_PKCS_OAEP_PARAMS: hashAlg, mgf, source, the source's data.
func newRSAOAEP(m *mechanism, how Flags, o *object, p parameter) (cipher, error) {
	key, err := rsaKeyOf(o.public)
	if err != nil {
		return nil, err
	}
	alg, mgf, source, label := MechanismType(p.number()), p.number(), p.number(), p.bytes()
	if err := p.end(); err != nil {
		return nil, err
	}
	if source != CKZ_DATA_SPECIFIED && (source != 0 || len(label) != 0) {
		return nil, refuse(CKR_MECHANISM_PARAM_INVALID, "OAEP label source %d is not known", source)
	}
	if len(label) > maxOAEPLabel {
		return nil, refuse(CKR_MECHANISM_PARAM_INVALID, "an OAEP label of %d bytes: it has at most %d", len(label), maxOAEPLabel)
	}
	h, err := hashPair(alg, mgf)
	if err != nil {
		return nil, err
	}
	c := rsaOAEP{key, h, label}
	if c.limit() < 0 {
		return nil, CKR_KEY_SIZE_RANGE
	}
	if how == CKF_DECRYPT && o.tpm.Scheme != tpm2.TPMAlgNull && len(label) > 0 && bytes.IndexByte(label, 0) != len(label)-1 {
		return nil, refuse(CKR_MECHANISM_PARAM_INVALID, "key %q was made for OAEP alone: its labels end in NUL", o.entry.Label)
	}
	return c, o.fits(m.scheme, h)
}

func (c rsaOAEP) limit() int { return c.key.Size() - 2*c.h.Size() - 2 }
func (c rsaOAEP) size() int  { return c.key.Size() }

func (c rsaOAEP) encrypt(plaintext []byte) ([]byte, error) {
	return rsa.EncryptOAEP(c.h.New(), rand.Reader, c.key, plaintext, c.label)
}

func (c rsaOAEP) decrypt(ctx context.Context, key *signer.Key, ciphertext []byte) ([]byte, error) {
	return key.DecryptContext(ctx, ciphertext, &rsa.OAEPOptions{Hash: c.h, MGFHash: c.h, Label: c.label})
}
