package keystore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tpm2-p11/tpm2-p11/internal/stamp"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// Glance is what is seen of a key or secret without reading all of its files: what its sidecar says, until all were read.
type Glance struct {
	ID      string
	Label   string
	CKAID   []byte
	Name    provider.Name   // none of public data
	Handle  provider.Handle // 0 for none
	Secret  bool
	Chained bool // it has a file for certificates

	Certificate bool // it is a certificate of nobody's key, which is among the secrets
}

// scanner reads a store's keys, and no more files than a search takes. It remembers what it saw as long as the files' stamps are the
// same, of each key a glance and of those used last the whole: a store's growth costs a process little memory.
type scanner struct {
	folder folder
	log    *slog.Logger

	mu     sync.Mutex
	listed listing
	known  map[string]*known // by ID, of those listed
	stale  bool              // who is a copy of whom must be found out again
	clock  uint64            // counts uses of records
	srks   map[string]string // each Name of an SRK once
	warned map[string]string // by file: the problem that the log has already
}

// keptRecords is of how many keys all is remembered.
const keptRecords = 64

// known is what is remembered of a key.
type known struct {
	glance   Glance
	present  there
	files    files // those that were read
	checked  bool  // all were
	listed   bool  // there is an entry, as far as that is known
	hasSide  bool
	state    State
	handle   provider.Handle // that the sidecar claims
	srk      string
	created  time.Time
	problems []Problem
	copied   *Problem // it is a copy, which is not listed

	record *record // nil when it is not remembered
	used   uint64
}

// there tells which of a key's files are there.
type there struct{ pem, side, cert bool }

// listing is what a folder's list of files says, which is read when the folder changed.
type listing struct {
	folder  stamp.Stamp
	ids     []string // of the keys, sorted
	present map[string]there
	left    bool // a writer that died left something
}

// sight is what a key was read from: the list of the store's files, and the key's own.
type sight struct {
	folder stamp.Stamp
	files  files
	watch  *watch // of the files
}

// look is a scanner that looks at an open folder.
type look struct {
	*scanner
	dir     *dir
	ids     []string // of the keys, sorted
	present map[string]there
	records int    // that were read
	buffer  []byte // for one file's content
}

// firstBuffer is how long a key's files mostly are at most, in bytes.
const firstBuffer = 4 << 10

// look has use look at the folder as it is now. A folder that does not exist has nothing to look at: use is not called.
func (s *scanner) look(use func(*look) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := s.folder.open()
	if errors.Is(err, fs.ErrNotExist) {
		s.known, s.listed = nil, listing{}
		return nil
	}
	if err != nil {
		return err
	}
	defer d.close()
	if !s.listed.folder.Same(d.stamp) {
		if s.listed, err = d.listing(); err != nil {
			return err
		}
	}
	l := &look{scanner: s, dir: d, ids: s.listed.ids, present: s.listed.present, buffer: make([]byte, firstBuffer)}
	l.glance()
	defer l.forget()
	defer l.warn()
	return use(l)
}

// again gives the record of a key that was seen before, nil when it is gone.
func (s *scanner) again(id string) (*record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := s.known[id]; k == nil || k.copied != nil {
		return nil, nil
	}
	d, err := s.folder.open()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.close()
	f := d.filesOf(id)
	l := &look{scanner: s, dir: d, buffer: make([]byte, firstBuffer), present: map[string]there{id: {f.pem.Exists(), f.side.Exists(), f.cert.Exists()}}}
	defer l.forget()
	if k := l.whole(id); k.listed {
		r := *k.record
		return &r, nil
	}
	return nil, nil
}

// listing lists the folder.
func (d *dir) listing() (listing, error) {
	names, err := d.names()
	if err != nil {
		return listing{}, err
	}
	l := listing{folder: d.stamp, present: make(map[string]there, len(names)/2)}
	for _, name := range names {
		l.left = l.left || strings.HasPrefix(name, tempPrefix)
		dot := strings.LastIndexByte(name, '.')
		if dot < 0 || checkID(name[:dot]) != nil {
			continue
		}
		id := name[:dot]
		has, listed := l.present[id]
		switch name[dot:] {
		case pemSuffix:
			has.pem = true
		case sidecarSuffix:
			has.side = true
		case certSuffix:
			has.cert = true
		default:
			continue
		}
		if !listed {
			l.ids = append(l.ids, id)
		}
		l.present[id] = has
	}
	slices.Sort(l.ids)
	return l, nil
}

