package tss2

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/cryptobyte"

	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// statementsOf writes a policy as commands, after making sure that they give the object's policy digest. Branches have no form
// in the format: a PolicyOR stands for all of them, and a reader that knows no more refuses the key.
func statementsOf(p policy.Policy, public provider.Public) ([]statement, error) {
	if p.IsZero() {
		return nil, nil
	}
	if err := checkDigest(p, public); err != nil {
		return nil, err
	}
	steps, err := p.Outline(public.Area().NameAlg)
	if err != nil {
		return nil, err
	}
	return writeSteps(steps)
}

func writeSteps(steps []policy.Step) ([]statement, error) {
	list := make([]statement, 0, len(steps))
	for _, step := range steps {
		s, err := writeStep(step)
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}

// writeStep writes a command as the engine does: PolicyPCR and PolicyCounterTimer as the bytes that go into the policy digest,
// PolicyAuthorize with its signature, none (TPM_ALG_NULL) where it stands for all that will be approved, and PolicySecret as the draft
// has it: handle, Name, policyRef. Of what the format says nothing the bodies are the command's handles, with their Names, and parameters.
func writeStep(step policy.Step) (statement, error) {
	var body []byte
	code := tpm2.TPMCC(0)
	switch step := step.(type) {
	case policy.PCRStep:
		if step.Digest == nil {
			return statement{}, fmt.Errorf("%w: PCRs of which only the policy digest is known have no form in a TSS2 key", ErrUnsupported)
		}
		code, body = tpm2.TPMCCPolicyPCR, append(step.AppendSelection(nil), step.Digest...)
	case policy.AuthValueStep:
		code = tpm2.TPMCCPolicyAuthValue
	case policy.ClockStep:
		code, body = tpm2.TPMCCPolicyCounterTimer, put16(put16(bytes.Clone(step.Operand), step.Offset), uint16(step.Operation))
	case policy.CommandStep:
		code, body = tpm2.TPMCCPolicyCommandCode, put32(nil, uint32(step.Code))
	case policy.SecretStep:
		handle := put32(nil, uint32(step.Hierarchy)) // a hierarchy's Name is its handle
		code, body = tpm2.TPMCCPolicySecret, put2B(put2B(handle, handle), nil)
	case policy.NVStep:
		code, body = tpm2.TPMCCPolicyNV, put2B(put2B(put32(nil, uint32(step.Index)), step.Name), step.Value)
		body = put16(put16(body, step.Offset), uint16(step.Op))
	case policy.AuthorizeNVStep:
		code, body = tpm2.TPMCCPolicyAuthorizeNV, put2B(put32(nil, uint32(step.Index)), step.Name)
	case policy.OrStep:
		code, body = tpm2.TPMCCPolicyOR, put32(nil, uint32(len(step.Digests)))
		for _, d := range step.Digests {
			body = put2B(body, d)
		}
	case policy.AuthorizeStep:
		code, body = tpm2.TPMCCPolicyAuthorize, put2B(put2B(nil, step.Signer.Area()), step.Ref)
		signature := put16(nil, uint16(tpm2.TPMAlgNull))
		if step.Signature != nil {
			var err error
			if signature, err = step.Signer.TPMSignature(step.Signature); err != nil {
				return statement{}, err
			}
		}
		body = append(body, signature...)
	default:
		return statement{}, fmt.Errorf("%w: a policy command of type %T has no form in a TSS2 key", ErrUnsupported, step)
	}
	return statement{command: uint32(code), body: body}, nil
}

// alternativesOf writes the approved policies of a key whose policy is to approve them, as far as they are by its signer and have
// a form: those with branches have none.
func alternativesOf(p policy.Policy, approved []policy.Approved, public provider.Public) []alternative {
	root, ok := approves(p)
	if !ok {
		return nil
	}
	var list []alternative
	for _, a := range approved {
		if !p.Takes([]policy.Approved{a}) {
			continue
		}
		steps, err := a.Policy.Steps(public.Area().NameAlg)
		if err != nil {
			continue
		}
		steps = append(steps, policy.AuthorizeStep{Signer: root.Signer, Ref: []byte(root.Ref), Signature: a.Signature})
		if statements, err := writeSteps(steps); err == nil {
			list = append(list, alternative{a.Name, statements})
		}
	}
	return list
}

// approves is the policy's signer, if it has one.
func approves(p policy.Policy) (policy.Authorize, bool) {
	root := p.Root
	if all, ok := root.(policy.All); ok && len(all) > 0 {
		root = all[0]
	}
	a, ok := root.(policy.Authorize)
	return a, ok
}

// policyOf reads commands as a policy. Its error is a *PolicyError.
func policyOf(list []statement, public provider.Public) (policy.Policy, error) {
	if len(list) == 0 {
		return policy.Policy{}, nil
	}
	nodes, err := readStatementNodes(list, public)
	if err != nil {
		return policy.Policy{}, err
	}
	p := policy.Policy{Root: nodes}
	if len(nodes) == 1 {
		p.Root = nodes[0]
	}
	if err := checkDigest(p, public); err != nil {
		return policy.Policy{}, unusable("%v", err)
	}
	return p, nil
}

func unusable(format string, args ...any) error {
	return &PolicyError{Reason: fmt.Sprintf(format, args...)}
}

func readStatementNodes(list []statement, public provider.Public) (policy.All, error) {
	hash, err := public.Area().NameAlg.Hash()
	if err != nil {
		return nil, unusable("its hash: %v", err)
	}
	var nodes policy.All
	for _, s := range list {
		n, err := s.node(hash.Size())
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, n)
	}
	return nodes, nil
}

