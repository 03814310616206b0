package policy

import (
	"encoding/binary"

	"github.com/google/go-tpm/tpm2"
)

// Step is one TPM policy command.
type Step interface {
	// extend computes what the command does to the session's policyDigest.
	extend(d *digest)
}

// PCRStep is TPM2_PolicyPCR (TPM 2.0 Part 3, "TPM2_PolicyPCR").
type PCRStep struct {
	Selection tpm2.TPMLPCRSelection
	Digest    []byte // over the selected values, by the session's hash; nil for whatever they are
}

func (s PCRStep) extend(d *digest) {
	d.extend(tpm2.TPMCCPolicyPCR, s.AppendSelection(nil), s.Digest)
}

// AppendSelection appends the selection as commands have it, TPML_PCR_SELECTION (TPM 2.0 Part 2, section 10.9.7). go-tpm would find out
// by reflection how, for longer than the rest of the command takes.
func (s PCRStep) AppendSelection(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s.Selection.PCRSelections)))
	for _, bank := range s.Selection.PCRSelections {
		b = binary.BigEndian.AppendUint16(b, uint16(bank.Hash))
		b = append(append(b, byte(len(bank.PCRSelect))), bank.PCRSelect...)
	}
	return b
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

// CommandStep is TPM2_PolicyCommandCode (TPM 2.0 Part 3, "TPM2_PolicyCommandCode").
type CommandStep struct{ Code tpm2.TPMCC }

func (s CommandStep) extend(d *digest) {
	d.extend(tpm2.TPMCCPolicyCommandCode, binary.BigEndian.AppendUint32(nil, uint32(s.Code)))
}

// NVStep is TPM2_PolicyNV (TPM 2.0 Part 3, "TPM2_PolicyNV").
type NVStep NV

func (s NVStep) extend(d *digest) {
	d.extend(tpm2.TPMCCPolicyNV, d.hashOf(s.Value, binary.BigEndian.AppendUint16(nil, s.Offset),
		binary.BigEndian.AppendUint16(nil, uint16(s.Op))), s.Name)
}

// SecretStep is TPM2_PolicySecret without a policyRef (TPM 2.0 Part 3, "TPM2_PolicySecret").
type SecretStep struct{ Hierarchy tpm2.TPMHandle }

func (s SecretStep) extend(d *digest) {
	d.extend(tpm2.TPMCCPolicySecret, binary.BigEndian.AppendUint32(nil, uint32(s.Hierarchy)))
	d.extendRef(nil)
}

// AuthorizeStep is TPM2_PolicyAuthorize (TPM 2.0 Part 3, "TPM2_PolicyAuthorize").
type AuthorizeStep struct {
	Approved  []byte // the digest of the policy that was executed before
	Signer    Signer
	Ref       []byte
	Signature []byte // as Sign makes it
}

func (s AuthorizeStep) extend(d *digest) {
	d.reset()
	d.extend(tpm2.TPMCCPolicyAuthorize, s.Signer.Name())
	d.extendRef(s.Ref)
}

// AuthorizeNVStep is TPM2_PolicyAuthorizeNV (TPM 2.0 Part 3, "TPM2_PolicyAuthorizeNV").
type AuthorizeNVStep AuthorizeNV

func (s AuthorizeNVStep) extend(d *digest) {
	d.reset()
	d.extend(tpm2.TPMCCPolicyAuthorizeNV, s.Name)
}