// checkID refuses what cannot be a key's file stem: hidden files, other folders, and the anchor's own.
func checkID(id string) error {
	if id == "" || id[0] == '.' || strings.ContainsRune(id, '/') || id == strings.TrimSuffix(anchorFile, sidecarSuffix) {
		return fmt.Errorf("%w: %q is not a key's ID", ErrInvalid, id)
	}
	return nil
}

// glance brings what is known of each key up to what its sidecar says now.
func (l *look) glance() {
	if l.known == nil {
		l.known = make(map[string]*known, len(l.ids))
	}
	for _, id := range l.ids {
		if k := l.known[id]; k == nil || !l.isAsBefore(id, k) {
			l.known[id], l.stale = l.glanceAt(id), true
		}
	}
	if len(l.known) > len(l.ids) {
		maps.DeleteFunc(l.known, func(id string, _ *known) bool { return l.present[id] == there{} })
		l.stale = true
	}
	if l.stale {
		l.setCopiesAside()
	}
}

// isAsBefore tells whether what is known of a key would be seen again. Of a key that is what its sidecar says no other file is looked at.
func (l *look) isAsBefore(id string, k *known) bool {
	switch {
	case k.present != l.present[id]:
		return false
	case k.hasSide && k.listed && len(k.problems) == 0:
		return k.files.side.Same(l.dir.stat(id + sidecarSuffix))
	}
	return k.files.same(l.stampsOf(id))
}

// stampsOf are the stamps of a key's files.
func (l *look) stampsOf(id string) (f files) {
	has := l.present[id]
	if has.pem {
		f.pem = l.dir.stat(id + pemSuffix)
	}
	if has.side {
		f.side = l.dir.stat(id + sidecarSuffix)
	}
	if has.cert {
		f.cert = l.dir.stat(id + certSuffix)
	}
	return f
}

// glanceAt reads a key's sidecar, and all its files where that does not do.
func (l *look) glanceAt(id string) *known {
	has := l.present[id]
	if !has.side {
		return l.read(id)
	}
	text, seen, err := l.dir.read(id+sidecarSuffix, l.buffer)
	if err != nil {
		return l.read(id)
	}
	side, err := glanceSidecar(text)
	if err != nil || !has.pem && side.Public == nil && (side.Secret == nil || !side.Secret.Public) {
		return l.read(id)
	}
	k := &known{files: files{side: seen}, present: has, listed: true}
	l.claim(k, side)
	k.glance = Glance{ID: id, Label: side.Label, CKAID: side.CKAID, Name: provider.Name(side.Name), Handle: side.usableAt(), Secret: side.Secret != nil, Chained: has.cert}
	k.glance.Certificate = side.Secret != nil && side.Secret.Kind == SecretCertificate
	return k
}

// claim notes what a sidecar says.
func (l *look) claim(k *known, side sidecar) {
	k.hasSide, k.state, k.handle, k.created = true, side.State, provider.Handle(side.Handle), side.Created
	if l.srks == nil {
		l.srks = make(map[string]string)
	}
	if _, found := l.srks[string(side.SRK)]; !found {
		l.srks[string(side.SRK)] = string(side.SRK)
	}
	k.srk = l.srks[string(side.SRK)]
}

// read reads all of a key's files.
func (l *look) read(id string) *known {
	if l.records++; l.records%keptRecords == 0 {
		l.forget()
	}
	r, f := readRecord(l.dir, id, l.buffer)
	r.entry.seen = sight{l.dir.stamp, f, new(watch)}
	k := &known{files: f, present: l.present[id], checked: true, listed: r.listed, created: r.side.Created, problems: r.problems, record: &r}
	if r.hasSide {
		l.claim(k, r.side)
	}
	if r.listed {
		e := &r.entry
		k.glance = Glance{ID: id, Label: e.Label, CKAID: e.CKAID, Name: provider.Name(r.side.Name), Handle: e.Object.Handle, Secret: e.Secret != nil, Chained: e.Secret == nil && len(e.Certificates) > 0}
		k.glance.Certificate = e.Secret != nil && e.Secret.Kind == SecretCertificate
	}
	l.clock++
	k.used = l.clock
	return k
}

