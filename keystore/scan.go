package keystore

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/tpm2-p11/tpm2-p11/provider"
)

// Same tells whether two readings gave the same: nothing was written between them. It may be false although nothing was.
func (e Entry) Same(other Entry) bool {
	return e.ID == other.ID && e.OwnPIN == other.OwnPIN && e.seen.files.same(other.seen.files)
}

// Keys reads all keys, sorted by label then ID. A file that cannot be understood is skipped with a warning in the log and
// listed by Problems. A key whose sidecar is skipped is what its PEM says, unless a newer version wrote the sidecar.
func (t *Token) Keys() ([]Entry, error) { return t.Search(func(g *Glance) bool { return !g.Secret }) }

// Secrets are the secrets, data and certificates of nobody's of the store, sorted by label then ID, as Keys are the keys. Neither list has the other's entries.
func (t *Token) Secrets() ([]Entry, error) { return t.Search(func(g *Glance) bool { return g.Secret }) }

// Entries are Keys and then Secrets, of one moment.
func (t *Token) Entries() ([]Entry, error) { return t.Search(func(*Glance) bool { return true }) }

// Search reads the keys and secrets that are wanted by what is seen of them at a glance, in the order of Entries; the other ones' files
// stay closed, but for their sidecars. wanted is called more than once for a key, and decides for good when all its files were read.
// Where nothing is wanted so, every file is read: a sidecar may be another key's.
func (t *Token) Search(wanted func(*Glance) bool) ([]Entry, error) {
	var entries []Entry
	if err := t.Walk(wanted, func(e Entry) { entries = append(entries, e) }); err != nil {
		return nil, err
	}
	slices.SortFunc(entries, func(a, b Entry) int {
		return cmp.Or(compareBool(a.Secret != nil, b.Secret != nil), cmp.Compare(a.Label, b.Label), cmp.Compare(a.ID, b.ID))
	})
	return entries, nil
}

// Walk is Search for many keys that need not all be in memory at once: use gets one after the other. It is the order of Entries but where
// a sidecar is not the key's. use and wanted must not search themselves.
func (t *Token) Walk(wanted func(*Glance) bool, use func(Entry)) error {
	hasPIN := t.HasPIN()
	return t.scanner.look(func(l *look) error {
		l.find(wanted, func(r *record) { use(r.finish(hasPIN)) })
		return nil
	})
}

// Known reads the key or secret with this ID as it is now, if a search saw it before: no other key's files are looked at.
// ErrNotFound when it was not seen, or is no longer there.
func (t *Token) Known(id string) (Entry, error) {
	hasPIN := t.HasPIN()
	r, err := t.scanner.again(id)
	if err != nil {
		return Entry{}, err
	}
	if r == nil {
		return Entry{}, fmt.Errorf("%w in %s: %s", ErrNotFound, t.Dir(), id)
	}
	return r.finish(hasPIN), nil
}

// compareBool puts false before true.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// findAll gives the keys that answer to q, in the order of Keys.
func (t *Token) findAll(q Query) ([]Entry, error) {
	return t.Search(func(g *Glance) bool { return !g.Secret && q.matches(g) })
}

// finish adds what depends on the token: without a token's secret, an authValue is the key's own.
func (r *record) finish(hasPIN bool) Entry {
	e := r.entry
	if !hasPIN && !e.EmptyAuth {
		e.OwnPIN = true
	}
	return e
}

// Problems are the store's files that Keys skips, and keys that no longer load since the token has another SRK, for doctor.
func (t *Token) Problems() ([]Problem, error) {
	a := t.Now().anchor
	var problems []Problem
	err := t.scanner.look(func(l *look) error {
		l.checkAll()
		for _, id := range l.ids {
			k := l.known[id]
			problems = append(problems, k.problems...)
			if k.copied != nil {
				problems = append(problems, *k.copied)
			} else if a != nil && k.listed && k.srk != "" && k.srk != string(a.SRK.Name) {
				problems = append(problems, Problem{
					File: id + pemSuffix,
					Err: fmt.Errorf("%w: it was made under the storage root key %x, the token's is %x", provider.ErrWrongTPM,
						k.srk, []byte(a.SRK.Name)),
				})
			}
		}
		return nil
	})
	return problems, err
}

// UnusableHint adds to the message that a key was not found where to look, if the stores have files that cannot be used. It is
// empty otherwise.
func UnusableHint(all ...*Token) string {
	n := 0
	for _, t := range all {
		problems, err := t.Problems()
		if err == nil {
			n += len(problems)
		}
	}
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" (files there that cannot be used: %d; run `tpm2-p11 doctor`)", n)
}

// Find gives the one key that answers to q: ErrNotFound, or ErrAmbiguous naming the candidates.
func (t *Token) Find(q Query) (Entry, error) {
	found, err := t.findAll(q)
	switch {
	case err != nil:
		return Entry{}, err
	case len(found) == 0:
		return Entry{}, fmt.Errorf("%w in %s: %s%s", ErrNotFound, t.Dir(), q, UnusableHint(t))
	case len(found) == 1:
		return found[0], nil
	}
	var names []string
	for _, e := range found {
		names = append(names, fmt.Sprintf("%s with CKA_ID %x", e, e.CKAID))
	}
	return Entry{}, fmt.Errorf("%w: %s: %s", ErrAmbiguous, q, strings.Join(names, "; "))
}
