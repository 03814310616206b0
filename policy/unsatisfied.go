package policy

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// UnsatisfiedError names the first node that keeps a policy from being met, what it wants and what the TPM has.
type UnsatisfiedError struct {
	Label string // of the object, set by whoever knows it; may be empty
	Node  Node   // what is not met; never an All
	// Bank, PCR, Want and Have are of a PCR node.
	Bank tpm2.TPMIAlgHash
	PCR  uint
	// PCRs is the whole selection where the policy knows only a digest over it: Want and Have are digests then, and PCR is
	// the first of the selection.
	PCRs       []uint
	Want, Have []byte
	// Branches are of an Any: why each of them is not met.
	Branches []Branch
	// Wants and Has are of any other node, in words.
	Wants, Has string
}

// Branch is one that is not met.
type Branch struct {
	Name string // "" for one that has none
	Err  error  // an *UnsatisfiedError, or one about a bank that is not active
}

// Error: `policy "web": sha256 PCR7 is 8c10…, approved: 79d1…`.
func (e *UnsatisfiedError) Error() string {
	of := ""
	if e.Label != "" {
		of = fmt.Sprintf(" %q", e.Label)
	}
	return "policy" + of + ": " + e.cause()
}

func (e *UnsatisfiedError) cause() string {
	switch {
	case len(e.Branches) > 0:
		return e.noBranch()
	case e.Want == nil:
		return fmt.Sprintf("%s, approved: %s", e.Has, e.Wants)
	}
	return fmt.Sprintf("%s, approved: %s", e.has(), abbreviate(e.Want))
}

// has is what PCRs are.
func (e *UnsatisfiedError) has() string {
	which := fmt.Sprintf("PCR%d is", e.PCR)
	if len(e.PCRs) > 1 {
		which = fmt.Sprintf("PCRs %s have digest", joinIndices(e.PCRs))
	} else if len(e.PCRs) == 1 {
		which = fmt.Sprintf("PCR%d has digest", e.PCR)
	}
	return fmt.Sprintf("%s %s %s", BankName(e.Bank), which, abbreviate(e.Have))
}

// noBranch says why no branch is met: in one breath where it is the same PCR, as after an update that was not approved.
func (e *UnsatisfiedError) noBranch() string {
	var approved, causes []string
	var same *UnsatisfiedError
	for i, b := range e.Branches {
		name := b.Name
		if name == "" {
			name = fmt.Sprintf("branch %d", i+1)
		}
		var unmet *UnsatisfiedError
		if !errors.As(b.Err, &unmet) {
			causes = append(causes, fmt.Sprintf("%s: %v", name, b.Err))
			continue
		}
		causes = append(causes, name+": "+unmet.cause())
		if unmet.Want == nil || same != nil && !same.samePCR(unmet) {
			continue
		}
		same = unmet
		want := abbreviate(unmet.Want)
		if b.Name != "" {
			want = fmt.Sprintf("%s (%s)", b.Name, want)
		}
		approved = append(approved, want)
	}
	if len(approved) == len(causes) {
		return same.has() + ", approved: " + strings.Join(approved, ", ")
	}
	return "no branch is met: " + strings.Join(causes, "; ")
}

func (e *UnsatisfiedError) samePCR(o *UnsatisfiedError) bool {
	return e.Bank == o.Bank && e.PCR == o.PCR && joinIndices(e.PCRs) == joinIndices(o.PCRs) && bytes.Equal(e.Have, o.Have)
}

// abbreviate shows the start of a hash, enough to find it in a list.
func abbreviate(b []byte) string {
	const shown = 4
	if len(b) <= shown {
		return hex.EncodeToString(b)
	}
	return hex.EncodeToString(b[:shown]) + "…"
}
