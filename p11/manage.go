package p11

import (
	"bytes"
	"crypto/x509/pkix"
	"encoding/asn1"
	"maps"
	"unicode/utf8"

	"github.com/tpm2-p11/tpm2-p11/keystore"
)

// DestroyObject is C_DestroyObject (PKCS #11 v3.1, section 5.7). A private key goes with its public half and its certificates, out of
// the TPM too unless other tools made it. A public key does not go alone. A leaf certificate takes its chain with it. Java and crypto11
// destroy a key's objects one by one: what went along with another is destroyed once more in the same session.
func (m *Module) DestroyObject(h SessionHandle, object ObjectHandle) (err error) {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	defer s.lib.report("C_DestroyObject", &err)
	o, err := s.object(object)
	if RVOf(err) == CKR_OBJECT_HANDLE_INVALID && s.wentAlong(object) {
		return nil
	}
	if err != nil {
		return err
	}
	if o.owner != 0 {
		s.lib.mu.Lock()
		defer s.lib.mu.Unlock()
		s.slot.drop(o)
		return nil
	}
	if err := s.mayChange(); err != nil {
		return err
	}
	switch o.class {
	case CKO_PRIVATE_KEY, CKO_SECRET_KEY, CKO_DATA:
		along := s.with(o)
		defer s.lib.forget(s.slot)
		if err := s.slot.token.Delete(s.lib.ctx, o.entry, false); err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.along = along
		return nil
	case CKO_CERTIFICATE:
		return s.lib.removeCertificate(s.slot, o.attributes[CKA_VALUE])
	}
	if o.class == CKO_PROFILE {
		return refuse(CKR_ACTION_PROHIBITED, "a profile is what the token is")
	}
	return refuse(CKR_ACTION_PROHIBITED, "the public key %q goes with its private key", o.entry.Label)
}

// with are the other objects of a private key.
func (s *session) with(key *object) map[ObjectHandle]bool {
	handles := map[ObjectHandle]bool{}
	if key.class != CKO_PRIVATE_KEY {
		return handles
	}
	serial := s.slot.token.Serial()
	public, _ := tokenHandle(serial, CKO_PUBLIC_KEY, key.entry.Object.Public.Name())
	handles[public] = true
	for _, c := range key.entry.Certificates {
		certificate, _ := tokenHandle(serial, CKO_CERTIFICATE, c.Raw)
		handles[certificate] = true
	}
	return handles
}

// wentAlong tells, once, whether an object went with the private key that the session destroyed last.
func (s *session) wentAlong(h ObjectHandle) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	went := s.along[h]
	delete(s.along, h)
	return went
}

// SetAttributeValue is C_SetAttributeValue: the label and the CKA_ID of keys, for both halves at once, and of all else that is not a
// certificate's; the CKA_SUBJECT of keys that have no certificate yet, by which NSS matches them; and of secret session keys that they
// become sensitive or can no longer be extracted.
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
	if !o.attributes.is(CKA_MODIFIABLE) {
		return refuse(CKR_ACTION_PROHIBITED, "object %q cannot be changed: a certificate has its key's label and CKA_ID", o.attributes[CKA_LABEL])
	}
	for a := range t {
		switch {
		case o.owner != 0 && o.class == CKO_SECRET_KEY && (a == CKA_SENSITIVE || a == CKA_EXTRACTABLE):
		case a == CKA_SUBJECT && o.tpm != nil:
			if err := o.mayBeNamed(t[a]); err != nil {
				return err
			}
		case a != CKA_LABEL && a != CKA_ID:
			return refuse(CKR_ATTRIBUTE_READ_ONLY, "attribute 0x%x cannot be changed", uint64(a))
		case a == CKA_LABEL && !utf8.Valid(t[a]):
			return refuse(CKR_ATTRIBUTE_VALUE_INVALID, "a label is UTF-8")
		case o.owner == 0 && len(t[a]) == 0:
			return refuse(CKR_ATTRIBUTE_VALUE_INVALID, "what a token keeps has a label and a CKA_ID")
		}
	}
	if o.owner != 0 {
		return s.lib.changeSessionObject(s.slot, object, t)
	}
	if err := s.mayChange(); err != nil {
		return err
	}
	if label := string(t[CKA_LABEL]); label != "" {
		if err := keystore.CheckLabel(label); err != nil {
			return refuse(CKR_ATTRIBUTE_VALUE_INVALID, "%v", err)
		}
		if err := s.mayName(o, label); err != nil {
			return err
		}
	}
	defer s.lib.forget(s.slot)
	_, err = s.slot.token.SetMetadata(o.entry, keystore.Metadata{Label: string(t[CKA_LABEL]), CKAID: t[CKA_ID], Subject: t[CKA_SUBJECT]})
	return err
}

// mayBeNamed refuses a CKA_SUBJECT that is no name, or not that of the key's certificate.
func (o *object) mayBeNamed(subject []byte) error {
	var name pkix.RDNSequence
	if rest, err := asn1.Unmarshal(subject, &name); err != nil || len(rest) != 0 {
		return refuse(CKR_ATTRIBUTE_VALUE_INVALID, "CKA_SUBJECT is no distinguished name")
	}
	if have := o.entry.Certificates; len(have) > 0 && !bytes.Equal(have[0].RawSubject, subject) {
		return refuse(CKR_ATTRIBUTE_VALUE_INVALID, "the certificate of key %q is of %q", o.entry.Label, have[0].Subject.String())
	}
	return nil
}

// changeSessionObject changes an object as it is now: another thread may just have guarded it more closely.
func (l *library) changeSessionObject(s *slot, h ObjectHandle, t template) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := s.objects[h]
	if o == nil {
		return CKR_OBJECT_HANDLE_INVALID
	}
	changed := *o
	changed.attributes = maps.Clone(o.attributes)
	if o.info != nil {
		info, err := o.closer(t)
		if err != nil {
			return err
		}
		changed.info = &info
	}
	maps.Copy(changed.attributes, attributes(t))
	changed.shown = changed.size()
	if !s.fits(&changed) {
		return CKR_DEVICE_MEMORY
	}
	s.objects[h] = &changed
	return nil
}
