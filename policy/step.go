package policy

import (
	"encoding/binary"

	"github.com/google/go-tpm/tpm2"
)

// Step is one TPM policy command: PCRStep, AuthValueStep, ClockStep or OrStep.
type Step interface {
	// extend computes what the command does to the session's policyDigest.
	extend(d *digest)
}

// PCRStep is TPM2_PolicyPCR (TPM 2.0 Part 3, "TPM2_PolicyPCR").
type PCRStep struct {
	Selection tpm2.TPMLPCRSelection
	Digest    []byte // over the selected values, by the session's hash
}

func (s PCRStep) extend(d *digest) {
	d.extend(tpm2.TPMCCPolicyPCR, tpm2.Marshal(s.Selection), s.Digest)
}

// AuthValueStep is TPM2_PolicyAuthValue (TPM 2.0 Part 3, "TPM2_PolicyAuthValue").
type AuthValueStep struct{}

func (AuthValueStep) extend(d *digest) { d.extend(tpm2.TPMCCPolicyAuthValue) }

// ClockStep is TPM2_PolicyCounterTimer, which compares bytes of TPMS_TIME_INFO (TPM 2.0 Part 3, "TPM2_PolicyCounterTimer").
type ClockStep struct {
	Operand   []byte
	Offset    uint16
	Operation tpm2.TPMEO
}

func (s ClockStep) extend(d *digest) {
	d.extend(tpm2.TPMCCPolicyCounterTimer, d.hashOf(s.Operand, binary.BigEndian.AppendUint16(nil, s.Offset),
		binary.BigEndian.AppendUint16(nil, uint16(s.Operation))))
}

// OrStep is TPM2_PolicyOR: the session's policyDigest must be one of two to eight (TPM 2.0 Part 3, "TPM2_PolicyOR").
type OrStep struct{ Digests [][]byte }

func (s OrStep) extend(d *digest) {
	d.reset()
	d.extend(tpm2.TPMCCPolicyOR, s.Digests...)
}
