package policy

import (
	"errors"
	"fmt"
	"strings"
)

// Any requires one of its nodes, its branches: two or more (TPM2_PolicyOR, nested beyond eight). What
// stands before it in an All belongs to every branch.
type Any []Node

// maxBranches bounds an Any.
const maxBranches = 512

func (a Any) resolve(now State, force bool) (Node, error) {
	if err := a.validate(); err != nil {
		return nil, err
	}
	nodes, err := resolveEach(a, now, force)
	return Any(nodes), err
}

func (a Any) check(now State) error {
	_, err := a.firstMet(now)
	return err
}

// firstMet is the first branch that the state meets, or says why there is none.
func (a Any) firstMet(now State) (int, error) {
	if err := a.validate(); err != nil {
		return 0, err
	}
	unmet := &UnsatisfiedError{Node: a}
	for i, n := range a {
		err := n.check(now)
		if !isUnmet(err) {
			return i, err
		}
		unmet.Branches = append(unmet.Branches, Branch{Err: err})
	}
	return 0, unmet
}

// isUnmet tells a requirement that is not met from a comparison that failed.
func isUnmet(err error) bool {
	return errors.As(err, new(*UnsatisfiedError)) || errors.Is(err, ErrBankInactive)
}

func (a Any) validate() error {
	if len(a) < 2 {
		return fmt.Errorf("%w: \"any\" has %d branches: it takes two or more", ErrInvalid, len(a))
	}
	if len(a) > maxBranches {
		return fmt.Errorf("%w: \"any\" has %d branches: %d are the most", ErrInvalid, len(a), maxBranches)
	}
	return noneMissing("any", a)
}

func (a Any) children() []Node { return a }

func (a Any) text() string {
	texts := make([]string, len(a))
	for i, n := range a {
		texts[i] = n.text()
	}
	return "(" + strings.Join(texts, " | ") + ")"
}

func (a Any) explain(w *explainer) { w.list("one of:", a) }

func (a Any) appendJSON(b []byte) []byte { return appendList(b, "any", a) }

func anyFromTree(tree any, at path) (Node, error) {
	nodes, err := nodesFromTree(tree, at)
	if err != nil {
		return nil, err
	}
	if len(nodes) < 2 {
		return nil, at.errorf("has one branch: it takes two or more")
	}
	if len(nodes) > maxBranches {
		return nil, at.errorf("has %d branches: %d are the most", len(nodes), maxBranches)
	}
	return Any(nodes), nil
}