// node reads a command.
func (s statement) node(digestSize int) (policy.Node, error) {
	in := cryptobyte.String(s.body)
	switch tpm2.TPMCC(s.command) {
	case tpm2.TPMCCPolicyPCR:
		if pcr, ok := readPolicyPCR(s.body, digestSize); ok {
			return pcr, nil
		}
		return nil, unusable("the parameters of its PolicyPCR are not PCRs of one bank and a digest")
	case tpm2.TPMCCPolicyAuthValue:
		if len(s.body) == 0 {
			return policy.PIN{}, nil
		}
		return nil, unusable("its PolicyAuthValue has parameters")
	case tpm2.TPMCCPolicyCounterTimer:
		if clock, ok := readCounterTimer(s.body); ok {
			return clock, nil
		}
		return nil, unusable("its PolicyCounterTimer compares something else than the end of the TPM's clock or a boot, or an end that never comes")
	case tpm2.TPMCCPolicyCommandCode:
		var code uint32
		if in.ReadUint32(&code) && in.Empty() {
			return policy.Command{Code: tpm2.TPMCC(code)}, nil
		}
	case tpm2.TPMCCPolicySecret:
		if h, ok := readPolicySecret(s.body); ok {
			return policy.Secret{Hierarchy: h}, nil
		}
	case tpm2.TPMCCPolicyNV:
		var index uint32
		var name, value cryptobyte.String
		var offset, op uint16
		if in.ReadUint32(&index) && in.ReadUint16LengthPrefixed(&name) && in.ReadUint16LengthPrefixed(&value) &&
			in.ReadUint16(&offset) && in.ReadUint16(&op) && in.Empty() && !name.Empty() {
			return policy.NV{Index: tpm2.TPMHandle(index), Name: bytes.Clone(name), Value: bytes.Clone(value), Offset: offset, Op: tpm2.TPMEO(op)}, nil
		}
	case tpm2.TPMCCPolicyAuthorizeNV:
		var index uint32
		var name cryptobyte.String
		if in.ReadUint32(&index) && in.ReadUint16LengthPrefixed(&name) && in.Empty() && !name.Empty() {
			return policy.AuthorizeNV{Index: tpm2.TPMHandle(index), Name: bytes.Clone(name)}, nil
		}
	case tpm2.TPMCCPolicyAuthorize:
		if a, _, ok := readAuthorize(s.body); ok {
			return a, nil
		}
	default:
		return nil, unusable("%s is not supported", commandName(s.command))
	}
	return nil, unusable("the parameters of its %s are not what they should be", commandName(s.command))
}

// readAuthorize reads TPM2B_PUBLIC || TPM2B policyRef || TPMT_SIGNATURE; the signature is nil where there is none.
func readAuthorize(body []byte) (a policy.Authorize, signature []byte, ok bool) {
	in := cryptobyte.String(body)
	var area, ref cryptobyte.String
	if !in.ReadUint16LengthPrefixed(&area) || !in.ReadUint16LengthPrefixed(&ref) {
		return a, nil, false
	}
	var err error
	if a.Signer, err = policy.SignerOf(area); err != nil {
		return a, nil, false
	}
	a.Ref = string(ref)
	if bytes.Equal(in, put16(nil, uint16(tpm2.TPMAlgNull))) {
		return a, nil, true
	}
	signature, err = policy.ParseTPMSignature(in)
	return a, signature, err == nil
}

