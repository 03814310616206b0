package p11

import "github.com/tpm2-p11/tpm2-p11/internal/secret"

// wrapKey wraps a secret key with another key, of a mechanism whose parameter is p.
type wrapKey func(s *session, wrapping *object, p parameter, key *secret.Bytes) ([]byte, error)

// unwrapKey is the way back. The value is the caller's.
type unwrapKey func(s *session, unwrapping *object, p parameter, wrapped []byte) (*secret.Bytes, origin, error)

// WrapKey is C_WrapKey (PKCS #11 v3.1, section 5.18): secret keys that may be extracted are wrapped, and nothing of the TPM's.
func (m *Module) WrapKey(h SessionHandle, mechanism Mechanism, wrapping, key ObjectHandle, out *Output) (err error) {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	defer s.lib.report("C_WrapKey", &err)
	with, row, err := s.key(wrapping, mechanism, CKF_WRAP, CKA_WRAP)
	if err != nil {
		return asWrapping(err, CKR_WRAPPING_KEY_HANDLE_INVALID, CKR_WRAPPING_KEY_TYPE_INCONSISTENT)
	}
	o, err := s.object(key)
	switch {
	case RVOf(err) == CKR_OBJECT_HANDLE_INVALID:
		return CKR_KEY_HANDLE_INVALID
	case err != nil:
		return err
	case o.class == CKO_PRIVATE_KEY:
		return refuse(CKR_KEY_NOT_WRAPPABLE, "the private key %q is the TPM's", o.attributes[CKA_LABEL])
	case o.class != CKO_SECRET_KEY:
		return CKR_KEY_HANDLE_INVALID
	case !o.info.Extractable:
		return refuse(CKR_KEY_UNEXTRACTABLE, "key %q", o.attributes[CKA_LABEL])
	case o.info.WrapWithTrusted:
		return refuse(CKR_KEY_NOT_WRAPPABLE, "key %q is wrapped with a trusted key only, and there is none", o.attributes[CKA_LABEL])
	}
	if done, err := out.Room(row.wrapped(o.info.Length)); done {
		return err
	}
	value, err := s.reveal(o, CKF_DECRYPT)
	if err != nil {
		return keyFault(err)
	}
	defer value.Wipe()
	wrapped, err := row.wrap(s, with, parameter{rest: mechanism.Parameter}, value)
	if err != nil {
		return asWrapping(err, CKR_WRAPPING_KEY_HANDLE_INVALID, CKR_WRAPPING_KEY_TYPE_INCONSISTENT)
	}
	return out.Put(wrapped)
}

// UnwrapKey is C_UnwrapKey: it makes a secret key, or a private key in the TPM.
func (m *Module) UnwrapKey(h SessionHandle, mechanism Mechanism, unwrapping ObjectHandle, wrapped []byte, list []Attribute) (made ObjectHandle, err error) {
	s, err := m.session(h)
	if err != nil {
		return 0, err
	}
	defer s.lib.report("C_UnwrapKey", &err)
	t, err := parseTemplate(list)
	if err != nil {
		return 0, err
	}
	switch {
	case !t.has(CKA_CLASS):
		return 0, CKR_TEMPLATE_INCOMPLETE
	case t.has(CKA_VALUE):
		return 0, refuse(CKR_TEMPLATE_INCONSISTENT, "the value is what is unwrapped")
	}
	with, row, err := s.key(unwrapping, mechanism, CKF_UNWRAP, CKA_UNWRAP)
	if err != nil {
		return 0, asWrapping(err, CKR_UNWRAPPING_KEY_HANDLE_INVALID, CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT)
	}
	class, err := t.ulong(CKA_CLASS, 0)
	if err != nil {
		return 0, err
	}
	// What cannot be made is refused before anything is opened.
	private := ObjectClass(class) == CKO_PRIVATE_KEY && row.private
	switch {
	case private:
		err = s.mayImport(t)
	case ObjectClass(class) == CKO_SECRET_KEY:
		_, err = s.place(t)
	default:
		return 0, refuse(CKR_TEMPLATE_INCONSISTENT, "mechanism 0x%x unwraps no objects of class %d", uint64(row.id), class)
	}
	if err == nil && row.guards != nil {
		err = row.guards(s, t)
	}
	if err != nil {
		return 0, err
	}
	value, from, err := row.unwrap(s, with, parameter{rest: mechanism.Parameter}, wrapped)
	if err != nil {
		return 0, asWrapping(err, CKR_UNWRAPPING_KEY_HANDLE_INVALID, CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT)
	}
	if private {
		return s.importWrapped(t, value)
	}
	return s.makeSecretKey(t, value, from)
}

// asWrapping gives the faults of a key the names that they have where it wraps or unwraps.
func asWrapping(err error, handle, kind RV) error {
	switch RVOf(err) {
	case CKR_KEY_HANDLE_INVALID:
		return refuse(handle, "%v", err)
	case CKR_KEY_TYPE_INCONSISTENT:
		return refuse(kind, "%v", err)
	}
	return err
}
