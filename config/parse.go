package config

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/BurntSushi/toml"

	"github.com/tpm2-p11/tpm2-p11/internal/place"
	"github.com/tpm2-p11/tpm2-p11/policy"
)

// Parse reads configuration text; name stands for the file in errors ("tpm2-p11.conf:12: …"), and relative paths are
// resolved against its folder. Errors about the text are *Error.
func Parse(name string, text []byte) (Config, error) { return thisProcess().parse(name, text) }

func (p process) parse(name string, text []byte) (Config, error) {
	dir, err := filepath.Abs(filepath.Dir(name))
	if err != nil {
		return Config{}, err
	}
	if line := notUTF8(text); line > 0 {
		return Config{}, &Error{Path: name, Line: line, Err: errors.New("it is not UTF-8 text")}
	}
	lines, err := place.TOML(string(text))
	if err != nil {
		return Config{}, &Error{Path: name, Line: lines.Of(""), Err: err}
	}
	var tree map[string]any
	if _, err := toml.Decode(string(text), &tree); err != nil {
		var syntax toml.ParseError
		if errors.As(err, &syntax) {
			// The parser counts some of its lines from 0.
			return Config{}, &Error{Path: name, Line: max(1, syntax.Position.Line), Err: errors.New(syntax.Message)}
		}
		return Config{}, &Error{Path: name, Err: err}
	}
	doc := &document{name: name, dir: dir, lines: lines}
	top, c := table{doc: doc, members: tree}, p.defaults()
	c.Path = name
	if err = readConfig(top, &c); err == nil {
		err = c.distinct()
	}
	if err != nil {
		return Config{Log: top.log(p.defaults().Log)}, err
	}
	return c, nil
}

// log is where a configuration's log is, by default where it does not say or is wrong in that, too.
func (t table) log(otherwise string) string {
	log := otherwise
	if v, said := t.member("log"); said && v.log(&log) != nil {
		return otherwise
	}
	return log
}

// notUTF8 is the first line that is not UTF-8, 0 when all are.
func notUTF8(text []byte) int {
	line := 1
	for part := range bytes.Lines(text) {
		if !utf8.Valid(part) {
			return line
		}
		line++
	}
	return 0
}

func readConfig(t table, c *Config) error {
	single, several := c.Tokens[0], []Token{}
	err := t.read(fields{
		"log":                   func(v value) error { return v.log(&c.Log) },
		"log_level":             func(v value) error { return v.logLevel(&c.Debug) },
		"verify_signatures":     func(v value) error { return v.oneOf(&c.Verify, "rsa", "all", "none") },
		"helper":                func(v value) error { return v.path(&c.Helper) },
		"forked":                func(v value) error { return v.oneOf(&c.Forked, "use", "all") },
		"socket":                func(v value) error { return v.path(&c.Socket) },
		"legacy":                func(v value) error { return v.texts(&c.Legacy, LegacyUses()...) },
		"serve":                 func(v value) error { return readLimits(v, &c.Limits) },
		"access":                func(v value) error { return readAccess(v, &c.Access) },
		"kms":                   func(v value) error { return readKMS(v, &c.KMS) },
		"tpm":                   func(v value) error { return v.address(&single) },
		"label":                 func(v value) error { return v.tokenLabel(&single.Label) },
		"store":                 func(v value) error { return v.path(&single.Store) },
		"owner_auth_file":       func(v value) error { return v.path(&single.OwnerAuthFile) },
		"endorsement_auth_file": func(v value) error { return v.path(&single.EndorsementAuthFile) },
		"key":                   func(v value) error { return readKeys(v, "key", &single) },
		"policy":                func(v value) error { return v.policy(&single.Policy) },
		"approved":              func(v value) error { return v.paths(&single.Approved) },
		"token":                 func(v value) error { return readTokens(v, &several) },
	})
	if err != nil {
		return err
	}
	if len(several) == 0 {
		c.Tokens = []Token{single}
		return nil
	}
	for _, name := range []string{"label", "tpm", "store", "owner_auth_file", "endorsement_auth_file", "policy", "approved", "key"} {
		if v, both := t.member(name); both {
			return v.errorf("%q at the top level is for a single token, and there are [[token]] tables: put it into one of them", name)
		}
	}
	c.Tokens = several
	return nil
}

func readTokens(v value, tokens *[]Token) error {
	tables, err := v.tables("token")
	if err != nil {
		return err
	}
	for _, t := range tables {
		token := Token{Line: t.line(), Approved: defaultApproved()}
		err := t.read(fields{
			"label":                 func(v value) error { return v.tokenLabel(&token.Label) },
			"tpm":                   func(v value) error { return v.address(&token) },
			"store":                 func(v value) error { return v.path(&token.Store) },
			"owner_auth_file":       func(v value) error { return v.path(&token.OwnerAuthFile) },
			"endorsement_auth_file": func(v value) error { return v.path(&token.EndorsementAuthFile) },
			"key":                   func(v value) error { return readKeys(v, "token.key", &token) },
			"policy":                func(v value) error { return v.policy(&token.Policy) },
			"approved":              func(v value) error { return v.paths(&token.Approved) },
		})
		if err != nil {
			return err
		}
		if token.Label == "" {
			return t.errorf("a token needs a label")
		}
		if token.Store == "" {
			return t.errorf("token %q needs a store", token.Label)
		}
		*tokens = append(*tokens, token)
	}
	return nil
}

