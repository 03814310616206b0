package p11

// cancelling tells a NULL mechanism, with which the Init functions end an operation (PKCS #11 v3.0 and later).
func (m Mechanism) cancelling() bool { return uint64(m.Type) == CK_UNAVAILABLE_INFORMATION }

// SessionCancel is C_SessionCancel (PKCS #11 v3.2, section 5.6): it ends the operations whose CKF_ flags are given. What is not active
// is no mistake.
func (m *Module) SessionCancel(h SessionHandle, flags Flags) error {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(flags)
	return nil
}

// cancel is an Init function with a NULL mechanism. Without an operation that is none.
func (s *session) cancel(operation Flags) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.drop(operation) {
		return CKR_ARGUMENTS_BAD
	}
	return nil
}

// drop ends operations, and tells whether there was any. session.mu is held.
func (s *session) drop(flags Flags) (any bool) {
	for _, o := range s.operations() {
		if flags&o.flag != 0 && o.active {
			o.end()
			any = true
		}
	}
	return any
}

// operation is one that a session can have.
type operation struct {
	flag   Flags // that C_SessionCancel calls it by
	active bool
	end    func()
}

// operations lists them. session.mu is held.
func (s *session) operations() []operation {
	return []operation{
		{CKF_FIND_OBJECTS, s.search != nil, s.dropSearch},
		{CKF_ENCRYPT, s.sealing != nil, s.dropEncryption},
		{CKF_DECRYPT, s.opening != nil, s.dropDecryption},
		{CKF_DIGEST, s.hashing != nil, s.dropDigesting},
		{CKF_SIGN, s.signing != nil, s.dropSigning},
		{CKF_VERIFY, s.proving != nil, s.dropVerifying},
		{CKF_MESSAGE_SIGN, s.messageSigning != nil, func() { s.messageSigning.auth.wipe(); s.messageSigning = nil }},
		{CKF_SIGN_RECOVER, s.recovering != nil, s.dropRecovering},
		{CKF_VERIFY_RECOVER, s.uncovering != nil, s.dropUncovering},
		{CKF_MESSAGE_VERIFY, s.messageProving != nil, func() { s.messageProving = nil }},
	}
}
