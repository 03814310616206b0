package p11

import (
	"maps"
	"unicode/utf8"
)

// DestroyObject is C_DestroyObject (PKCS #11 v3.1, section 5.7). A private key goes with its public half and its certificates, out of
// the TPM too. A public key does not go alone. A leaf certificate takes its chain with it.
func (m *Module) DestroyObject(h SessionHandle, object ObjectHandle) (err error) {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	defer s.lib.report("C_DestroyObject", &err)
	o, err := s.object(object)
	if err != nil {
		return err
	}
	if o.owner != 0 {
		s.lib.mu.Lock()
		defer s.lib.mu.Unlock()
		delete(s.slot.objects, o.handle)
		return nil
	}
	if err := s.mayChange(); err != nil {
		return err
	}
	switch o.class {
	case CKO_PRIVATE_KEY:
		defer s.lib.forget(s.slot)
		return s.slot.token.Delete(s.lib.ctx, o.entry, false)
	case CKO_CERTIFICATE:
		return s.lib.removeCertificate(s.slot, o.attributes[CKA_VALUE])
	}
	return refuse(CKR_ACTION_PROHIBITED, "the public key %q goes with its private key", o.entry.Label)
}

// SetAttributeValue is C_SetAttributeValue: the label and the CKA_ID of keys, for both halves at once, and of session objects.
func (m *Module) SetAttributeValue(h SessionHandle, object ObjectHandle, list []Attribute) (err error) {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	defer s.lib.report("C_SetAttributeValue", &err)
	o, err := s.object(object)
	if err != nil {
		return err
	}
	t, err := parseTemplate(list)
	if err != nil {
		return err
	}
	for a := range t {
		switch {
		case a != CKA_LABEL && a != CKA_ID:
			return refuse(CKR_ATTRIBUTE_READ_ONLY, "attribute 0x%x cannot be changed", uint64(a))
		case a == CKA_LABEL && !utf8.Valid(t[a]):
			return refuse(CKR_ATTRIBUTE_VALUE_INVALID, "a label is UTF-8")
		}
	}
	if o.owner != 0 {
		return s.lib.changeSessionObject(s.slot, o, t)
	}
	if err := s.mayChange(); err != nil {
		return err
	}
	if o.class == CKO_CERTIFICATE {
		return refuse(CKR_ATTRIBUTE_READ_ONLY, "a certificate has its key's label and CKA_ID: change those of the key")
	}
	return s.changeKey(o, t)
}

func (s *session) changeKey(o *object, t template) (err error) {
	defer s.lib.forget(s.slot)
	entry := o.entry
	if t.has(CKA_LABEL) {
		if len(t[CKA_LABEL]) == 0 {
			return refuse(CKR_ATTRIBUTE_VALUE_INVALID, "a key has a label")
		}
		if entry, err = s.slot.token.SetLabel(entry, string(t[CKA_LABEL])); err != nil {
			return err
		}
	}
	if t.has(CKA_ID) {
		if _, err = s.slot.token.SetCKAID(entry, t[CKA_ID]); err != nil {
			return err
		}
	}
	return nil
}

func (l *library) changeSessionObject(s *slot, o *object, t template) error {
	changed := *o
	changed.attributes = maps.Clone(o.attributes)
	maps.Copy(changed.attributes, attributes(t))
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.objects[o.handle] == nil {
		return CKR_OBJECT_HANDLE_INVALID
	}
	s.objects[o.handle] = &changed
	return nil
}
