package policy

import (
	"crypto"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// Reader reads PCR values of one bank. Values that the TPM does not have are absent from its answer.
type Reader func(bank tpm2.TPMIAlgHash, indices []uint) (map[uint][]byte, error)

// State is what a TPM says now, as far as it is asked. What a nil function would tell is not known: ErrUnknown.
// An error of a function ends what asked for it, but for ErrBankInactive (PCRs) and ErrNoIndex (NV), which mean that the
// requirement is not met.
type State struct {
	PCRs  Reader
	Clock func() (ClockInfo, error)
	NV    func(index tpm2.TPMHandle) (NVIndex, error)
	// Authorised tells whether the authorisation of a hierarchy is at hand: it is empty, or was given.
	Authorised func(hierarchy tpm2.TPMHandle) (bool, error)
	// File reads a file that a policy names.
	File func(path string) ([]byte, error)
	// Approved are the policies that somebody approved, those that are to be tried first in front.
	Approved func() ([]Approved, error)
	// Hash is the policy session's, SHA-256 if it is 0.
	Hash tpm2.TPMIAlgHash
	// Command is what is to be authorised, 0 if that is not known.
	Command tpm2.TPMCC
	// NoPIN: the object's authValue is not at hand, and branches that ask for it are not met.
	NoPIN bool
}

// NVIndex is what is known of an NV index.
type NVIndex struct {
	Name []byte // as it is now: the first write changes it
	Data []byte
}

// ClockInfo is what TPM2_ReadClock says (TPM 2.0 Part 2, TPMS_CLOCK_INFO).
type ClockInfo struct {
	// Clock counts milliseconds while the TPM has power, beginning at its making or the last TPM2_Clear.
	Clock uint64
	// Resets counts TPM Resets (boots) and Restarts what happened since: TPM Restarts and Resumes (from sleep).
	Resets, Restarts uint32
}

func (s State) hash() crypto.Hash {
	if s.Hash == tpm2.TPMAlgSHA384 {
		return crypto.SHA384
	}
	return crypto.SHA256
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

func (s State) nv(index tpm2.TPMHandle) (NVIndex, error) {
	if s.NV == nil {
		return NVIndex{}, fmt.Errorf("reading NV index 0x%08x: %w", uint32(index), ErrUnknown)
	}
	x, err := s.NV(index)
	if err != nil {
		err = fmt.Errorf("reading NV index 0x%08x: %w", uint32(index), err)
	}
	return x, err
}

// undecided is the guide of policies that leave no choice.
type undecided struct{}

func (undecided) choose(Any) (int, error)                         { return 0, ErrChoice }
func (undecided) approve(approver, crypto.Hash) (Approved, error) { return Approved{}, ErrChoice }
func (undecided) allow(Command) error                             { return nil }

// outline is the guide that makes no choice.
type outline struct{ undecided }

func (outline) choose(Any) (int, error)                         { return -1, nil }
func (outline) approve(approver, crypto.Hash) (Approved, error) { return Approved{}, nil }

// choose is the first branch that the state meets.
func (s State) choose(a Any) (int, error) { return a.firstMet(s) }

func (s State) allow(c Command) error { return c.check(s) }
