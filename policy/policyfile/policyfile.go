// Package policyfile reads policies from the files that people and programs
// write them in, TOML or JSON, strictly: what is not understood is an error
// with file and line.
package policyfile

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/internal/place"
	"github.com/tpm2-p11/tpm2-p11/policy"
)

// Version is the only version of the format.
const Version = 1

// MaxSize is the longest policy file in bytes. One approval takes some hundred, so that it is far from what anybody writes, and
// reading a file takes milliseconds whatever is in it.
const MaxSize = 64 << 10

// MaxApproved bounds the approved policies of a file: each use of a key verifies their signatures until one is its own.
const MaxApproved = 256

// File is a policy file.
//
//	version = 1
//	hash    = "sha256"
//	[policy]
//	all = [ { pcr = { bank = "sha256", indices = [0, 7] } }, { pin = true } ]
//
// version and hash may be left out. A file that is a node alone, without [policy] around it, is read too.
//
// Approved policies are in files of their own, or beside the policy that asks for them:
//
//	[[approved]]
//	name = "ami-2026-11-20"
//	pcr  = { bank = "sha256", "7" = "00…" }     # any node
//	sig  = "MEUCIQ…"                             # of the policy's digest and ref, in Base64; none for authorize_nv
type File struct {
	Hash     tpm2.TPMIAlgHash // of the digest, the nameAlg of what the policy is for; SHA-256 by default
	Policy   policy.Policy    // zero in a file without one
	Approved []policy.Approved
}

// Error is what is wrong with a policy file, and where.
type Error = place.Error

// Parse reads a policy file's text, of at most MaxSize bytes; name stands for the file in errors, which are *Error.
func Parse(name string, text []byte) (File, error) {
	d, err := decode(name, text)
	if err != nil {
		return File{}, err
	}
	return d.file()
}

// file reads the decoded file.
func (d *document) file() (f File, err error) {
	f = File{Hash: tpm2.TPMAlgSHA256}
	if d.isNode() {
		f.Policy, err = d.policy("", d.tree)
		return f, err
	}
	for _, member := range sorted(d.tree) {
		if err := f.read(d, member, d.tree[member]); err != nil {
			return File{}, err
		}
	}
	if f.Policy.IsZero() && len(f.Approved) == 0 {
		return File{}, d.errorf("", "there is no [policy] in it")
	}
	return f, nil
}

func (f *File) read(d *document, member string, value any) (err error) {
	switch member {
	case "version":
		if fmt.Sprint(value) != fmt.Sprint(Version) {
			return d.errorf(member, "version %v of the format is not known: it is %d", value, Version)
		}
	case "hash":
		switch value {
		case "sha256":
			f.Hash = tpm2.TPMAlgSHA256
		case "sha384":
			f.Hash = tpm2.TPMAlgSHA384
		default:
			return d.errorf(member, `hash is "sha256" or "sha384", not %v`, value)
		}
	case "policy":
		f.Policy, err = d.policy(member, value)
	case "approved":
		f.Approved, err = d.approved(member, value)
	default:
		return d.errorf(member, "%q is not known here (known: version, hash, policy, approved)", member)
	}
	return err
}

// document is a decoded file.
type document struct {
	name  string
	tree  map[string]any
	lines place.Lines
}

func decode(name string, text []byte) (*document, error) {
	d := &document{name: name}
	if len(text) > MaxSize {
		return nil, d.errorf("", "a policy file has %d bytes at most, not %d", MaxSize, len(text))
	}
	if !utf8.Valid(text) {
		return nil, d.errorf("", "it is not UTF-8 text")
	}
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("-----BEGIN ")) {
		return nil, d.errorf("", "it is PEM, and no policy: a policy names a signer's public key, authorize = { signer = \"file:ci.pub\" }")
	}
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
		tree, lines, err := place.DecodeJSON(text)
		if d.lines = lines; err != nil {
			return nil, d.errorf("", "%w", err)
		}
		d.tree = tree.(map[string]any)
		return d, nil
	}
	var err error
	if d.lines, err = place.TOML(string(text)); err != nil {
		return nil, d.errorf("", "%w", err)
	}
	if _, err := toml.Decode(string(text), &d.tree); err != nil {
		var syntax toml.ParseError
		if errors.As(err, &syntax) {
			return nil, &Error{Path: name, Line: max(1, syntax.Position.Line), Err: errors.New(syntax.Message)}
		}
		return nil, d.errorf("", "%w", err)
	}
	return d, nil
}

func (d *document) errorf(at, format string, arguments ...any) error {
	return &Error{Path: d.name, Line: d.lines.Of(at), Err: fmt.Errorf(format, arguments...)}
}

// resolve is a path that the file names: relative ones begin at its folder.
func (d *document) resolve(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(d.name), path)
}

// isNode tells a file that is one node.
func (d *document) isNode() bool {
	if len(d.tree) != 1 {
		return false
	}
	for name := range d.tree {
		return isKind(name)
	}
	return false
}

func isKind(name string) bool { return slices.Contains(policy.Kinds(), name) }

func sorted[V any](table map[string]V) []string { return slices.Sorted(maps.Keys(table)) }

// asTables reads an array of tables as decoders give it.
func asTables(v any) ([]map[string]any, bool) {
	if tables, ok := v.([]map[string]any); ok {
		return tables, true
	}
	list, ok := v.([]any)
	tables := make([]map[string]any, len(list))
	for i, element := range list {
		table, isTable := element.(map[string]any)
		if ok = ok && isTable; ok {
			tables[i] = table
		}
	}
	return tables, ok
}

// policy reads the tree at a place of the file.
func (d *document) policy(at string, tree any) (policy.Policy, error) {
	p, err := policy.FromTree(tree)
	if err == nil {
		return p.WithFiles(d.resolve), nil
	}
	var where *policy.PlaceError
	if errors.As(err, &where) {
		at = strings.Trim(at+"."+where.Place, ".")
	}
	return p, d.errorf(at, "%w", err)
}
