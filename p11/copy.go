package p11

import (
	"maps"
	"unicode/utf8"

	"github.com/tpm2-p11/tpm2-p11/keystore"
)

// copyTemplate is what a copy may be told to be besides storageAttributes.
var copyTemplate = []AttributeType{CKA_SENSITIVE, CKA_EXTRACTABLE, CKA_TPM2_POLICY}

// CopyObject is C_CopyObject (PKCS #11 v3.1, section 5.7), of secret keys, data, and the session's certificates and public keys: a copy
// may be kept elsewhere and called otherwise, and more closely guarded, never less.
func (m *Module) CopyObject(h SessionHandle, object ObjectHandle, list []Attribute) (copied ObjectHandle, err error) {
	s, err := m.session(h)
	if err != nil {
		return 0, err
	}
	defer s.lib.report("C_CopyObject", &err)
	o, err := s.object(object)
	if err != nil {
		return 0, err
	}
	if !o.attributes.is(CKA_COPYABLE) {
		return 0, refuse(CKR_ACTION_PROHIBITED, "%q cannot be copied", o.attributes[CKA_LABEL])
	}
	t, err := parseTemplate(list)
	if err != nil {
		return 0, err
	}
	if o.class == CKO_CERTIFICATE || o.class == CKO_PUBLIC_KEY {
		return s.copyPublic(o, t)
	}
	if err := t.only(storageAttributes, copyTemplate); err != nil {
		return 0, err
	}
	info, err := o.closer(t)
	if err != nil {
		return 0, err
	}
	for _, same := range []AttributeType{CKA_TOKEN, CKA_LABEL, CKA_ID} {
		if !t.has(same) {
			t[same] = o.attributes[same]
		}
	}
	private := o.private || o.class == CKO_DATA && o.owner == 0 && o.hides(CKA_VALUE)
	if !t.has(CKA_PRIVATE) {
		t[CKA_PRIVATE] = boolean(private)
	}
	p, err := s.place(t)
	if err != nil {
		return 0, err
	}
	if private && !p.private {
		return 0, refuse(CKR_TEMPLATE_INCONSISTENT, "a copy of what is private is private")
	}
	if bound := o.entry.Policy; !bound.IsZero() {
		if !p.token || !p.policy.IsZero() {
			return 0, refuse(CKR_TEMPLATE_INCONSISTENT, "a copy of what a policy guards is kept under the same policy")
		}
		p.policy = bound
	}
	purposes := CKF_DECRYPT
	if o.class == CKO_SECRET_KEY {
		purposes |= o.ways() // a session's copy is bound to no purpose any more
	}
	value, err := s.reveal(o, purposes)
	if err != nil {
		return 0, err
	}
	defer value.Wipe()
	return s.keep(p, o.class, info, value)
}

// closer is what an object is with a template's changes, which may guard it more closely: CKA_SENSITIVE can only become true and
// CKA_EXTRACTABLE false.
func (o *object) closer(t template) (keystore.SecretInfo, error) {
	info := *o.info
	if err := t.mustEqual(CKA_CLASS, o.attributes[CKA_CLASS]); err != nil {
		return info, err
	}
	if o.class != CKO_SECRET_KEY {
		if t.has(CKA_SENSITIVE) || t.has(CKA_EXTRACTABLE) {
			return info, refuse(CKR_ATTRIBUTE_TYPE_INVALID, "data is no key")
		}
		return info, nil
	}
	sensitive, err := t.bool(CKA_SENSITIVE, info.Sensitive)
	if err != nil {
		return info, err
	}
	extractable, err := t.bool(CKA_EXTRACTABLE, info.Extractable)
	if err != nil {
		return info, err
	}
	if info.Sensitive && !sensitive || !info.Extractable && extractable {
		return info, refuse(CKR_ATTRIBUTE_READ_ONLY, "a key that is sensitive remains so, and one that cannot be extracted too")
	}
	info.Sensitive, info.Extractable = sensitive, extractable
	return info, nil
}

// copyPublic copies a certificate or a public key, as a session object again.
func (s *session) copyPublic(o *object, t template) (ObjectHandle, error) {
	if err := mayCopyPublic(t); err != nil {
		return 0, err
	}
	another := *o
	another.attributes = maps.Clone(o.attributes)
	maps.Copy(another.attributes, attributes(t))
	return s.add(&another)
}

// mayCopyPublic refuses what a copy cannot be. It may be bound more than the original is.
func mayCopyPublic(t template) error {
	for a := range t {
		switch a {
		case CKA_LABEL:
			if !utf8.Valid(t[a]) {
				return refuse(CKR_ATTRIBUTE_VALUE_INVALID, "a label is UTF-8")
			}
		case CKA_ID, CKA_TOKEN, CKA_PRIVATE, CKA_DESTROYABLE:
		case CKA_MODIFIABLE, CKA_COPYABLE:
			if _, err := t.bool(a, false); err != nil {
				return err
			}
		default:
			return refuse(CKR_ATTRIBUTE_READ_ONLY, "attribute 0x%x is the original's", uint64(a))
		}
	}
	if err := t.mustBe(false, CKA_TOKEN, CKA_PRIVATE); err != nil {
		return err
	}
	return t.mustBe(true, CKA_DESTROYABLE)
}
