package policy

import "github.com/google/go-tpm/tpm2"

// Step is one TPM policy command: PCRStep or AuthValueStep.
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
