package p11

import "github.com/tpm2-p11/tpm2-p11/keystore"

// inventory is a store's objects as they were at one moment. Immutable.
type inventory struct {
	list     []*object
	byHandle map[ObjectHandle]*object
	hasPIN   bool
	made     map[string]made // by the entry's ID
}

// made is what an entry was made into.
type made struct {
	entry   keystore.Entry
	objects []*object
}

func (i *inventory) add(objects ...*object) {
	for _, o := range objects {
		if i.byHandle[o.handle] == nil {
			i.byHandle[o.handle] = o
			i.list = append(i.list, o)
		}
	}
}

// of gives the objects of an entry that is as it was.
func (i *inventory) of(e keystore.Entry, hasPIN bool) ([]*object, bool) {
	if i == nil || i.hasPIN != hasPIN {
		return nil, false
	}
	before, found := i.made[e.ID]
	return before.objects, found && before.entry.Same(e)
}

// read reads a slot's store anew. C_FindObjectsInit does so each time, so that keys which other processes make or delete come and go;
// of files that did not change only the stamps are looked at, and their objects stay.
func (l *library) read(s *slot) (*inventory, error) {
	l.mu.Lock()
	before, last := s.changes, s.stored
	l.mu.Unlock()
	entries, err := s.token.Entries()
	if err != nil {
		return nil, err
	}
	serial, hasPIN, label := s.token.Serial(), s.token.HasPIN(), s.token.Label()
	i := &inventory{byHandle: make(map[ObjectHandle]*object, 2*len(entries)), hasPIN: hasPIN, made: make(map[string]made, len(entries))}
	for _, entry := range entries {
		if entry.State == keystore.Deleting || !l.guard.sees(label, entry.Label) {
			continue
		}
		objects, same := last.of(entry, hasPIN)
		if !same {
			objects = l.objectsOf(serial, hasPIN, entry)
		}
		i.made[entry.ID] = made{entry, objects}
		i.add(objects...)
	}
	for _, profile := range profiles {
		i.add(profileObject(serial, profile))
	}
	l.mu.Lock()
	if s.changes == before {
		s.stored = i
	}
	l.mu.Unlock()
	return i, nil
}

// objectsOf makes the objects of an entry; none when it cannot be shown.
func (l *library) objectsOf(serial string, hasPIN bool, entry keystore.Entry) []*object {
	if entry.Secret != nil {
		return []*object{storedSecret(serial, entry)}
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
	key := storedKey{serial, hasPIN, entry, public, material, u, l.mechanisms}
	objects := []*object{key.privateObject(), key.publicObject()}
	for n := range entry.Certificates {
		objects = append(objects, key.certificateObject(n))
	}
	return objects
}

// forget makes the next lookup read the store. What is being read just now may be from before the change, and is not kept.
func (l *library) forget(s *slot) {
	l.mu.Lock()
	s.stored = nil
	s.changes++
	l.mu.Unlock()
}
