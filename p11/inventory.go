package p11

import "github.com/tpm2-p11/tpm2-p11/keystore"

// inventory is a store's objects as they were at one moment. Immutable.
type inventory struct {
	list     []*object
	byHandle map[ObjectHandle]*object
}

func (i *inventory) add(o *object) {
	if i.byHandle[o.handle] == nil {
		i.byHandle[o.handle] = o
		i.list = append(i.list, o)
	}
}

// read reads a slot's store anew. C_FindObjectsInit and the use of a private key do so each time, so
// that keys which other processes make or delete come and go; of files that did not change only the stamps are looked at.
func (l *library) read(s *slot) (*inventory, error) {
	l.mu.Lock()
	before := s.changes
	l.mu.Unlock()
	keys, err := s.token.Keys()
	if err != nil {
		return nil, err
	}
	i := &inventory{byHandle: map[ObjectHandle]*object{}}
	serial, hasPIN, label := s.token.Serial(), s.token.HasPIN(), s.token.Label()
	for _, entry := range keys {
		if entry.State == keystore.Deleting || !l.guard.sees(label, entry.Label) {
			continue
		}
		public, err := entry.Object.Public.Key()
		if err != nil {
			l.log.Warn("a key cannot be shown", "label", entry.Label, "id", entry.ID, "reason", err.Error())
			continue
		}
		material, err := keyMaterial(public)
		if err != nil {
			l.log.Warn("a key cannot be shown", "label", entry.Label, "id", entry.ID, "reason", err.Error())
			continue
		}
		key := storedKey{serial, hasPIN, entry, public, material, useOf(entry.Object.Public), l.set.Config.KMS.Line > 0}
		i.add(key.privateObject())
		i.add(key.publicObject())
		for n := range entry.Certificates {
			i.add(key.certificateObject(n))
		}
	}
	secrets, err := s.token.Secrets()
	if err != nil {
		return nil, err
	}
	for _, entry := range secrets {
		if entry.State != keystore.Deleting && l.guard.sees(label, entry.Label) {
			i.add(storedSecret(serial, entry))
		}
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

// forget makes the next lookup read the store. What is being read just now may be from before the change, and is not kept.
func (l *library) forget(s *slot) {
	l.mu.Lock()
	s.stored = nil
	s.changes++
	l.mu.Unlock()
}
