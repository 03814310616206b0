package provider

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
)

// maxTPMLabel is the longest OAEP label that every TPM takes (TPM2B_DATA holds a TPMT_HA at least).
const maxTPMLabel = 34

// DecryptOAEP decrypts with RSAES-OAEP (RFC 8017, section 7.1). h is the hash and the MGF1 hash. label: empty, or anything (one that
// does not end in NUL needs the raw operation and is unpadded here in constant time). The ciphertext must be k bytes. Every
// bad ciphertext is the bare ErrDecrypt.
func (t *TPM) DecryptOAEP(ctx context.Context, o Object, a Auth, h crypto.Hash, label, ciphertext []byte) (*secret.Bytes, error) {
	const what = "decrypt with key"
	alg, ok := hashAlgs[h]
	if !ok {
		return nil, a.wrap(what, fmt.Errorf("%w: hash %v", ErrUnsupported, h))
	}
	scheme := put16(put16(nil, uint16(tpm2.TPMAlgOAEP)), uint16(alg))
	key, err := checkDecrypt(o.Public)
	if err != nil {
		return nil, a.wrap(what, err)
	}
	if need := 2*h.Size() + 2; key.Size() < need {
		return nil, a.wrap(what, fmt.Errorf("%w: OAEP with %v needs a key of %d bytes, it has %d", ErrWrongUse, h, need, key.Size()))
	}
	own, ownHash, err := o.Public.Scheme()
	if err != nil {
		return nil, a.wrap(what, err)
	}
	if own != tpm2.TPMAlgNull && (own != tpm2.TPMAlgOAEP || ownHash != alg || !tpmLabel(label)) {
		return nil, a.wrap(what, fmt.Errorf("%w: it has a scheme of its own (0x%04X with hash 0x%04X)", ErrWrongUse, uint16(own), uint16(ownHash)))
	}
	if !inRange(key, ciphertext) {
		return nil, ErrDecrypt
	}
	if tpmLabel(label) {
		return t.rsaDecrypt(ctx, o, a, what, scheme, label, ciphertext)
	}
	padded, err := t.rsaDecrypt(ctx, o, a, what, schemeNull, nil, ciphertext)
	if err != nil {
		return nil, err
	}
	defer padded.Wipe()
	return unpadOAEP(h, label, padded.Bytes(), key.Size())
}

// RawRSA is the RSA private operation without padding on k bytes less than N, for keys that may decrypt and have no scheme of
// their own. The input is checked first; a bad one is the bare ErrDecrypt.
func (t *TPM) RawRSA(ctx context.Context, o Object, a Auth, in []byte) (*secret.Bytes, error) {
	const what = "raw RSA with key"
	key, err := checkDecrypt(o.Public)
	if err != nil {
		return nil, a.wrap(what, err)
	}
	switch own, _, err := o.Public.Scheme(); {
	case err != nil:
		return nil, a.wrap(what, err)
	case own != tpm2.TPMAlgNull:
		return nil, a.wrap(what, fmt.Errorf("%w: it has a scheme of its own (0x%04X) and does nothing else", ErrWrongUse, uint16(own)))
	}
	if !inRange(key, in) {
		return nil, ErrDecrypt
	}
	return t.rsaDecrypt(ctx, o, a, what, schemeNull, nil, in)
}

var schemeNull = put16(nil, uint16(tpm2.TPMAlgNull))

// checkDecrypt refuses what the key cannot do before the TPM is asked.
func checkDecrypt(p Public) (*rsa.PublicKey, error) {
	key, err := p.Key()
	if err != nil {
		return nil, err
	}
	k, ok := key.(*rsa.PublicKey)
	switch attrs := p.Attributes(); {
	case !ok:
		return nil, fmt.Errorf("%w: only RSA keys decrypt (%s)", ErrWrongUse, p.Describe())
	case !attrs.Decrypt:
		return nil, fmt.Errorf("%w: it may not decrypt (%s)", ErrWrongUse, p.Describe())
	case attrs.Restricted:
		return nil, fmt.Errorf("%w: it decrypts only the TPM's own structures (%s)", ErrWrongUse, p.Describe())
	}
	return k, nil
}

// inRange tells whether b is exactly k bytes and less than N.
func inRange(key *rsa.PublicKey, b []byte) bool {
	return len(b) == key.Size() && new(big.Int).SetBytes(b).Cmp(key.N) < 0
}

// tpmLabel tells the labels that a TPM takes: none, or one that ends at its first NUL (Part 3, section 14.3).
func tpmLabel(label []byte) bool {
	return len(label) == 0 || len(label) <= maxTPMLabel && bytes.IndexByte(label, 0) == len(label)-1
}

// rsaDecrypt is TPM2_RSA_Decrypt (Part 3, section 14.3); the answer travels encrypted.
func (t *TPM) rsaDecrypt(ctx context.Context, o Object, a Auth, what string, scheme, label, ciphertext []byte) (*secret.Bytes, error) {
	var plain *secret.Bytes
	err := t.do(ctx, func(ctx context.Context, c *connection) error {
		return c.use(ctx, o, a, tpm2.TPMCCRSADecrypt, crypt{encrypt: true}, func(object entity, auths []authorization) error {
			p := put2B(nil, ciphertext)
			p = append(p, scheme...)
			p = put2B(p, label)
			r, err := c.run(ctx, command{code: tpm2.TPMCCRSADecrypt, in: []entity{object}, auths: auths, params: p})
			if isBadCiphertext(err) {
				if errors.Is(err, ErrFailure) && c.hasFailed(ctx) {
					return err
				}
				return ErrDecrypt
			}
			if err != nil {
				return err
			}
			plain, err = r.secret()
			return err
		})
	})
	switch {
	case err == ErrDecrypt:
		return nil, ErrDecrypt
	case err != nil:
		return nil, a.wrap(what, err)
	}
	return plain, nil
}

// hasFailed asks a TPM that answered TPM_RC_FAILURE whether it is in failure mode (TPM2_GetTestResult, Part 3, section 10.4).
func (c *connection) hasFailed(ctx context.Context) bool {
	r, err := c.run(ctx, command{code: tpm2.TPMCCGetTestResult})
	if err != nil {
		return errors.Is(err, ErrFailure)
	}
	r.sized() // the manufacturer's own
	return tpm2.TPMRC(r.u32()) == tpm2.TPMRCFailure
}

// isBadCiphertext tells the codes of a ciphertext that does not decrypt. TPM_RC_FAILURE is the reference code's answer
// to bad padding, not by itself the sign of a dead TPM.
func isBadCiphertext(err error) bool {
	var re *ResponseError
	if !errors.As(err, &re) || re.Command != commandNames[tpm2.TPMCCRSADecrypt] {
		return false
	}
	if baseCode(re.Code) == tpm2.TPMRCFailure {
		return true
	}
	// The reference code says which parameter it was for some bad ciphertexts, and leaves it out for others.
	for _, bad := range []tpm2.TPMRC{tpm2.TPMRCValue, tpm2.TPMRCSize} {
		if re.Code == uint32(bad) || isParameter(re.Code, bad, 1) {
			return true
		}
	}
	return false
}
