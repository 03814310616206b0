package policy

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/tpm2-p11/tpm2-p11/internal/place"
)

// maxDepth bounds how deeply nodes nest.
const maxDepth = 16

// FromTree reads a policy from what a TOML or JSON decoder made of one:
// {pcr={bank="sha256", indices=[0,7]}}, {pcr={bank="sha256", "7"="00…"}}, {pin=true}, {clock={within="30d"}},
// {command="sign"}, {nv={index="0x01800010", op="le", value=5}}, {secret="owner"}, {authorize={signer="file:…", ref="…"}},
// {authorize_nv={index="0x01800001"}}, {all=[…]}, {any=[…]}. Errors are *PlaceError.
func FromTree(tree any) (Policy, error) {
	root, err := nodeFromTree(tree, path{root: true})
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
		return nil, at.errorf("has one member (%s), not %d", strings.Join(Kinds(), ", "), len(table))
	}
	for kind, content := range table {
		at := at.member(kind)
		at.root = at.root && kind != "any"
		if read, known := readers()[kind]; known {
			return read(content, at)
		}
		return nil, at.errorf("is no known node (known: %s)", strings.Join(Kinds(), ", "))
	}
	panic("unreachable: the table has one member")
}

// readers read the content of a node, by kind.
func readers() map[string]func(tree any, at path) (Node, error) {
	return map[string]func(tree any, at path) (Node, error){
		"all": allFromTree, "any": anyFromTree, "pcr": pcrFromTree, "pin": pinFromTree, "clock": clockFromTree,
		"command": commandFromTree, "nv": nvFromTree, "secret": secretFromTree,
		"authorize": authorizeFromTree, "authorize_nv": authorizeNVFromTree,
	}
}

// Kinds are the names of the nodes.
func Kinds() []string { return sorted(readers()) }

// sorted are the names of a table, so that of several errors it is always the same that is told.
func sorted[V any](table map[string]V) []string { return slices.Sorted(maps.Keys(table)) }

// PlaceError is an ErrInvalid about a tree.
type PlaceError struct {
	Place string // in the tree: all[1].pcr.bank; "" for all of it
	Err   error
}

// Error: `invalid policy: all[1].pin can only be true; leave it out for no PIN`.
func (e *PlaceError) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *PlaceError) Unwrap() error { return e.Err }

// path is a place in a tree, for errors.
type path struct {
	text  string
	depth int
	root  bool // of the policy, or the first node of an all there
}

func (p path) member(name string) path { return path{place.Join(p.text, name), p.depth, p.root} }

func (p path) element(i int) path {
	return path{place.Element(p.text, i), p.depth + 1, p.root && p.depth == 0 && i == 0}
}

func (p path) errorf(format string, arguments ...any) error {
	where := p.text
	if where == "" {
		where = "it"
	}
	return &PlaceError{p.text, fmt.Errorf("%w: %s %s", ErrInvalid, where, fmt.Sprintf(format, arguments...))}
}

func (p path) wrap(err error) error { return &PlaceError{p.text, fmt.Errorf("%s: %w", p.text, err)} }

// quoteJSON is text as JSON has it, "" for what is no text.
func quoteJSON(s string) string {
	if !utf8.ValidString(s) {
		return ""
	}
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		return ""
	}
	return strings.TrimSpace(b.String())
}

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
