package keyuse

import "crypto"

// The options below ask signer for what it does not offer to everybody: package p11 gives them where a configuration lets it.

// Unpadded, as crypto.DecrypterOpts, asks for the RSA operation without padding, on k bytes less than N.
type Unpadded struct{}

// SHA1PSS, as crypto.SignerOpts, asks for RSASSA-PSS with SHA-1.
type SHA1PSS struct{ SaltLength int }

// HashFunc implements crypto.SignerOpts.
func (SHA1PSS) HashFunc() crypto.Hash { return crypto.SHA1 }
