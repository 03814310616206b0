// Package policy describes what must hold before the TPM lets an object be
// used, as a tree; computes the tree's digest without a TPM; and says which
// TPM commands satisfy it.
//
// It never talks to a TPM: package provider executes the steps, and a State
// says what the TPM says now.
package policy

import (
	"errors"
	"iter"
	"reflect"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// Errors that callers tell apart with errors.Is.
var (
	// ErrInvalid is wrapped by every error about a policy's text, tree or values.
	ErrInvalid = errors.New("invalid policy")
	// ErrUnresolved says that a policy still asks for current values.
	ErrUnresolved = errors.New("the policy asks for current values that were not read yet")
	// ErrChoice says that only the TPM's state tells which commands satisfy a policy.
	ErrChoice = errors.New("the policy has branches, and the TPM's state decides between them")
	// ErrUnknown says that a State does not tell what a policy compares.
	ErrUnknown = errors.New("there is no TPM to ask")
	// ErrNoIndex says that the TPM has no NV index of a number, or one that was not written yet.
	ErrNoIndex = errors.New("there is no such NV index, or it was not written yet")
	// ErrBankInactive says that the TPM has no values for PCRs of a bank.
	ErrBankInactive = errors.New("the PCR bank is not active in this TPM")
	// ErrUnmeasured says that PCRs 0 to 7 bear no trace of a measured boot.
	ErrUnmeasured = errors.New("the boot was not measured")
	// ErrResettable says that a PCR can be given any value without a boot.
	ErrResettable = errors.New("any program can reset it")
)

// Node is one requirement: All, Any, PCR, PIN, Clock, Command, NV, Secret,
// Authorize or AuthorizeNV. Nodes are not changed once they are part of a Policy.
type Node interface {
	// walk brings a policy digest as far as the node's commands bring a session, and notes the commands.
	walk(p *planner) error
	// resolve gives the node with current values in it.
	resolve(now State, force bool) (Node, error)
	// check compares the node with the TPM's state.
	check(now State) error
	// children are the nodes below, in order.
	children() []Node
	// text is the node in Policy.String.
	text() string
	// explain says the node in plain words.
	explain(w *explainer)
	// appendJSON appends the node's tree form.
	appendJSON(b []byte) []byte
}

// Policy is a tree of requirements. The zero Policy requires nothing.
// Marshalled to JSON it is the tree itself: {"all":[{"pcr":{"bank":"sha256","7":"00…"}},{"pin":true}]};
// the zero Policy is null. Immutable, and so safe for concurrent use.
type Policy struct{ Root Node }

// IsZero tells whether the policy requires nothing at all.
func (p Policy) IsZero() bool { return p.Root == nil }

// Equal tells whether two policies are the same tree.
func (p Policy) Equal(q Policy) bool { return reflect.DeepEqual(p, q) }

// And returns p with one more requirement at its end (p itself when it already ends in a node equal to n).
func (p Policy) And(n Node) Policy {
	switch root := p.Root.(type) {
	case nil:
		return Policy{Root: n}
	case All:
		if len(root) > 0 && reflect.DeepEqual(root[len(root)-1], n) {
			return p
		}
		return Policy{Root: append(root[:len(root):len(root)], n)}
	default:
		if reflect.DeepEqual(root, n) {
			return p
		}
		return Policy{Root: All{root, n}}
	}
}

// Resolve puts current values where the policy asks for them. It refuses banks that do not answer (ErrBankInactive). Unless
// force is set it also refuses PCRs 0 to 7 whose value, given or current, is all zeros or all ones (ErrUnmeasured), and
// PCRs 16 and 23 (ErrResettable).
func (p Policy) Resolve(now State, force bool) (Policy, error) {
	if p.IsZero() {
		return p, nil
	}
	root, err := p.Root.resolve(now, force)
	if err != nil {
		return Policy{}, err
	}
	return Policy{Root: root}, nil
}

// Digest is the policy's digest (the authPolicy of an object) in nameAlg's hash, SHA-256 or SHA-384; nil for the zero
// Policy. The policy must be resolved, else the error is ErrUnresolved.
func (p Policy) Digest(nameAlg tpm2.TPMIAlgHash) ([]byte, error) {
	w, err := p.walk(nameAlg, nil)
	if err != nil || p.IsZero() {
		return nil, err
	}
	return w.digest.value, nil
}

// Steps are the commands that bring a policy session (of hash sessionAlg, SHA-256 or SHA-384) to the digest of a policy that
// leaves no choice (else ErrChoice, see Plan), in their order. The policy must be resolved, else the error is ErrUnresolved.
func (p Policy) Steps(sessionAlg tpm2.TPMIAlgHash) ([]Step, error) {
	w, err := p.walk(sessionAlg, undecided{})
	if err != nil {
		return nil, err
	}
	return w.steps, nil
}

// Outline are the commands of Steps for a policy that may leave a choice: without those of the branches and approved policies
// among which one is chosen, and without the signature of an AuthorizeStep. What they are is enough to tell the policy's
// digest, but not to satisfy it.
func (p Policy) Outline(sessionAlg tpm2.TPMIAlgHash) ([]Step, error) {
	w, err := p.walk(sessionAlg, outline{})
	if err != nil {
		return nil, err
	}
	return w.steps, nil
}

// Plan are the commands that bring a policy session to the policy's digest through the branches that the TPM's state
// meets, the first of those that fit. It compares what decides between branches, and not the rest, since the TPM will; an
// *UnsatisfiedError says why no branch fits.
func (p Policy) Plan(sessionAlg tpm2.TPMIAlgHash, now State) ([]Step, error) {
	w, err := p.walk(sessionAlg, now)
	if err != nil {
		return nil, err
	}
	return w.steps, nil
}

func (p Policy) walk(alg tpm2.TPMIAlgHash, g guide) (*planner, error) {
	d, err := newDigest(alg)
	if err != nil {
		return nil, err
	}
	w := &planner{digest: d, guide: g}
	if !p.IsZero() {
		err = p.Root.walk(w)
	}
	return w, err
}

// WithFiles gives the policy with other paths of the files that it names.
func (p Policy) WithFiles(path func(string) string) Policy {
	rename := func(n Node) Node {
		if a, ok := n.(Authorize); ok && a.File != "" {
			a.File = path(a.File)
			return a
		}
		return n
	}
	if all, ok := p.Root.(All); ok && len(all) > 0 {
		return Policy{Root: append(All{rename(all[0])}, all[1:]...)}
	}
	return Policy{Root: rename(p.Root)}
}

// NeedsPIN tells whether the object's authValue takes part, in one of the branches at least.
func (p Policy) NeedsPIN() bool {
	for n := range p.nodes() {
		if _, ok := n.(PIN); ok {
			return true
		}
	}
	return false
}

// RequiresPIN tells whether the object's authValue takes part in every branch.
func (p Policy) RequiresPIN() bool { return requiresPIN(p.Root) }

func requiresPIN(n Node) bool {
	switch n := n.(type) {
	case PIN:
		return true
	case All:
		return slices.ContainsFunc(n, requiresPIN)
	case Any:
		return len(n) > 0 && !slices.ContainsFunc(n, func(b Node) bool { return !requiresPIN(b) })
	}
	return false
}

// NeedsApproval tells whether approved policies take part, in one of the branches at least.
func (p Policy) NeedsApproval() bool {
	for n := range p.nodes() {
		if _, ok := n.(approver); ok {
			return true
		}
	}
	return false
}

// MayAllow tells whether one of the branches is for a command by name, or somebody's approval may yet make one so: what a TPM demands
// of a policy before it duplicates an object, for one.
func (p Policy) MayAllow(code tpm2.TPMCC) bool {
	for n := range p.nodes() {
		if c, ok := n.(Command); ok && c.Code == code {
			return true
		}
	}
	return p.NeedsApproval()
}

// Drifts tells whether Resolve gives another policy each time it is asked, since the policy has a term that begins then, or the
// boot of then.
func (p Policy) Drifts() bool {
	for n := range p.nodes() {
		if c, ok := n.(Clock); ok && (c.Within != 0 || c.ThisBoot) {
			return true
		}
	}
	return false
}

// PCRs lists the selections that Check reads, so that a caller can read them at once.
func (p Policy) PCRs() []PCR {
	var found []PCR
	for n := range p.nodes() {
		if pcr, ok := n.(PCR); ok {
			found = append(found, pcr)
		}
	}
	return found
}

// Check compares the policy with the TPM's state. An *UnsatisfiedError says what differs; other errors say that the
// comparison was not possible.
func (p Policy) Check(now State) error {
	if p.IsZero() {
		return nil
	}
	return p.Root.check(now)
}

// String is the policy in canonical text, one line: "sha256:7=00…,8=… + pin" with the values in full; "" for the zero Policy.
func (p Policy) String() string {
	if p.IsZero() {
		return ""
	}
	return p.Root.text()
}

// nodes are all nodes of the tree, a parent before its children.
func (p Policy) nodes() iter.Seq[Node] {
	return func(yield func(Node) bool) {
		if !p.IsZero() {
			walk(p.Root, yield)
		}
	}
}

func walk(n Node, yield func(Node) bool) bool {
	if !yield(n) {
		return false
	}
	for _, child := range n.children() {
		if !walk(child, yield) {
			return false
		}
	}
	return true
}