// approvedOf reads the alternatives of a key whose policy is to approve them. One that cannot be read does not keep
// the others away.
func approvedOf(list []alternative, public provider.Public) (approved []policy.Approved) {
	for _, a := range list {
		last := len(a.statements) - 1
		if last < 1 || tpm2.TPMCC(a.statements[last].command) != tpm2.TPMCCPolicyAuthorize {
			continue
		}
		_, signature, ok := readAuthorize(a.statements[last].body)
		nodes, err := readStatementNodes(a.statements[:last], public)
		if ok && err == nil {
			approved = append(approved, policy.Approved{Name: a.name, Policy: policy.Policy{Root: nodes}, Signature: signature})
		}
	}
	return approved
}

func checkDigest(p policy.Policy, public provider.Public) error {
	digest, err := p.Digest(public.Area().NameAlg)
	if err != nil {
		return err
	}
	if !bytes.Equal(digest, public.AuthPolicy()) {
		return fmt.Errorf("%w: the policy's digest is %x, the object's %x", ErrMalformed, digest, public.AuthPolicy())
	}
	return nil
}

// readPolicyPCR reads TPML_PCR_SELECTION || digest (what the engine writes: the bytes that go into the policy digest) or
// TPM2B_DIGEST || TPML_PCR_SELECTION (the draft: the command's parameters). No bytes can be read both ways: a digest's
// size would be a count of more than a million selections.
func readPolicyPCR(body []byte, digestSize int) (policy.PCR, bool) {
	in := cryptobyte.String(body)
	var digest []byte
	if pcr, ok := readSelection(&in); ok && len(in) == digestSize {
		pcr.Digest = bytes.Clone(in)
		return pcr, true
	}
	in = body
	var sized cryptobyte.String
	if !in.ReadUint16LengthPrefixed(&sized) || len(sized) != digestSize {
		return policy.PCR{}, false
	}
	digest = bytes.Clone(sized)
	pcr, ok := readSelection(&in)
	pcr.Digest = digest
	return pcr, ok && in.Empty()
}

// readSelection reads a TPML_PCR_SELECTION of one bank. A bitmap of another size than the PC Client platform's passes here
// and then fails to give the key's digest.
func readSelection(in *cryptobyte.String) (policy.PCR, bool) {
	var count uint32
	var alg uint16
	var bitmap cryptobyte.String
	if !in.ReadUint32(&count) || count != 1 || !in.ReadUint16(&alg) || !in.ReadUint8LengthPrefixed(&bitmap) {
		return policy.PCR{}, false
	}
	pcr := policy.PCR{Bank: tpm2.TPMIAlgHash(alg), Values: make(map[uint][]byte)}
	for i := range uint(len(bitmap)) * 8 {
		if bitmap[i/8]&(1<<(i%8)) != 0 {
			pcr.Values[i] = nil
		}
	}
	return pcr, true
}

// readPolicySecret reads TPM_HANDLE || TPM2B_NAME || TPM2B policyRef: of a hierarchy, without a policyRef. The handle is a hint and may
// be 0. Without the Name it is what was written here once.
func readPolicySecret(body []byte) (tpm2.TPMHandle, bool) {
	in := cryptobyte.String(body)
	var handle uint32
	var name, ref cryptobyte.String
	if !in.ReadUint32(&handle) || !in.ReadUint16LengthPrefixed(&name) {
		return 0, false
	}
	if name.Empty() && in.Empty() {
		return tpm2.TPMHandle(handle), true
	}
	var named uint32
	ok := name.ReadUint32(&named) && name.Empty() && in.ReadUint16LengthPrefixed(&ref) && ref.Empty() && in.Empty()
	return tpm2.TPMHandle(named), ok && (handle == 0 || handle == named)
}

// readCounterTimer reads operandB || offset || operation (what the engine writes) or TPM2B_OPERAND || offset || operation (the
// draft). The length tells which, as the operands that a policy.Clock has are of eight bytes.
func readCounterTimer(body []byte) (policy.Clock, bool) {
	if len(body) == 2+8+4 && binary.BigEndian.Uint16(body) == 8 {
		body = body[2:]
	}
	if len(body) != 8+4 {
		return policy.Clock{}, false
	}
	return policy.ClockOf(policy.ClockStep{
		Operand: body[:8], Offset: binary.BigEndian.Uint16(body[8:]), Operation: tpm2.TPMEO(binary.BigEndian.Uint16(body[10:])),
	})
}

func put16(b []byte, v uint16) []byte { return binary.BigEndian.AppendUint16(b, v) }
func put32(b []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(b, v) }

// put2B appends a TPM2B: a 16-bit size and the bytes.
func put2B(b, data []byte) []byte { return append(put16(b, uint16(len(data))), data...) }
