package p11

import (
	"bytes"
	"slices"

	"github.com/tpm2-p11/tpm2-p11/keystore"
)

// search is what C_FindObjects has still to give.
type search struct {
	handles []ObjectHandle
	held    int // bytes
}

// FindObjectsInit is C_FindObjectsInit (PKCS #11 v3.1, section 5.7): the objects are those of this moment.
func (m *Module) FindObjectsInit(h SessionHandle, template []Attribute) (err error) {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	defer s.lib.report("C_FindObjectsInit", &err)
	s.mu.Lock()
	active := s.search != nil
	s.mu.Unlock()
	if active {
		return CKR_OPERATION_ACTIVE
	}
	found, err := s.find(template)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return CKR_SESSION_HANDLE_INVALID
	case s.search != nil:
		return CKR_OPERATION_ACTIVE
	}
	begun := &search{found, 8 * len(found)}
	if err := s.lib.hold(begun.held); err != nil {
		return err
	}
	s.search = begun
	return nil
}

// find gives the handles of what the session sees and the template matches, token objects first.
func (s *session) find(template []Attribute) ([]ObjectHandle, error) {
	var found []ObjectHandle
	seesPrivate := s.userOrOpen()
	byName := slices.ContainsFunc(template, func(a Attribute) bool { return a.Type == CKA_TPM2_NAME })
	match := func(o *object) {
		if (seesPrivate || !o.private || byName && !o.awaitsLogin()) && o.attributes.match(template) {
			found = append(found, o.handle)
		}
	}
	if err := s.lib.search(s.slot, template, match); err != nil {
		return nil, err
	}
	first := len(found)
	s.lib.mu.Lock()
	for _, o := range s.slot.objects {
		match(o)
	}
	s.lib.mu.Unlock()
	slices.Sort(found[first:])
	return found, nil
}

// search gives use the objects of a slot's token that a template may match, and reads no more of the store than it takes.
func (l *library) search(s *slot, template []Attribute, use func(*object)) error {
	wanted := make(map[AttributeType][]byte, len(template))
	for _, a := range template {
		wanted[a.Type] = a.Value
	}
	class, ofClass := wanted[CKA_CLASS]
	is := func(classes ...ObjectClass) bool {
		return !ofClass || slices.ContainsFunc(classes, func(c ObjectClass) bool { return bytes.Equal(class, ulong(uint64(c))) })
	}
	keys, certificates, secrets := is(CKO_PRIVATE_KEY, CKO_PUBLIC_KEY), is(CKO_CERTIFICATE), is(CKO_SECRET_KEY, CKO_DATA)
	label, byLabel := wanted[CKA_LABEL]
	id, byID := wanted[CKA_ID]
	if keys || certificates || secrets {
		err := l.read(s, func(g *keystore.Glance) bool {
			if g.Chained && certificates { // issuers have their own names
				return true
			}
			kind := keys
			switch {
			case g.Certificate:
				kind = certificates
			case g.Secret:
				kind = secrets
			}
			return kind && (!byLabel || string(label) == g.Label) && (!byID || bytes.Equal(id, g.CKAID))
		}, use)
		if err != nil {
			return err
		}
	}
	if is(CKO_PROFILE) {
		for _, o := range profilesOf(s.token.Serial()) {
			use(o)
		}
	}
	return nil
}

// FindObjects is C_FindObjects.
func (m *Module) FindObjects(h SessionHandle, max uint64) ([]ObjectHandle, error) {
	s, err := m.session(h)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.search == nil {
		return nil, CKR_OPERATION_NOT_INITIALIZED
	}
	n := int(min(max, uint64(len(s.search.handles))))
	next := s.search.handles[:n]
	s.search.handles = s.search.handles[n:]
	return next, nil
}

// FindObjectsFinal is C_FindObjectsFinal.
func (m *Module) FindObjectsFinal(h SessionHandle) error {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.search == nil {
		return CKR_OPERATION_NOT_INITIALIZED
	}
	s.dropSearch()
	return nil
}

func (s *session) dropSearch() {
	if s.search != nil {
		s.lib.release(s.search.held)
	}
	s.search = nil
}
