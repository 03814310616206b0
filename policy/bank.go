package policy

import (
	"crypto"
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// banks are the PCR banks known by name. Policies take all but sha1.
var banks = []struct {
	name string
	alg  tpm2.TPMIAlgHash
	size int
}{
	{"sha1", tpm2.TPMAlgSHA1, crypto.SHA1.Size()},
	{"sha256", tpm2.TPMAlgSHA256, crypto.SHA256.Size()},
	{"sha384", tpm2.TPMAlgSHA384, crypto.SHA384.Size()},
	{"sha512", tpm2.TPMAlgSHA512, crypto.SHA512.Size()},
}

// BankName is the name of a hash as TPM tools write it ("sha256"), or its number ("0x0012") for one without a name here.
func BankName(h tpm2.TPMIAlgHash) string {
	for _, b := range banks {
		if b.alg == h {
			return b.name
		}
	}
	return fmt.Sprintf("0x%04x", uint16(h))
}

// ParseBank reads a bank's name: sha1, sha256, sha384 or sha512.
func ParseBank(s string) (tpm2.TPMIAlgHash, error) {
	var names []string
	for _, b := range banks {
		if b.name == s {
			return b.alg, nil
		}
		names = append(names, b.name)
	}
	return 0, fmt.Errorf("%w: unknown PCR bank %q (known: %s)", ErrInvalid, s, strings.Join(names, ", "))
}

// policyBank is the size of a bank's values in bytes, if policies may use the bank.
func policyBank(h tpm2.TPMIAlgHash) (size int, err error) {
	if h == tpm2.TPMAlgSHA1 {
		return 0, fmt.Errorf("%w: sha1 PCRs can be forged and bind nothing: use sha256 or sha384", ErrInvalid)
	}
	for _, b := range banks {
		if b.alg == h {
			return b.size, nil
		}
	}
	return 0, fmt.Errorf("%w: unknown PCR bank %s", ErrInvalid, BankName(h))
}
