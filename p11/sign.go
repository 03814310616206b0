package p11

import (
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/signer"
)

// signing is an active signature operation.
type signing struct {
	input
	scheme signature
	key    *object
	auth   keyAuth
}

// SignInit is C_SignInit (PKCS #11 v3.1, section 5.13).
func (m *Module) SignInit(h SessionHandle, mechanism Mechanism, key ObjectHandle) (err error) {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	defer s.lib.report("C_SignInit", &err)
	if mechanism.cancelling() {
		return s.cancel(CKF_SIGN)
	}
	o, row, err := s.key(key, mechanism, CKF_SIGN, CKA_SIGN)
	if err != nil {
		return err
	}
	scheme, err := s.signature(row, CKF_SIGN, o, mechanism)
	if err != nil {
		return err
	}
	return start(s, &s.signing, &signing{
		input: inputOf(scheme), scheme: scheme, key: o, auth: authFor(o, row.ways(CKF_SIGN)),
	})
}

// Sign is C_Sign. Only the call that gets the signature reaches the TPM.
func (m *Module) Sign(h SessionHandle, data []byte, out *Output) (err error) {
	return m.sign("C_Sign", h, data, false, out)
}

// SignUpdate is C_SignUpdate.
func (m *Module) SignUpdate(h SessionHandle, part []byte) error {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.signing == nil {
		return CKR_OPERATION_NOT_INITIALIZED
	}
	s.signing.parts = s.signing.parts || part != nil
	if err := s.signing.write(part); err != nil {
		s.dropSigning()
		return err
	}
	return nil
}

// SignFinal is C_SignFinal.
func (m *Module) SignFinal(h SessionHandle, out *Output) (err error) {
	return m.sign("C_SignFinal", h, nil, true, out)
}

func (m *Module) sign(function string, h SessionHandle, data []byte, final bool, out *Output) (err error) {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	defer s.lib.report(function, &err)
	s.mu.Lock()
	op := s.signing
	if op == nil {
		s.mu.Unlock()
		return CKR_OPERATION_NOT_INITIALIZED
	}
	if final || !op.parts {
		if done, err := out.Room(op.scheme.size()); done {
			s.mu.Unlock()
			return err
		}
	}
	s.signing = nil
	s.mu.Unlock()

	defer op.auth.wipe()
	if !final {
		if op.parts {
			return CKR_OPERATION_ACTIVE
		}
		if err := op.write(data); err != nil {
			return err
		}
	}
	return s.useKey(op.key, &op.auth, func(key *signer.Key) error {
		signature, err := op.scheme.sign(s.lib.ctx, key, op.sum())
		if err != nil {
			return err
		}
		return out.Put(signature)
	})
}

// useKey runs one private operation. No lock is held.
func (s *session) useKey(o *object, auth *keyAuth, run func(*signer.Key) error) error {
	if auth.needed && auth.pin == nil {
		return refuse(CKR_USER_NOT_LOGGED_IN, "key %q has a PIN of its own, which C_Login with CKU_CONTEXT_SPECIFIC gives for each use", o.entry.Label)
	}
	if err := s.mayUse(o, auth.ways); err != nil {
		return err
	}
	if o.info != nil { // a secret key's operation has all it needs
		return run(nil)
	}
	key, err := s.signer(o, auth.pin)
	if err != nil {
		return err
	}
	if auth.pin != nil {
		defer key.Close()
	}
	err = s.lib.use(s.slot.token.TPM(), o.entry, func() error { return run(key) })
	s.noteRefusal(o, err)
	if RVOf(err) == CKR_OBJECT_HANDLE_INVALID { // another process moved or deleted it since
		return refuse(CKR_KEY_HANDLE_INVALID, "%v", err)
	}
	return err
}

// signer is a key with a PIN of its own, which the caller closes, or the one without that the object has.
func (s *session) signer(o *object, pin *secret.Bytes) (*signer.Key, error) {
	if pin == nil {
		return o.key()
	}
	return signer.ForEntry(s.slot.token, o.entry, pin)
}

