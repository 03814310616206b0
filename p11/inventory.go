package p11

import (
	"slices"

	"github.com/tpm2-p11/tpm2-p11/keystore"
)

// inventory is what a slot knows of the objects in its store: where each is that was ever found, and those used last themselves. What
// is in a store may be much, and an object takes kilobytes; the files say the same again.
type inventory struct {
	where map[ObjectHandle]string // the ID of an object's entry
	made  map[string]*made        // by ID
	reads uint64                  // how often the store was read
	uses  uint64                  // counts uses of what was made
}

// made is what an entry was made into.
type made struct {
	token   tokenTraits
	entry   keystore.Entry
	objects []*object
	read    uint64 // the reading that found it last
	used    uint64
}

// tokenTraits are what objects have from their token.
type tokenTraits struct {
	serial string
	hasPIN bool
}

// keptEntries is of how many entries the objects are kept, at least.
const keptEntries = 64

func newInventory() *inventory {
	return &inventory{where: map[ObjectHandle]string{}, made: map[string]*made{}}
}

// of gives the objects of an entry that is as it was.
func (i *inventory) of(e keystore.Entry, token tokenTraits) ([]*object, bool) {
	m := i.made[e.ID]
	if m == nil || m.token != token || !m.entry.Same(e) {
		return nil, false
	}
	return m.objects, true
}

// keep notes what the last reading found.
func (i *inventory) keep(m *made) {
	m.read = i.reads
	i.use(m)
	i.made[m.entry.ID] = m
	for _, o := range m.objects {
		i.where[o.handle] = m.entry.ID
	}
	if len(i.made) < keptEntries+keptEntries/4 { // letting go of one at a time would cost more than they do
		return
	}
	used := make([]uint64, 0, len(i.made))
	for _, m := range i.made {
		used = append(used, m.used)
	}
	slices.Sort(used)
	for id, m := range i.made {
		if m.used < used[len(used)-keptEntries] {
			delete(i.made, id)
		}
	}
}

func (i *inventory) use(m *made) {
	i.uses++
	m.used = i.uses
}

// find gives an object that is kept.
func (i *inventory) find(h ObjectHandle) (*object, *made) {
	m := i.made[i.where[h]]
	if m == nil {
		return nil, nil
	}
	i.use(m)
	return withHandle(m.objects, h), m
}

// reading is one reading of a slot's store.
type reading struct {
	slot   *slot
	token  tokenTraits
	label  string // of the token
	before uint64 // the slot's changes when it began
}

func traitsOf(token keystore.Moment) tokenTraits { return tokenTraits{token.Serial(), token.HasPIN()} }

// beginReading begins one. A search makes what was found earlier something to be looked at again.
func (l *library) beginReading(s *slot, token keystore.Moment, search bool) reading {
	r := reading{slot: s, token: traitsOf(token), label: token.Label()}
	l.mu.Lock()
	defer l.mu.Unlock()
	r.before = s.changes
	if search {
		s.stored.reads++
	}
	return r
}

// read gives use the objects of the entries that are wanted, one after the other, from the store as it is now. C_FindObjectsInit does so each
// time, so that keys which other processes make or delete come and go; of files that did not change only the stamps are looked at, and
// the objects kept stay.
func (l *library) read(s *slot, wanted func(*keystore.Glance) bool, use func(*object)) error {
	r := l.beginReading(s, s.token.Now(), true)
	shown := map[ObjectHandle]bool{} // two chains may have one certificate, and two files one key
	return s.token.Walk(wanted, func(entry keystore.Entry) {
		for _, o := range l.show(r, entry) {
			if !shown[o.handle] {
				shown[o.handle] = true
				use(o)
			}
		}
	})
}

// readAll is read for those who want all objects together.
func (l *library) readAll(s *slot, wanted func(*keystore.Glance) bool) (all []*object, err error) {
	err = l.read(s, wanted, func(o *object) { all = append(all, o) })
	return all, err
}

