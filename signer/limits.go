package signer

import (
	"crypto"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/provider"
)

// limits are what a key's public area lets it do.
type limits struct {
	sign, decrypt, restricted bool

	// scheme is the one scheme that the key was made for, with its hash; TPMAlgNull when each use chooses.
	scheme tpm2.TPMAlgID
	hash   crypto.Hash
}

func limitsOf(p provider.Public) limits {
	area, attributes := p.Area(), p.Attributes()
	l := limits{
		sign:       attributes.SignEncrypt,
		decrypt:    attributes.Decrypt,
		restricted: attributes.Restricted,
		scheme:     tpm2.TPMAlgNull,
	}
	var hashAlg tpm2.TPMIAlgHash
	if detail, err := area.Parameters.RSADetail(); err == nil {
		l.scheme = detail.Scheme.Scheme
		if d, err := detail.Scheme.Details.RSASSA(); err == nil {
			hashAlg = d.HashAlg
		} else if d, err := detail.Scheme.Details.RSAPSS(); err == nil {
			hashAlg = d.HashAlg
		} else if d, err := detail.Scheme.Details.OAEP(); err == nil {
			hashAlg = d.HashAlg
		}
	} else if detail, err := area.Parameters.ECCDetail(); err == nil {
		l.scheme = detail.Scheme.Scheme
		if d, err := detail.Scheme.Details.ECDSA(); err == nil {
			hashAlg = d.HashAlg
		}
	}
	if h, err := hashAlg.Hash(); err == nil {
		l.hash = h
	}
	return l
}

// allowSign tells why the TPM would refuse to sign this way, before it is asked.
func (l limits) allowSign(scheme tpm2.TPMAlgID, h crypto.Hash) error {
	switch {
	case !l.sign:
		return fmt.Errorf("%w: it was made to decrypt, not to sign: make one with `tpm2-p11 key create --use sign`", ErrWrongUse)
	case l.restricted:
		return fmt.Errorf("%w: it is a restricted key, which signs only what the TPM made itself", ErrWrongUse)
	case l.scheme != tpm2.TPMAlgNull && (l.scheme != scheme || l.hash != h):
		return fmt.Errorf("%w: it was made for %s signatures with %v only", ErrWrongUse, schemeName(l.scheme), l.hash)
	}
	return nil
}

// allowRaw tells whether the TPM grants the RSA operation without padding. A
// signature made that way still asks for a key that is meant to sign.
func (l limits) allowRaw() bool {
	return l.sign && l.decrypt && !l.restricted && l.scheme == tpm2.TPMAlgNull
}

// allowDecrypt is allowSign for OAEP.
func (l limits) allowDecrypt(h crypto.Hash) error {
	switch {
	case !l.decrypt:
		return fmt.Errorf("%w: it was made to sign, not to decrypt: make one with `tpm2-p11 key create --use decrypt`", ErrWrongUse)
	case l.restricted:
		return fmt.Errorf("%w: it is a storage key, which decrypts only what the TPM made itself", ErrWrongUse)
	case l.scheme != tpm2.TPMAlgNull && (l.scheme != tpm2.TPMAlgOAEP || l.hash != h):
		return fmt.Errorf("%w: it was made for %s with %v only", ErrWrongUse, schemeName(l.scheme), l.hash)
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
