package policy

import (
	"fmt"
	"strings"
)

// All requires each of its nodes, in their order. It has at least one.
type All []Node

func (a All) walk(p *planner) error {
	if err := a.validate(); err != nil {
		return err
	}
	for _, n := range a {
		if err := n.walk(p); err != nil {
			return err
		}
	}
	return nil
}

func (a All) resolve(now State, force bool) (Node, error) {
	if err := a.validate(); err != nil {
		return nil, err
	}
	nodes, err := resolveEach(a, now, force)
	return All(nodes), err
}

func resolveEach(nodes []Node, now State, force bool) ([]Node, error) {
	resolved := make([]Node, len(nodes))
	for i, n := range nodes {
		r, err := n.resolve(now, force)
		if err != nil {
			return nil, err
		}
		resolved[i] = r
	}
	return resolved, nil
}

func (a All) check(now State) error {
	if err := a.validate(); err != nil {
		return err
	}
	for _, n := range a {
		if err := n.check(now); err != nil {
			return err
		}
	}
	return nil
}

func (a All) validate() error {
	if len(a) == 0 {
		return fmt.Errorf("%w: \"all\" is empty", ErrInvalid)
	}
	return noneMissing("all", a)
}

func noneMissing(what string, nodes []Node) error {
	for i, n := range nodes {
		if n == nil {
			return fmt.Errorf("%w: %s[%d] is no node", ErrInvalid, what, i)
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

func (a All) explain(w *explainer) {
	if len(a) == 1 {
		a[0].explain(w)
		return
	}
	w.list("all of:", a)
}

func (a All) appendJSON(b []byte) []byte { return appendList(b, "all", a) }

func appendList(b []byte, kind string, nodes []Node) []byte {
	b = append(b, `{"`+kind+`":[`...)
	for i, n := range nodes {
		if i > 0 {
			b = append(b, ',')
		}
		b = n.appendJSON(b)
	}
	return append(b, "]}"...)
}

func allFromTree(tree any, at path) (Node, error) {
	nodes, err := nodesFromTree(tree, at)
	if err != nil {
		return nil, err
	}
	return All(nodes), nil
}

// nodesFromTree reads a list of nodes that is not empty.
func nodesFromTree(tree any, at path) ([]Node, error) {
	list, ok := asList(tree)
	if !ok {
		return nil, at.errorf("is a list of nodes, not %s", describe(tree))
	}
	if len(list) == 0 {
		return nil, at.errorf("is empty")
	}
	nodes := make([]Node, len(list))
	for i, t := range list {
		n, err := nodeFromTree(t, at.element(i))
		if err != nil {
			return nil, err
		}
		nodes[i] = n
	}
	return nodes, nil
}
