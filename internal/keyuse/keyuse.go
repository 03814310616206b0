// Package keyuse reads from a key's public area what the TPM will do with the key, so that a use which it would refuse
// is refused before it is asked. It never talks to a TPM.
package keyuse

import (
	"crypto"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/provider"
)

// Use is what a public area lets be done (TPM 2.0 Library Part 2, sections 8.3 and 12.2).
type Use struct {
	Sign, Decrypt bool
	Restricted    bool // it works on the TPM's own structures only

	// Scheme is the one scheme that the key was made for, with its hash; TPMAlgNull when each use chooses.
	Scheme tpm2.TPMAlgID
	Hash   crypto.Hash
}

// Of reads a public area. What cannot be read may do nothing.
func Of(p provider.Public) Use {
	scheme, hash, err := p.Scheme()
	if err != nil {
		return Use{Scheme: tpm2.TPMAlgNull}
	}
	attributes := p.Attributes()
	u := Use{
		Sign:       attributes.SignEncrypt,
		Decrypt:    attributes.Decrypt,
		Restricted: attributes.Restricted,
		Scheme:     scheme,
	}
	if scheme != tpm2.TPMAlgNull {
		if h, err := hash.Hash(); err == nil {
			u.Hash = h
		}
	}
	return u
}

// Raw tells whether the TPM grants the RSA operation without padding (TPM2_RSA_Decrypt with TPM_ALG_NULL, Part 3, section
// 14.3) to whoever would sign: a signature made that way still asks for a key that is meant to sign.
func (u Use) Raw() bool { return u.Sign && u.Decrypt && !u.Restricted && u.Scheme == tpm2.TPMAlgNull }

// Fits tells whether the key may be used with a scheme; hash 0 is for a scheme that leaves the hash open.
func (u Use) Fits(scheme tpm2.TPMAlgID, hash crypto.Hash) bool {
	return u.Scheme == tpm2.TPMAlgNull || u.Scheme == scheme && (hash == 0 || hash == u.Hash)
}
