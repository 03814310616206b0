package tss2

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// statement is a TPMPolicy: one policy command and its parameters (draft-bottomley-tpm2-keys, "Key Policy Specification").
type statement struct {
	command uint32
	body    []byte
}

var (
	tagCommandCode   = explicit(0)
	tagCommandPolicy = explicit(1)
)

func addStatements(b *cryptobyte.Builder, list []statement) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, s := range list {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1(tagCommandCode, func(b *cryptobyte.Builder) { b.AddASN1Uint64(uint64(s.command)) })
				b.AddASN1(tagCommandPolicy, func(b *cryptobyte.Builder) { b.AddASN1OctetString(s.body) })
			})
		}
	})
}

func readStatements(in cryptobyte.String, out *[]statement) bool {
	var list cryptobyte.String
	if !in.ReadASN1(&list, asn1.SEQUENCE) || !in.Empty() {
		return false
	}
	for !list.Empty() {
		var item, code, body, octets cryptobyte.String
		var command uint32
		if !list.ReadASN1(&item, asn1.SEQUENCE) ||
			!item.ReadASN1(&code, tagCommandCode) || !code.ReadASN1Integer(&command) || !code.Empty() ||
			!item.ReadASN1(&body, tagCommandPolicy) || !body.ReadASN1(&octets, asn1.OCTET_STRING) || !body.Empty() ||
			!item.Empty() {
			return false
		}
		*out = append(*out, statement{command: command, body: octets})
	}
	return true
}

// alternative is a TPMAuthPolicy: one of several ways to satisfy a key's policy.
type alternative struct {
	name       string
	statements []statement
}

var (
	tagAlternativeName   = explicit(0)
	tagAlternativePolicy = explicit(1)
)

func readAlternatives(in cryptobyte.String, out *[]alternative) bool {
	var list cryptobyte.String
	if !in.ReadASN1(&list, asn1.SEQUENCE) || !in.Empty() {
		return false
	}
	for !list.Empty() {
		var item, wrapped, name, body cryptobyte.String
		var named bool
		var a alternative
		if !list.ReadASN1(&item, asn1.SEQUENCE) || !item.ReadOptionalASN1(&wrapped, &named, tagAlternativeName) ||
			named && (!wrapped.ReadASN1(&name, asn1.UTF8String) || !wrapped.Empty()) ||
			!item.ReadASN1(&body, tagAlternativePolicy) || !readStatements(body, &a.statements) || !item.Empty() {
			return false
		}
		a.name = string(name)
		*out = append(*out, a)
	}
	return true
}

func describe(list []alternative) string {
	var texts []string
	for _, a := range list {
		var commands []string
		for _, s := range a.statements {
			commands = append(commands, commandName(s.command))
		}
		texts = append(texts, fmt.Sprintf("%q: %s", a.name, strings.Join(commands, ", ")))
	}
	return strings.Join(texts, "; ")
}

// statementsOf writes a policy as commands, after making sure that they give the object's policy digest.
func statementsOf(p policy.Policy, public provider.Public) ([]statement, error) {
	if p.IsZero() {
		return nil, nil
	}
	if err := checkDigest(p, public); err != nil {
		return nil, err
	}
	steps, err := p.Steps(public.Area().NameAlg)
	if err != nil {
		return nil, err
	}
	list := make([]statement, 0, len(steps))
	for _, step := range steps {
		switch step := step.(type) {
		case policy.PCRStep:
			if step.Digest == nil {
				return nil, fmt.Errorf("%w: PCRs of which only the policy digest is known have no form in a TSS2 key", ErrUnsupported)
			}
			body := append(tpm2.Marshal(step.Selection), step.Digest...)
			list = append(list, statement{command: uint32(tpm2.TPMCCPolicyPCR), body: body})
		case policy.AuthValueStep:
			list = append(list, statement{command: uint32(tpm2.TPMCCPolicyAuthValue)})
		case policy.ClockStep:
			body := binary.BigEndian.AppendUint16(bytes.Clone(step.Operand), step.Offset)
			body = binary.BigEndian.AppendUint16(body, uint16(step.Operation))
			list = append(list, statement{command: uint32(tpm2.TPMCCPolicyCounterTimer), body: body})
		default:
			return nil, fmt.Errorf("%w: a policy command of type %T has no form in a TSS2 key", ErrUnsupported, step)
		}
	}
	return list, nil
}

// policyOf reads commands as a policy. Its error is a *PolicyError.
func policyOf(list []statement, public provider.Public) (policy.Policy, error) {
	unusable := func(format string, args ...any) (policy.Policy, error) {
		return policy.Policy{}, &PolicyError{Reason: fmt.Sprintf(format, args...)}
	}
	if len(list) == 0 {
		return policy.Policy{}, nil
	}
	hash, err := public.Area().NameAlg.Hash()
	if err != nil {
		return unusable("its hash: %v", err)
	}
	var nodes policy.All
	for _, s := range list {
		switch tpm2.TPMCC(s.command) {
		case tpm2.TPMCCPolicyPCR:
			pcr, ok := readPolicyPCR(s.body, hash.Size())
			if !ok {
				return unusable("the parameters of its PolicyPCR are not PCRs of one bank and a digest")
			}
			nodes = append(nodes, pcr)
		case tpm2.TPMCCPolicyAuthValue:
			if len(s.body) != 0 {
				return unusable("its PolicyAuthValue has parameters")
			}
			nodes = append(nodes, policy.PIN{})
		case tpm2.TPMCCPolicyCounterTimer:
			clock, ok := readCounterTimer(s.body)
			if !ok {
				return unusable("its PolicyCounterTimer compares something else than the end of the TPM's clock or a boot")
			}
			nodes = append(nodes, clock)
		default:
			return unusable("%s is not supported", commandName(s.command))
		}
	}
	p := policy.Policy{Root: nodes}
	if len(nodes) == 1 {
		p.Root = nodes[0]
	}
	if err := checkDigest(p, public); err != nil {
		return unusable("%v", err)
	}
	return p, nil
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

// commandNames are the policy commands (TPM 2.0 Part 2, "TPM_CC").
var commandNames = map[uint32]string{
	0x149: "PolicyNV",
	0x151: "PolicySecret",
	0x160: "PolicySigned",
	0x16A: "PolicyAuthorize",
	0x16B: "PolicyAuthValue",
	0x16C: "PolicyCommandCode",
	0x16D: "PolicyCounterTimer",
	0x16E: "PolicyCpHash",
	0x16F: "PolicyLocality",
	0x170: "PolicyNameHash",
	0x171: "PolicyOR",
	0x172: "PolicyTicket",
	0x17F: "PolicyPCR",
	0x187: "PolicyPhysicalPresence",
	0x188: "PolicyDuplicationSelect",
	0x18C: "PolicyPassword",
	0x18F: "PolicyNvWritten",
	0x190: "PolicyTemplate",
	0x192: "PolicyAuthorizeNV",
}

func commandName(code uint32) string {
	if name, ok := commandNames[code]; ok {
		return fmt.Sprintf("%s (command code %#x)", name, code)
	}
	return fmt.Sprintf("the policy command with code %#x", code)
}
