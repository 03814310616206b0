package main

import (
	"bytes"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/provider"
)

// isSRK tells whether an object looks like a storage root key: the template of the TSS2 key format or the TCG's, RSA or ECC.
func isSRK(p provider.Public) bool {
	for _, template := range []tpm2.TPMTPublic{tpm2.ECCSRKTemplate, tpm2.RSASRKTemplate} {
		area := p.Area()
		if area.Type != template.Type {
			continue
		}
		// The unique field is the key itself; the rest is the template.
		area.Unique = template.Unique
		if bytes.Equal(tpm2.Marshal(area), tpm2.Marshal(template)) {
			return true
		}
	}
	return false
}