// noteRefusal remembers the key whose use was refused last, for a reason that the log has.
func (s *session) noteRefusal(o *object, err error) {
	s.lib.mu.Lock()
	defer s.lib.mu.Unlock()
	_, unlogged := err.(RV)
	switch {
	case unlogged:
	case err != nil:
		s.slot.refused = o.handle
	case s.slot.refused == o.handle:
		s.slot.refused = 0
	}
}

// wasRefused tells whether the use of a key was refused a moment ago.
func (s *session) wasRefused(h ObjectHandle) bool {
	s.lib.mu.Lock()
	defer s.lib.mu.Unlock()
	return s.slot.refused == h
}

// signature makes a mechanism's scheme for a key: how is CKF_SIGN or CKF_VERIFY.
func (s *session) signature(row *mechanism, how Flags, o *object, m Mechanism) (signature, error) {
	if row.mac != 0 {
		return s.newHMAC(row, o, parameter{rest: m.Parameter})
	}
	return row.sign(row, how, o, parameter{rest: m.Parameter})
}

// usesInWords are what attributes let a key do.
var usesInWords = map[AttributeType]string{
	CKA_SIGN: "sign", CKA_SIGN_RECOVER: "sign with recovery", CKA_VERIFY: "verify", CKA_VERIFY_RECOVER: "verify with recovery",
	CKA_ENCRYPT: "encrypt", CKA_DECRYPT: "decrypt", CKA_WRAP: "wrap", CKA_UNWRAP: "unwrap", CKA_DERIVE: "derive",
}

// key finds a key that may be used with a mechanism in one way. The store is read anew for what a private key is used for: another
// process may have deleted or moved the key.
func (s *session) key(h ObjectHandle, wanted Mechanism, how Flags, attribute AttributeType) (*object, *mechanism, error) {
	row, err := s.lib.mechanism(wanted.Type, how)
	if err != nil {
		if s.wasRefused(h) { // openssl's engine tries another mechanism then: the refusal is the reason, and was logged
			err = RVOf(err)
		}
		return nil, nil, err
	}
	token := s.slot.token.Now()
	var o *object
	if how&(CKF_SIGN|CKF_SIGN_RECOVER|CKF_DECRYPT|CKF_DERIVE|CKF_UNWRAP) != 0 {
		o, err = s.lib.lookupNow(s.slot, token, h)
	} else if o, err = s.lib.lookup(s.slot, h); err == nil && o != nil && o.info != nil && o.owner == 0 {
		o, err = s.lib.lookupNow(s.slot, token, h) // every use of a secret key is a private one
	}
	switch {
	case err != nil:
		return nil, nil, err
	case o == nil:
		return nil, nil, CKR_KEY_HANDLE_INVALID
	case o.awaitsLogin() && !s.userOrOpenIn(token):
		return nil, nil, CKR_USER_NOT_LOGGED_IN
	case o.public == nil && o.class != CKO_SECRET_KEY:
		return nil, nil, CKR_KEY_HANDLE_INVALID
	case !row.takes(o.attributes):
		return nil, nil, refuse(CKR_KEY_TYPE_INCONSISTENT, "key %q and mechanism 0x%x", o.attributes[CKA_LABEL], uint64(wanted.Type))
	}
	if o.tpm != nil {
		if err := s.permittedIn(token, o, row.ways(how)); err != nil {
			return nil, nil, err
		}
	}
	switch {
	case !o.attributes.is(attribute):
		return nil, nil, refuse(CKR_KEY_FUNCTION_NOT_PERMITTED, "key %q may not %s", o.attributes[CKA_LABEL], usesInWords[attribute])
	case o.tpm != nil && !o.tpm.permits(row, how):
		return nil, nil, refuse(CKR_MECHANISM_INVALID, "key %q is not for this mechanism", o.entry.Label)
	case o.info != nil && !allowed(*o.info, row.id):
		return nil, nil, refuse(CKR_MECHANISM_INVALID, "CKA_ALLOWED_MECHANISMS of key %q does not have this mechanism", o.attributes[CKA_LABEL])
	}
	return o.bare(), row, nil
}

// start makes an operation active unless one of its kind is.
func start[T any](s *session, place **T, operation *T) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return CKR_SESSION_HANDLE_INVALID
	case *place != nil:
		return CKR_OPERATION_ACTIVE
	}
	*place = operation
	return nil
}