// check reads all of a key's files, unless that was done and they are as they were.
func (l *look) check(id string) *known {
	k := l.known[id]
	if k.checked && k.files.same(l.stampsOf(id)) {
		return k
	}
	return l.replace(id)
}

// whole is a key with its record.
func (l *look) whole(id string) *known {
	k := l.known[id]
	if k.record != nil && k.files.same(l.stampsOf(id)) {
		l.clock++
		k.used = l.clock
		k.record.entry.seen.folder = l.dir.stamp
		return k
	}
	return l.replace(id)
}

func (l *look) replace(id string) *known {
	k := l.read(id)
	k.copied = l.known[id].copied
	l.known[id], l.stale = k, true
	return k
}

// checkAll is check for every key.
func (l *look) checkAll() {
	for _, id := range l.ids {
		l.check(id)
	}
	l.setCopiesAside()
}

// find gives use the records of the keys that are wanted, in the order of their glances: label, then ID, secrets after keys. A record is
// not remembered for use.
func (l *look) find(wanted func(*Glance) bool, use func(*record)) {
	found := 0
	choose := func() {
		var answering []*known
		for _, id := range l.ids {
			if k := l.known[id]; k.answers(wanted) {
				answering = append(answering, k)
			}
		}
		slices.SortFunc(answering, func(a, b *known) int {
			return cmp.Or(compareBool(a.glance.Secret, b.glance.Secret), cmp.Compare(a.glance.Label, b.glance.Label), cmp.Compare(a.glance.ID, b.glance.ID))
		})
		for _, seen := range answering {
			if k := l.whole(seen.glance.ID); k.answers(wanted) {
				use(k.record)
				found++
			}
		}
	}
	choose()
	if found == 0 {
		l.checkAll()
		choose()
	}
}

func (k *known) answers(wanted func(*Glance) bool) bool {
	return k.listed && k.copied == nil && wanted(&k.glance)
}

// setCopiesAside passes over a PEM without sidecar whose key another record is, such as `cp` makes of it: it would take the
// place of that key with its label, certificates and handle. Of PEMs alone the oldest counts.
func (l *look) setCopiesAside() {
	originals := make(map[string]string, len(l.ids)) // by Name
	twins := false
	for _, id := range l.ids {
		k := l.known[id]
		k.copied = nil
		if !k.listed {
			continue
		}
		name := string(k.glance.Name)
		other, found := originals[name]
		if !found {
			originals[name] = id
			continue
		}
		twins = true
		// What a sidecar says of itself does not take another key's place.
		if !k.hasSide || !l.known[other].hasSide {
			k, _ = l.check(id), l.check(other)
		}
		original := l.known[other]
		switch {
		case !original.listed || string(original.glance.Name) != name:
			originals[name] = id
		case !k.listed || string(k.glance.Name) != name:
		case !k.hasSide && (original.hasSide || !k.created.Before(original.created)):
			k.setAside(original)
		case !original.hasSide:
			originals[name] = id
			original.setAside(k)
		}
	}
	l.stale = twins
}

func (k *known) setAside(original *known) {
	k.copied = &Problem{File: k.glance.ID + pemSuffix, Err: fmt.Errorf("%w: it is a copy of %s", ErrExists, original.glance)}
}

// forget lets go of the records that were not used lately.
func (l *look) forget() {
	var used []uint64
	for _, k := range l.known {
		if k.record != nil {
			used = append(used, k.used)
		}
	}
	if len(used) <= keptRecords {
		return
	}
	slices.Sort(used)
	oldest := used[len(used)-keptRecords]
	for _, k := range l.known {
		if k.used < oldest {
			k.record = nil
		}
	}
}

// warn logs problems that are new.
func (l *look) warn() {
	current := make(map[string]string)
	report := func(p Problem) {
		current[p.File] = p.Err.Error()
		if l.warned[p.File] != p.Err.Error() {
			l.log.Log(context.Background(), logLevel(p.Err), "a file of the store is not used", "store", string(l.folder), "file", p.File, "error", p.Err)
		}
	}
	for _, id := range l.ids {
		k := l.known[id]
		for _, p := range k.problems {
			report(p)
		}
		if k.copied != nil {
			report(*k.copied)
		}
	}
	l.warned = current
}
