package policy

import (
	"encoding/hex"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// UnsatisfiedError names the first PCR that keeps a policy from being met.
type UnsatisfiedError struct {
	Label string // of the object, set by whoever knows it; may be empty
	Bank  tpm2.TPMIAlgHash
	PCR   uint
	// PCRs is the whole selection where the policy knows only a digest over it: Want and Have are digests then, and PCR is
	// the first of the selection.
	PCRs       []uint
	Want, Have []byte
}

// Error: `policy "web": sha256 PCR7 is 8c10…, approved: 79d1…`.
func (e *UnsatisfiedError) Error() string {
	which, of := fmt.Sprintf("PCR%d is", e.PCR), ""
	if len(e.PCRs) > 1 {
		which = fmt.Sprintf("PCRs %s have digest", joinIndices(e.PCRs))
	} else if len(e.PCRs) == 1 {
		which = fmt.Sprintf("PCR%d has digest", e.PCR)
	}
	if e.Label != "" {
		of = fmt.Sprintf(" %q", e.Label)
	}
	return fmt.Sprintf("policy%s: %s %s %s, approved: %s", of, BankName(e.Bank), which, abbreviate(e.Have), abbreviate(e.Want))
}

// abbreviate shows the start of a hash, enough to find it in a list.
func abbreviate(b []byte) string {
	const shown = 4
	if len(b) <= shown {
		return hex.EncodeToString(b)
	}
	return hex.EncodeToString(b[:shown]) + "…"
}
