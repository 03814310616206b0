package policy

import (
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// Secret requires the authorisation of a hierarchy (TPM2_PolicySecret): of whoever owns the machine. One that is empty
// requires nothing.
type Secret struct{ Hierarchy tpm2.TPMHandle }

var hierarchies = map[string]tpm2.TPMHandle{"owner": tpm2.TPMRHOwner, "endorsement": tpm2.TPMRHEndorsement}

func (s Secret) walk(p *planner) error {
	if err := s.validate(); err != nil {
		return err
	}
	p.add(SecretStep(s))
	return nil
}

// validate refuses hierarchies whose authorisation cannot be given here, nor be said in a policy's text.
func (s Secret) validate() error {
	if _, named := hierarchies[s.name()]; named {
		return nil
	}
	return fmt.Errorf("%w: an authorisation is that of the owner or the endorsement hierarchy, not of %s", ErrInvalid, s.name())
}

func (s Secret) resolve(State, bool) (Node, error) { return s, s.validate() }
func (s Secret) children() []Node                  { return nil }
func (s Secret) text() string                      { return s.name() + " authorisation" }

// check takes an authorisation that was given for the right one: the TPM will tell.
func (s Secret) check(now State) error {
	if err := s.validate(); err != nil {
		return err
	}
	if now.Authorised == nil {
		return nil
	}
	given, err := now.Authorised(s.Hierarchy)
	if err != nil {
		return fmt.Errorf("asking for the %s hierarchy's authorisation: %w", s.name(), err)
	}
	if !given {
		return s.unmet("has an authorisation, and none was given")
	}
	return nil
}

// Wrong says that the authorisation that was given is not the hierarchy's.
func (s Secret) Wrong() *UnsatisfiedError { return s.unmet("has another authorisation than was given") }

func (s Secret) unmet(has string) *UnsatisfiedError {
	return &UnsatisfiedError{Node: s, Wants: "its own", Has: fmt.Sprintf("the %s hierarchy %s", s.name(), has)}
}

func (s Secret) explain(w *explainer) {
	w.line("the %s hierarchy's authorisation is given (one that is empty requires nothing)", s.name())
}

func (s Secret) name() string {
	for name, h := range hierarchies {
		if h == s.Hierarchy {
			return name
		}
	}
	return fmt.Sprintf("0x%08x", uint32(s.Hierarchy))
}

func (s Secret) appendJSON(b []byte) []byte { return fmt.Appendf(b, `{"secret":%q}`, s.name()) }

func secretFromTree(tree any, at path) (Node, error) {
	name, _ := tree.(string)
	h, known := hierarchies[name]
	if !known {
		return nil, at.errorf("is one of %s, not %v", strings.Join(sorted(hierarchies), " and "), tree)
	}
	return Secret{h}, nil
}
