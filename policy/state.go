package policy

import (
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// Reader reads PCR values of one bank. Values that the TPM does not have are absent from its answer.
type Reader func(bank tpm2.TPMIAlgHash, indices []uint) (map[uint][]byte, error)

// State is what a TPM says now, as far as it is asked. What a nil function would tell is not known: ErrUnknown.
// An error of a function ends what asked for it, but for ErrBankInactive, which means that the requirement is not met.
type State struct {
	PCRs  Reader
	Clock func() (ClockInfo, error)
	// NoPIN: the object's authValue is not at hand. Branches without it come before those that ask for it.
	NoPIN bool
}

// ClockInfo is what TPM2_ReadClock says (TPM 2.0 Part 2, TPMS_CLOCK_INFO).
type ClockInfo struct {
	// Clock counts milliseconds while the TPM has power, beginning at its making or the last TPM2_Clear.
	Clock uint64
	// Resets counts TPM Resets (boots) and Restarts what happened since: TPM Restarts and Resumes (from sleep).
	Resets, Restarts uint32
}

func (s State) pcrs(bank tpm2.TPMIAlgHash, indices []uint) (map[uint][]byte, error) {
	if s.PCRs == nil {
		return nil, ErrUnknown
	}
	return s.PCRs(bank, indices)
}

func (s State) clock() (ClockInfo, error) {
	if s.Clock == nil {
		return ClockInfo{}, fmt.Errorf("reading the TPM's clock: %w", ErrUnknown)
	}
	now, err := s.Clock()
	if err != nil {
		err = fmt.Errorf("reading the TPM's clock: %w", err)
	}
	return now, err
}

// choose is the first branch that the state meets. If all that is missing is the PIN, it is a branch that asks for
// one, so that the TPM's answer is about the PIN.
func (s State) choose(a Any) (int, error) {
	first, err := a.firstMet(s)
	if err == nil || !s.NoPIN || !isUnmet(err) {
		return first, err
	}
	s.NoPIN = false
	if first, unmet := a.firstMet(s); unmet == nil {
		return first, nil
	}
	return 0, err
}
