package signer

import (
	"crypto"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/internal/keyuse"
)

// limits are what a key's public area lets it do, and why not the rest.
type limits struct{ keyuse.Use }

// allowSign tells why the TPM would refuse to sign this way, before it is asked.
func (l limits) allowSign(scheme tpm2.TPMAlgID, h crypto.Hash) error {
	switch {
	case !l.Sign && scheme == tpm2.TPMAlgECDSA:
		return fmt.Errorf("%w: it was made for key agreement (derive), not to sign: make one with `tpm2-p11 key create --use sign`", ErrWrongUse)
	case !l.Sign:
		return fmt.Errorf("%w: it was made to decrypt, not to sign: make one with `tpm2-p11 key create --use sign`", ErrWrongUse)
	case l.Restricted:
		return fmt.Errorf("%w: it is a restricted key, which signs only what the TPM made itself", ErrWrongUse)
	case l.Scheme != tpm2.TPMAlgNull && (l.Scheme != scheme || l.Hash != h):
		return fmt.Errorf("%w: it was made for %s signatures with %v only", ErrWrongUse, schemeName(l.Scheme), l.Hash)
	}
	return nil
}

// allowDecrypt is allowSign for OAEP; hash 0 is for what no key is made for alone.
func (l limits) allowDecrypt(h crypto.Hash) error {
	switch {
	case !l.Decrypt:
		return fmt.Errorf("%w: it was made to sign, not to decrypt: make one with `tpm2-p11 key create --use decrypt`", ErrWrongUse)
	case l.Restricted:
		return fmt.Errorf("%w: it is a storage key, which decrypts only what the TPM made itself", ErrWrongUse)
	case l.Scheme != tpm2.TPMAlgNull && (l.Scheme != tpm2.TPMAlgOAEP || l.Hash != h):
		return fmt.Errorf("%w: it was made for %s with %v only", ErrWrongUse, schemeName(l.Scheme), l.Hash)
	}
	return nil
}

func schemeName(a tpm2.TPMAlgID) string {
	switch a {
	case tpm2.TPMAlgRSASSA:
		return "RSASSA-PKCS1-v1_5"
	case tpm2.TPMAlgRSAPSS:
		return "RSASSA-PSS"
	case tpm2.TPMAlgRSAES:
		return "RSAES-PKCS1-v1_5"
	case tpm2.TPMAlgOAEP:
		return "RSAES-OAEP"
	case tpm2.TPMAlgECDSA:
		return "ECDSA"
	}
	return fmt.Sprintf("algorithm 0x%04x", uint16(a))
}
