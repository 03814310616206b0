package keystore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/tpm2-p11/tpm2-p11/provider"
)

// scanner reads a store's keys and remembers what it read, file by file, as long as a file's stamp is the same.
type scanner struct {
	folder folder
	log    *slog.Logger

	mu     sync.Mutex
	known  map[string]known
	warned map[string]string // by file: the problem that the log has already
}

type known struct {
	record record
	files  files
}

// sight is what a key was read from: the list of the store's files, and the key's own.
type sight struct {
	folder stamp
	files  files
}

// scan gives all records, by ID. A folder that does not exist has none.
func (s *scanner) scan() ([]record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := s.folder.open()
	if errors.Is(err, fs.ErrNotExist) {
		s.known = nil
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.close()
	names, err := d.names()
	if err != nil {
		return nil, err
	}
	ids, present := stems(names)
	fresh := make(map[string]known, len(ids))
	records := make([]record, 0, len(ids))
	for _, id := range ids {
		k := s.look(d, id, present)
		k.record.entry.seen = sight{d.stamp, k.files}
		fresh[id] = k
		records = append(records, k.record)
	}
	s.known = fresh
	unlistCopies(records)
	s.warn(records)
	return records, nil
}

// Unchanged tells, by looking at the folder and the key's own files alone, that Keys would give the same entry again. Within
// moments of any change to the store it is false.
func (t *Token) Unchanged(e Entry) bool {
	d, err := t.scanner.folder.open()
	if err != nil {
		return false
	}
	defer d.close()
	return e.seen.folder.exists() && e.seen.folder.same(d.stamp) && e.seen.files.same(d.filesOf(e.ID))
}

// Same tells whether two readings gave the same: nothing was written between them. It may be false although nothing was.
func (e Entry) Same(other Entry) bool {
	return e.ID == other.ID && e.OwnPIN == other.OwnPIN && e.seen.files.same(other.seen.files)
}

// unlistCopies passes over a PEM without sidecar whose key another record is, such as `cp` makes of it: it would take the
// place of that key with its label, certificates and handle. Of PEMs alone the oldest counts.
func unlistCopies(records []record) {
	originals := make(map[string]*record, len(records))
	for i := range records {
		r := &records[i]
		if !r.listed {
			continue
		}
		name := string(r.side.Name)
		original, found := originals[name]
		switch {
		case !found:
			originals[name] = r
		case !r.hasSide && (original.hasSide || !r.side.Created.Before(original.side.Created)):
			r.unlistCopy(original.entry)
		case !original.hasSide:
			originals[name] = r
			original.unlistCopy(r.entry)
		}
	}
}

func (r *record) unlistCopy(original Entry) {
	r.listed = false
	r.problems = append(slices.Clip(r.problems), Problem{
		File: r.id + pemSuffix,
		Err:  fmt.Errorf("%w: it is a copy of %s", ErrExists, original),
	})
}

// look gives what is known of a key, after reading its files if they are not as they were.
func (s *scanner) look(d *dir, id string, present map[string]bool) known {
	stampOf := func(name string) stamp {
		if !present[name] {
			return stamp{}
		}
		return d.stat(name)
	}
	old, ok := s.known[id]
	now := files{pem: stampOf(id + pemSuffix), side: stampOf(id + sidecarSuffix), cert: stampOf(id + certSuffix)}
	// A file that could not be read has no stamp in old, and is tried again.
	if ok && old.files.same(now) {
		return old
	}
	var k known
	k.record, k.files = readRecord(d, id)
	return k
}

// stems are the IDs of the keys whose files are in a list of names, sorted, and these files.
func stems(names []string) (ids []string, present map[string]bool) {
	present = make(map[string]bool, len(names))
	for _, name := range names {
		for _, suffix := range []string{pemSuffix, sidecarSuffix, certSuffix} {
			if id, found := strings.CutSuffix(name, suffix); found && checkID(id) == nil {
				ids = append(ids, id)
				present[name] = true
			}
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), present
}

// checkID refuses what cannot be a key's file stem: hidden files, other folders, and the anchor's own.
func checkID(id string) error {
	if id == "" || id[0] == '.' || strings.ContainsRune(id, '/') || id+sidecarSuffix == anchorFile {
		return fmt.Errorf("%w: %q is not a key's ID", ErrInvalid, id)
	}
	return nil
}

// warn logs problems that are new.
func (s *scanner) warn(records []record) {
	current := make(map[string]string)
	for _, r := range records {
		for _, p := range r.problems {
			current[p.File] = p.Err.Error()
			if s.warned[p.File] != p.Err.Error() {
				s.log.Log(context.Background(), logLevel(p.Err), "a file of the store is not used", "store", string(s.folder), "file", p.File, "error", p.Err)
			}
		}
	}
	s.warned = current
}

// Keys reads all keys, sorted by label then ID. A file that cannot be understood is skipped with a warning in the log and
// listed by Problems. A key whose sidecar is skipped is what its PEM says, unless a newer version wrote the sidecar.
func (t *Token) Keys() ([]Entry, error) { return t.findAll(Query{}) }

// Entries are Keys and then Secrets, of one moment.
func (t *Token) Entries() ([]Entry, error) {
	all, err := t.list(func(*Entry) bool { return true })
	slices.SortStableFunc(all, func(a, b Entry) int {
		switch {
		case a.Secret == nil && b.Secret != nil:
			return -1
		case a.Secret != nil && b.Secret == nil:
			return 1
		}
		return 0
	})
	return all, err
}

// findAll gives the keys that answer to q, in the order of Keys.
func (t *Token) findAll(q Query) ([]Entry, error) {
	return t.list(func(e *Entry) bool { return e.Secret == nil && q.matches(e) })
}

// list gives the entries that are wanted, sorted by label then ID.
func (t *Token) list(wanted func(*Entry) bool) ([]Entry, error) {
	records, err := t.scanner.scan()
	if err != nil {
		return nil, err
	}
	hasPIN := t.HasPIN()
	var entries []Entry
	for i := range records {
		if r := &records[i]; r.listed && wanted(&r.entry) {
			entries = append(entries, r.finish(hasPIN))
		}
	}
	slices.SortFunc(entries, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(a.Label, b.Label), cmp.Compare(a.ID, b.ID))
	})
	return entries, nil
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
	records, err := t.scanner.scan()
	if err != nil {
		return nil, err
	}
	a := t.seen()
	var problems []Problem
	for _, r := range records {
		problems = append(problems, r.problems...)
		if a != nil && r.listed && r.hasSide && len(r.side.SRK) > 0 && !bytes.Equal(r.side.SRK, a.SRK.Name) {
			problems = append(problems, Problem{
				File: r.id + pemSuffix,
				Err: fmt.Errorf("%w: it was made under the storage root key %x, the token's is %x", provider.ErrWrongTPM,
					[]byte(r.side.SRK), []byte(a.SRK.Name)),
			})
		}
	}
	return problems, nil
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
