// Package p11uri reads and writes PKCS #11 URIs (RFC 7512), as far as they name
// tokens and objects, and the PIN files that they point to.
//
// It is strict: what it does not understand in the part that selects an object
// is an error, since skipping it would widen the selection. It looks for nothing
// itself; callers match what they have with URI.Matches.
package p11uri

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// The path attributes of RFC 7512, section 2.3.
const (
	Token               = "token"
	Manufacturer        = "manufacturer"
	Serial              = "serial"
	Model               = "model"
	Object              = "object"
	Type                = "type" // one of public, private, cert, secret-key, data
	ID                  = "id"   // CKA_ID, any bytes
	SlotID              = "slot-id"
	SlotDescription     = "slot-description"
	SlotManufacturer    = "slot-manufacturer"
	LibraryManufacturer = "library-manufacturer"
	LibraryDescription  = "library-description"
	LibraryVersion      = "library-version"
)

// What a token of ours tells of itself besides its label and serial: in
// C_GetTokenInfo, and to URIs that select by it.
const (
	OurManufacturer = "tpm2-p11"
	OurModel        = "TPM 2.0"
)

// ErrSyntax is wrapped by every error of Parse.
var ErrSyntax = errors.New("not a usable PKCS #11 URI")

const scheme = "pkcs11:"

// maxLength bounds a URI's length in bytes; the longest sensible one, every attribute percent-encoded, is a fraction of it.
const maxLength = 8192

// Attributes are path attributes by name, decoded. ID holds raw bytes, all others UTF-8.
type Attributes map[string]string

// URI is a PKCS #11 URI. The zero value names everything.
type URI struct {
	// Path holds the attributes that select, decoded and checked. An
	// attribute that is there with an empty value selects what has an empty value.
	Path Attributes
	// PINSource is the absolute path of the file that holds the PIN, "" for none.
	PINSource string
	// ModulePath is the PKCS #11 module to look in, "" for none. Whoever is a module, or has a store of its own, passes over it.
	ModulePath string
}

// Is tells whether a name is meant as a PKCS #11 URI: it starts with "pkcs11:", in any case.
func Is(name string) bool {
	return len(name) >= len(scheme) && strings.EqualFold(name[:len(scheme)], scheme)
}

// Parse reads a URI.
//
// Of the query it takes pin-source and module-path, refuses pin-value (a PIN on command lines
// and in configurations is no secret for long) and ignores the rest, as section 2.4
// of the RFC says. No error repeats what might be a PIN.
func Parse(s string) (URI, error) {
	if !Is(s) {
		return URI{}, fmt.Errorf("%w: it does not start with %q", ErrSyntax, scheme)
	}
	if len(s) > maxLength {
		return URI{}, fmt.Errorf("%w: it is %d bytes long, at most %d are read", ErrSyntax, len(s), maxLength)
	}
	path, query, hasQuery := strings.Cut(s[len(scheme):], "?")
	u := URI{Path: Attributes{}}
	if err := u.parsePath(path); err != nil {
		return URI{}, err
	}
	if hasQuery {
		if err := u.parseQuery(query); err != nil {
			return URI{}, err
		}
	}
	return u, nil
}

func (u *URI) parsePath(path string) error {
	if path == "" {
		return nil
	}
	for i, part := range strings.Split(path, ";") {
		name, raw, ok := strings.Cut(part, "=")
		if !ok {
			return fmt.Errorf("%w: part %d of its path is not attribute=value", ErrSyntax, i+1)
		}
		if name == "pin-value" || name == "pin-source" {
			return fmt.Errorf("%w: %s selects no object: a PIN's file is named after a question mark, ?pin-source=/path", ErrSyntax, name)
		}
		check, known := checks[name]
		if !known {
			return fmt.Errorf("%w: it selects by the attribute %q, which is not known here", ErrSyntax, name)
		}
		if _, twice := u.Path[name]; twice {
			return fmt.Errorf("%w: the attribute %q is there twice", ErrSyntax, name)
		}
		value, err := decode(raw, pathChars)
		if err != nil {
			return fmt.Errorf("%w: attribute %q: %v", ErrSyntax, name, err)
		}
		if value, err = check(value); err != nil {
			return fmt.Errorf("%w: attribute %q: %v", ErrSyntax, name, err)
		}
		u.Path[name] = value
	}
	return nil
}

