package policy

import (
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// All requires each of its nodes, in their order. It has at least one.
type All []Node

func (a All) extend(d *digest) error {
	if err := a.validate(); err != nil {
		return err
	}
	for _, n := range a {
		if err := n.extend(d); err != nil {
			return err
		}
	}
	return nil
}

func (a All) steps(alg tpm2.TPMIAlgHash) ([]Step, error) {
	if err := a.validate(); err != nil {
		return nil, err
	}
	var steps []Step
	for _, n := range a {
		s, err := n.steps(alg)
		if err != nil {
			return nil, err
		}
		steps = append(steps, s...)
	}
	return steps, nil
}

func (a All) resolve(read Reader, force bool) (Node, error) {
	if err := a.validate(); err != nil {
		return nil, err
	}
	resolved := make(All, len(a))
	for i, n := range a {
		r, err := n.resolve(read, force)
		if err != nil {
			return nil, err
		}
		resolved[i] = r
	}
	return resolved, nil
}

func (a All) check(read Reader) error {
	if err := a.validate(); err != nil {
		return err
	}
	for _, n := range a {
		if err := n.check(read); err != nil {
			return err
		}
	}
	return nil
}

func (a All) validate() error {
	if len(a) == 0 {
		return fmt.Errorf("%w: \"all\" is empty", ErrInvalid)
	}
	for i, n := range a {
		if n == nil {
			return fmt.Errorf("%w: all[%d] is no node", ErrInvalid, i)
		}
	}
	return nil
}

func (a All) children() []Node { return a }

func (a All) text() string {
	texts := make([]string, len(a))
	for i, n := range a {
		texts[i] = n.text()
	}
	return strings.Join(texts, " + ")
}

func (a All) appendJSON(b []byte) []byte {
	b = append(b, `{"all":[`...)
	for i, n := range a {
		if i > 0 {
			b = append(b, ',')
		}
		b = n.appendJSON(b)
	}
	return append(b, "]}"...)
}

func allFromTree(tree any, at path) (Node, error) {
	list, ok := asList(tree)
	if !ok {
		return nil, at.errorf("is a list of nodes, not %s", describe(tree))
	}
	if len(list) == 0 {
		return nil, at.errorf("is empty")
	}
	all := make(All, len(list))
	for i, t := range list {
		n, err := nodeFromTree(t, at.element(i))
		if err != nil {
			return nil, err
		}
		all[i] = n
	}
	return all, nil
}
