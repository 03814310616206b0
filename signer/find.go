package signer

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/tpm2-p11/tpm2-p11/internal/p11uri"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// name is what Open was asked for: a URI, or plain text, which is a label and
// may be a persistent handle or a CKA_ID in hex too.
type name struct {
	uri    *p11uri.URI
	handle provider.Handle
	label  string
	id     []byte
}

func parseName(s string) (name, error) {
	if p11uri.Is(s) {
		u, err := p11uri.Parse(s)
		if err != nil {
			return name{}, err
		}
		if kind, ok := u.Path[p11uri.Type]; ok && kind != "private" {
			return name{}, fmt.Errorf("%w: it names an object of type %q, and a private key is wanted", p11uri.ErrSyntax, kind)
		}
		return name{uri: &u}, nil
	}
	if s == "" {
		return name{}, fmt.Errorf("%w: the name is empty", ErrNotFound)
	}
	n := name{label: s}
	if h, err := strconv.ParseUint(s, 0, 32); err == nil && strings.HasPrefix(s, "0x") && h>>24 == 0x81 {
		n.handle = provider.Handle(h)
	}
	if id, err := hex.DecodeString(s); err == nil {
		n.id = id
	}
	return n, nil
}

// printable is a name for messages. A URI's query is left out, and a URI that
// cannot be read altogether: a PIN may be anywhere in it.
func printable(s string) string {
	if !p11uri.Is(s) {
		return strconv.Quote(s)
	}
	u, err := p11uri.Parse(s)
	if err != nil {
		return "by URI"
	}
	return strconv.Quote(u.String())
}

// candidate is a key of one of the tokens.
type candidate struct {
	slot  int
	token *keystore.Token
	entry keystore.Entry
}

// String is the candidate as the URI that names it alone.
func (c candidate) String() string {
	return p11uri.URI{Path: p11uri.Attributes{
		p11uri.Token:  c.token.Label(),
		p11uri.Object: c.entry.Label,
		p11uri.ID:     string(c.entry.CKAID),
	}}.String()
}

func (c candidate) answersTo(n name) bool {
	if n.uri != nil {
		return n.uri.Matches(c.attributes())
	}
	return c.entry.Label == n.label ||
		n.handle != 0 && c.entry.Object.Handle == n.handle ||
		n.id != nil && bytes.Equal(c.entry.CKAID, n.id)
}

// find gives the one key of all tokens that answers to a name.
func find(all []*keystore.Token, n name) (candidate, error) {
	var found []candidate
	initialized := false
	for slot, token := range all {
		if !token.Initialized() {
			continue
		}
		initialized = true
		entries, err := token.Keys()
		if err != nil {
			return candidate{}, err
		}
		for _, e := range entries {
			if c := (candidate{slot, token, e}); c.answersTo(n) {
				found = append(found, c)
			}
		}
	}
	switch {
	case !initialized:
		return candidate{}, fmt.Errorf("%w: no token at %s: run `tpm2-p11 init` first", ErrNotInitialized, folders(all))
	case len(found) == 0 && n.handle != 0:
		return candidate{}, fmt.Errorf("%w in %s: adopt a key that other tools made with `tpm2-p11 key link 0x%08x`", ErrNotFound, folders(all), uint32(n.handle))
	case len(found) == 0:
		return candidate{}, fmt.Errorf("%w in %s: `tpm2-p11 key list` shows what there is", ErrNotFound, folders(all))
	case len(found) > 1:
		return candidate{}, fmt.Errorf("%w: %s", ErrAmbiguous, listed(found))
	}
	return found[0], nil
}

func folders(all []*keystore.Token) string {
	dirs := make([]string, len(all))
	for i, t := range all {
		dirs[i] = t.Dir()
	}
	return strings.Join(dirs, ", ")
}

func listed(found []candidate) string {
	const most = 5
	var names []string
	for _, c := range found[:min(len(found), most)] {
		names = append(names, c.String())
	}
	if more := len(found) - most; more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(names, ", ")
}

// attributes are what a URI can select a private key by.
func (c candidate) attributes() p11uri.Attributes {
	return p11uri.Attributes{
		p11uri.Token:  c.token.Label(),
		p11uri.Serial: c.token.Serial(),
		p11uri.SlotID: strconv.Itoa(c.slot),
		p11uri.Object: c.entry.Label,
		p11uri.ID:     string(c.entry.CKAID),
		p11uri.Type:   "private",

		p11uri.Manufacturer: p11uri.OurManufacturer,
		p11uri.Model:        p11uri.OurModel,
	}
}