func readKeys(v value, header string, token *Token) error {
	tables, err := v.tables(header)
	if err != nil {
		return err
	}
	for _, t := range tables {
		k := Key{Type: "rsa2048", Use: "sign", Line: t.line()}
		err := t.read(fields{
			"label":  func(v value) error { return v.text(&k.Label) },
			"handle": func(v value) error { return v.handle(&k.Handle) },
			"type":   func(v value) error { return v.oneOf(&k.Type, KeyTypes()...) },
			"use": func(v value) error {
				return v.oneOf(&k.Use, "sign", "decrypt", "sign,decrypt", "derive", "sign,derive")
			},
			"policy":      func(v value) error { return v.policy(&k.Policy) },
			"certificate": func(v value) error { return v.path(&k.Certificate) },
		})
		if err != nil {
			return err
		}
		if k.Label == "" {
			return t.errorf("a key needs a label")
		}
		if k.Handle == 0 {
			return t.errorf("key %q needs a handle, such as 0x81000100: by it the key is found again", k.Label)
		}
		for _, other := range token.Keys {
			if k.Label == other.Label {
				return t.errorf("key %q is on line %d already", k.Label, other.Line)
			}
			if k.Handle == other.Handle {
				return t.errorf("key %q has the handle 0x%08x of key %q on line %d", k.Label, k.Handle, other.Label, other.Line)
			}
		}
		token.Keys = append(token.Keys, k)
	}
	return nil
}

// tokenLabel reads what a token can be called.
func (v value) tokenLabel(to *string) error {
	if err := v.text(to); err != nil {
		return err
	}
	if n := len(*to); n > MaxTokenLabel {
		return v.errorf("%s has %d bytes, and at most %d are allowed", v.name, n, MaxTokenLabel)
	}
	if strings.HasSuffix(*to, " ") {
		return v.errorf("%s ends in a space, which applications do not see", v.name)
	}
	return nil
}

// address reads a TPM's address, which package provider/transport judges.
func (v value) address(to *Token) error {
	to.TPMLine = v.doc.lines.Of(v.place)
	return v.text(&to.TPM)
}

func readAccess(v value, access *[]Access) error {
	tables, err := v.tables("access")
	if err != nil {
		return err
	}
	for _, t := range tables {
		a := Access{Line: t.line()}
		err := t.read(fields{
			"users":    func(v value) error { return v.texts(&a.Users) },
			"groups":   func(v value) error { return v.texts(&a.Groups) },
			"token":    func(v value) error { return v.text(&a.Token) },
			"keys":     func(v value) error { return v.texts(&a.Keys) },
			"purposes": func(v value) error { return v.texts(&a.Purposes, "sign", "decrypt", "unwrap", "manage") },
		})
		if err != nil {
			return err
		}
		if len(a.Users) == 0 && len(a.Groups) == 0 {
			return t.errorf("access needs users or groups")
		}
		if len(a.Purposes) == 0 {
			return t.errorf(`access needs purposes, such as ["sign"]`)
		}
		if len(a.Keys) > 0 && slices.Contains(a.Purposes, "manage") {
			return t.errorf(`who may "manage" makes keys and deletes them: that is for whole tokens, so leave out keys`)
		}
		*access = append(*access, a)
	}
	return nil
}

func (v value) log(to *string) error {
	if err := v.text(to); err != nil {
		return err
	}
	path, isFile := strings.CutPrefix(*to, "file:")
	if isFile && path != "" {
		*to = "file:" + v.doc.resolve(path)
		return nil
	}
	switch *to {
	case "syslog", "stderr", "off":
		return nil
	}
	return v.errorf(`%s is "syslog", "stderr", "file:/path" or "off", not %q`, v.name, *to)
}

func (v value) logLevel(debug *bool) error {
	var level string
	if err := v.oneOf(&level, "warning", "debug"); err != nil {
		return err
	}
	*debug = level == "debug"
	return nil
}

func (v value) handle(to *uint32) error {
	n, ok := v.content.(int64)
	if !ok {
		return v.errorf("%s is a number such as 0x81000100, not %s", v.name, describe(v.content))
	}
	if n < FirstHandle || n > LastHandle {
		return v.errorf("%s %#x is not from 0x%08x to 0x%08x", v.name, n, FirstHandle, LastHandle)
	}
	*to = uint32(n)
	return nil
}

// policy reads a tree or, as people write it, a PCR selection.
func (v value) policy(to *policy.Policy) (err error) {
	switch content := v.content.(type) {
	case string:
		*to, err = policy.Parse(content)
	case map[string]any:
		*to, err = policy.FromTree(content)
		*to = to.WithFiles(v.doc.resolve)
	default:
		err = fmt.Errorf(`it is "sha256:0,1,2,7" or a tree such as {pin=true}, not %s`, describe(content))
	}
	at := v.place
	if where := new(policy.PlaceError); errors.As(err, &where) {
		at = strings.TrimSuffix(v.place+"."+where.Place, ".")
	}
	if err != nil {
		return v.doc.errorf(v.doc.lines.Of(at), "%s: %w", v.name, err)
	}
	return nil
}