// show gives the objects of an entry that was just read, and keeps them unless the store was changed since.
func (l *library) show(r reading, entry keystore.Entry) []*object {
	if entry.State == keystore.Deleting || !l.guard.sees(r.label, entry.Label, anyWay) {
		return nil
	}
	l.mu.Lock()
	objects, same := r.slot.stored.of(entry, r.token)
	l.mu.Unlock()
	if !same {
		objects = l.objectsOf(r.slot.token, r.token, entry)
	}
	if len(objects) > 0 && !l.guard.sees(r.label, entry.Label, objects[0].ways()) {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.slot.changes == r.before {
		r.slot.stored.keep(&made{token: r.token, entry: entry, objects: objects})
	}
	return objects
}

// objectsOf makes the objects of an entry; none when it cannot be shown.
func (l *library) objectsOf(store *keystore.Token, token tokenTraits, entry keystore.Entry) []*object {
	switch {
	case entry.Secret == nil:
	case entry.Secret.Kind == keystore.SecretCertificate:
		return []*object{storedCertificate(token.serial, entry)}
	default:
		return []*object{storedSecret(token.serial, entry)}
	}
	var material attributes
	public, err := entry.Object.Public.Key()
	if err == nil {
		material, err = keyMaterial(public)
	}
	if err != nil {
		l.log.Warn("a key cannot be shown", "label", entry.Label, "id", entry.ID, "reason", err.Error())
		return nil
	}
	u := useOf(entry.Object.Public)
	u.Bound = len(entry.Object.Public.AuthPolicy()) > 0 || l.set.Config.KMS.Line > 0
	key := storedKey{store, token.serial, token.hasPIN, entry, public, material, u, l.mechanisms}
	objects := []*object{key.privateObject(), key.publicObject()}
	for n := range entry.Certificates {
		objects = append(objects, key.certificateObject(n))
	}
	return objects
}

// lookup gives an object of a slot, nil when there is none. What the last reading of the store did not find is looked at first.
func (l *library) lookup(s *slot, h ObjectHandle) (*object, error) {
	l.mu.Lock()
	if h&sessionObjectBit != 0 {
		defer l.mu.Unlock()
		return s.objects[h], nil
	}
	o, m := s.stored.find(h)
	fresh := o != nil && m.read == s.stored.reads
	l.mu.Unlock()
	if fresh && (l.guard == nil || l.shows(s.token.Now(), m)) {
		return o, nil
	}
	return l.lookupNow(s, s.token.Now(), h)
}

// shows tells whether the application may still see what was made for it.
func (l *library) shows(token keystore.Moment, m *made) bool {
	return l.guard == nil || l.guard.sees(token.Label(), m.entry.Label, m.objects[0].ways())
}

// lookupNow is lookup in the store as it is now.
func (l *library) lookupNow(s *slot, token keystore.Moment, h ObjectHandle) (*object, error) {
	if h&sessionObjectBit != 0 {
		return l.lookup(s, h)
	}
	l.mu.Lock()
	o, m := s.stored.find(h)
	id, known := s.stored.where[h]
	l.mu.Unlock()
	if o != nil && l.shows(token, m) && token.Unchanged(m.entry) {
		l.mu.Lock()
		defer l.mu.Unlock()
		m.read = s.stored.reads
		return o, nil
	}
	serial := token.Serial()
	for _, p := range profilesOf(serial) {
		if p.handle == h {
			return p, nil
		}
	}
	if known {
		r := l.beginReading(s, token, false)
		if entry, err := s.token.Known(id); err == nil {
			if o := withHandle(l.show(r, entry), h); o != nil {
				return o, nil
			}
		}
	}
	objects, err := l.readAll(s, func(g *keystore.Glance) bool { return g.Chained || g.Certificate || mayBe(serial, g, h) })
	return withHandle(objects, h), err
}

// withHandle gives an object of a list, nil when there is none.
func withHandle(objects []*object, h ObjectHandle) *object {
	if n := slices.IndexFunc(objects, func(o *object) bool { return o.handle == h }); n >= 0 {
		return objects[n]
	}
	return nil
}

// mayBe tells whether a key or secret, as it is seen at a glance, has an object with this handle.
func mayBe(serial string, g *keystore.Glance, h ObjectHandle) bool {
	classes, identity := []ObjectClass{CKO_PRIVATE_KEY, CKO_PUBLIC_KEY}, []byte(g.Name)
	if g.Secret {
		classes = []ObjectClass{CKO_SECRET_KEY, CKO_DATA}
		if len(identity) == 0 { // public data
			identity = []byte(g.ID)
		}
	}
	return slices.ContainsFunc(classes, func(c ObjectClass) bool {
		handle, _ := tokenHandle(serial, c, identity)
		return handle == h
	})
}

// forget makes the next lookup read the store. What is being read just now may be from before the change, and is not kept.
func (l *library) forget(s *slot) {
	l.mu.Lock()
	s.stored = newInventory()
	s.changes++
	l.mu.Unlock()
}
