package tokens

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tpm2-p11/tpm2-p11/internal/p11uri"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// Key is a key and where it is.
type Key struct {
	Slot  int // its token's place in Set.Tokens
	Token *keystore.Token
	Entry keystore.Entry
}

// Name is what somebody calls a key by: a URI, or plain text, which is a label and may be a persistent handle
// ("0x81000100") or a CKA_ID in hex too.
type Name struct {
	URI    *p11uri.URI     // nil for plain text
	Handle provider.Handle // 0 when it is not one

	label string
	id    []byte
}

// ParseName reads a name. Errors wrap p11uri.ErrSyntax, or keystore.ErrNotFound for an empty one.
func ParseName(s string) (Name, error) {
	if p11uri.Is(s) {
		u, err := p11uri.Parse(s)
		if err != nil {
			return Name{}, err
		}
		return Name{URI: &u}, nil
	}
	if s == "" {
		return Name{}, fmt.Errorf("%w: the key's name is empty", keystore.ErrNotFound)
	}
	n := Name{label: s}
	if digits, ok := strings.CutPrefix(strings.ToLower(s), "0x"); ok {
		if h, err := strconv.ParseUint(digits, 16, 32); err == nil && h>>24 == 0x81 {
			n.Handle = provider.Handle(h)
		}
	}
	if id, err := hex.DecodeString(s); err == nil {
		n.id = id
	}
	return n, nil
}

// QuoteName is a name for messages. A URI's query is left out, and a URI that cannot be read altogether: a PIN may be
// anywhere in it.
func QuoteName(s string) string {
	if !p11uri.Is(s) {
		return strconv.Quote(s)
	}
	u, err := p11uri.Parse(s)
	if err != nil {
		return "by URI"
	}
	return strconv.Quote(u.String())
}

// Traits are what a key answers to.
type Traits struct {
	Label  string
	CKAID  []byte
	Handle provider.Handle // 0 for none, or when it is not known
	Slot   int
	Token  string // label
	Serial string // of the token

	HasCertificate bool
}

// Matches tells whether a key with these traits answers to the name.
func (n Name) Matches(t Traits) bool {
	if n.URI != nil {
		return n.URI.Matches(t.attributes(n.URI.Path[p11uri.Type]))
	}
	return t.Label == n.label ||
		n.Handle != 0 && t.Handle == n.Handle ||
		n.id != nil && bytes.Equal(t.CKAID, n.id)
}

// attributes are what a URI can select a key by. Each of a key's objects stands for the key.
func (t Traits) attributes(kind string) p11uri.Attributes {
	have := p11uri.Attributes{
		p11uri.Token:        t.Token,
		p11uri.Serial:       t.Serial,
		p11uri.Manufacturer: p11uri.OurManufacturer,
		p11uri.Model:        p11uri.OurModel,
		p11uri.SlotID:       strconv.Itoa(t.Slot),
		p11uri.Object:       t.Label,
		p11uri.ID:           string(t.CKAID),
	}
	if kind == "private" || kind == "public" || kind == "cert" && t.HasCertificate {
		have[p11uri.Type] = kind
	}
	return have
}

// URI names the key alone.
func (t Traits) URI() string {
	return p11uri.URI{Path: p11uri.Attributes{p11uri.Token: t.Token, p11uri.Object: t.Label, p11uri.ID: string(t.CKAID)}}.String()
}

// URI names the key alone.
func (k Key) URI() string {
	return Traits{Token: k.Token.Label(), Label: k.Entry.Label, CKAID: k.Entry.CKAID}.URI()
}

// Find gives the one key that answers to a name, among the initialised tokens at the places in slots (nil for all).
// keystore.ErrNotInitialized when there is no such token, ErrNotFound, or ErrAmbiguous, which names the keys. What to do
// next is its callers' to say. Stores that cannot be read are passed over as long as the key is in another one; otherwise
// the error is theirs. It asks no TPM.
func (s *Set) Find(n Name, slots []int) (Key, error) {
	if slots == nil {
		for slot := range s.Tokens {
			slots = append(slots, slot)
		}
	}
	var found []Key
	var dirs []string
	var searched []*keystore.Token
	var unusable error
	for _, slot := range slots {
		token := s.Tokens[slot]
		dirs = append(dirs, token.Dir())
		entries, err := answering(token, slot, n)
		if err != nil {
			if !errors.Is(err, keystore.ErrNotInitialized) {
				unusable = errors.Join(unusable, err)
			}
			continue
		}
		searched = append(searched, token)
		for _, e := range entries {
			found = append(found, Key{slot, token, e})
		}
	}
	switch {
	case len(found) == 0 && unusable != nil:
		return Key{}, unusable
	case len(searched) == 0:
		return Key{}, fmt.Errorf("%w: no token at %s", keystore.ErrNotInitialized, strings.Join(dirs, ", "))
	case len(found) == 0:
		return Key{}, fmt.Errorf("%w in %s%s", keystore.ErrNotFound, strings.Join(dirs, ", "), keystore.UnusableHint(searched...))
	case len(found) > 1:
		var uris []string
		for _, k := range found {
			uris = append(uris, k.URI())
		}
		return Key{}, Ambiguous(uris)
	}
	return found[0], nil
}

// answering are the keys of an initialised token that answer to a name.
func answering(t *keystore.Token, slot int, n Name) ([]keystore.Entry, error) {
	if err := t.Check(); err != nil {
		return nil, err
	}
	label, serial := t.Label(), t.Serial()
	return t.Search(func(g *keystore.Glance) bool {
		return !g.Secret && n.Matches(Traits{
			Label: g.Label, CKAID: g.CKAID, Handle: g.Handle, Slot: slot, Token: label, Serial: serial, HasCertificate: g.Chained,
		})
	})
}

// Ambiguous is a keystore.ErrAmbiguous that names the keys, of many the first.
func Ambiguous(uris []string) error {
	const most = 5
	slices.Sort(uris)
	if more := len(uris) - most; more > 0 {
		uris = append(uris[:most], fmt.Sprintf("and %d more", more))
	}
	return fmt.Errorf("%w: %s", keystore.ErrAmbiguous, strings.Join(uris, ", "))
}