func (u *URI) parseQuery(query string) error {
	if query == "" {
		return nil
	}
	for _, part := range strings.Split(query, "&") {
		name, raw, ok := strings.Cut(part, "=")
		if !ok {
			return fmt.Errorf("%w: its query is not made of attribute=value", ErrSyntax)
		}
		switch name {
		case "pin-value":
			return fmt.Errorf("%w: it holds a pin-value, which every reader of a process list or log would see: put the PIN in a file and name it with pin-source=/path", ErrSyntax)
		case "pin-source":
			if u.PINSource != "" {
				return fmt.Errorf("%w: pin-source is there twice", ErrSyntax)
			}
			value, err := decode(raw, queryChars)
			if err != nil {
				return fmt.Errorf("%w: pin-source has %v", ErrSyntax, err)
			}
			if u.PINSource, err = pinPath(value); err != nil {
				return fmt.Errorf("%w: %v", ErrSyntax, err)
			}
		case "module-path":
			value, err := decode(raw, queryChars)
			if err != nil || u.ModulePath != "" || value == "" || value[0] == '-' || strings.ContainsRune(value, 0) {
				return fmt.Errorf("%w: module-path is the path of one module, module-path=/usr/lib/module.so", ErrSyntax)
			}
			u.ModulePath = value
		}
	}
	return nil
}

// Matches tells whether everything that the URI selects by is there in have and equal.
func (u URI) Matches(have Attributes) bool {
	for name, want := range u.Path {
		if got, ok := have[name]; !ok || got != want {
			return false
		}
	}
	return true
}

// String is the URI's path in a fixed order of attributes. The query is left out: String is for lists and messages.
func (u URI) String() string {
	var b strings.Builder
	b.WriteString(scheme)
	separator := ""
	for _, name := range order {
		value, ok := u.Path[name]
		if !ok {
			continue
		}
		b.WriteString(separator + name + "=")
		encode(&b, value, name == ID)
		separator = ";"
	}
	return b.String()
}

// order is the order that String writes: from the token down to the object, then what is rarely there.
var order = []string{
	Token, Serial, Manufacturer, Model, Object, ID, Type,
	SlotID, SlotDescription, SlotManufacturer,
	LibraryManufacturer, LibraryDescription, LibraryVersion,
}

// checks holds for each path attribute what makes its value valid, and its canonical form.
var checks = map[string]func(string) (string, error){
	Token: text, Serial: text, Manufacturer: text, Model: text, Object: text,
	SlotDescription: text, SlotManufacturer: text,
	LibraryManufacturer: text, LibraryDescription: text, LibraryVersion: version,
	ID:     func(s string) (string, error) { return s, nil },
	Type:   objectType,
	SlotID: number,
}

func text(s string) (string, error) {
	if !utf8.ValidString(s) {
		return "", errors.New("the value is not UTF-8")
	}
	return s, nil
}

func objectType(s string) (string, error) {
	switch s {
	case "public", "private", "cert", "secret-key", "data":
		return s, nil
	}
	return "", fmt.Errorf("%q is none of public, private, cert, secret-key, data", s)
}

func number(s string) (string, error) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return "", fmt.Errorf("%q is not a decimal number", s)
	}
	if s = strings.TrimLeft(s, "0"); s == "" {
		s = "0"
	}
	return s, nil
}

// version reads major[.minor]; a missing minor is 0.
func version(s string) (string, error) {
	major, minor, dot := strings.Cut(s, ".")
	if !dot {
		minor = "0"
	}
	major, err := number(major)
	if err != nil {
		return "", err
	}
	if minor, err = number(minor); err != nil {
		return "", err
	}
	return major + "." + minor, nil
}
