package policy

import (
	"fmt"
	"strconv"
)

// maxDepth bounds how deeply nodes nest.
const maxDepth = 16

// FromTree reads a policy from what a TOML or JSON decoder made of one:
// {pcr={bank="sha256", indices=[0,7]}}, {pcr={bank="sha256", "7"="00…"}}, {pin=true}, {all=[…]}.
// Errors wrap ErrInvalid and name the place, as in all[1].pcr.bank.
func FromTree(tree any) (Policy, error) {
	root, err := nodeFromTree(tree, path{})
	if err != nil {
		return Policy{}, err
	}
	return Policy{Root: root}, nil
}

func nodeFromTree(tree any, at path) (Node, error) {
	if at.depth > maxDepth {
		return nil, at.errorf("nests deeper than %d", maxDepth)
	}
	table, ok := tree.(map[string]any)
	if !ok {
		return nil, at.errorf("is a table such as {pin=true}, not %s", describe(tree))
	}
	if len(table) != 1 {
		return nil, at.errorf("has one member (all, pcr or pin), not %d", len(table))
	}
	for kind, content := range table {
		at := at.member(kind)
		switch kind {
		case "all":
			return allFromTree(content, at)
		case "pcr":
			return pcrFromTree(content, at)
		case "pin":
			return pinFromTree(content, at)
		default:
			return nil, at.errorf("is no known node (known: all, pcr, pin)")
		}
	}
	panic("unreachable: the table has one member")
}

// path is a place in a tree, for errors.
type path struct {
	text  string
	depth int
}

func (p path) member(name string) path {
	if strconv.Quote(name) != `"`+name+`"` {
		name = strconv.Quote(name)
	}
	if p.text != "" {
		name = p.text + "." + name
	}
	return path{text: name, depth: p.depth}
}

func (p path) element(i int) path {
	return path{text: p.text + "[" + strconv.Itoa(i) + "]", depth: p.depth + 1}
}

func (p path) errorf(format string, arguments ...any) error {
	where := p.text
	if where == "" {
		where = "it"
	}
	return fmt.Errorf("%w: %s %s", ErrInvalid, where, fmt.Sprintf(format, arguments...))
}

func (p path) wrap(err error) error { return fmt.Errorf("%s: %w", p.text, err) }

// asList reads a list as decoders give it; TOML's arrays of tables have a type of their own.
func asList(v any) ([]any, bool) {
	switch v := v.(type) {
	case []any:
		return v, true
	case []map[string]any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = v[i]
		}
		return list, true
	}
	return nil, false
}

// describe names the kind of a decoded value.
func describe(v any) string {
	switch v.(type) {
	case nil:
		return "nothing"
	case string:
		return "a string"
	case bool:
		return "a boolean"
	case []any, []map[string]any:
		return "a list"
	case map[string]any:
		return "a table"
	}
	return fmt.Sprintf("%v", v)
}
