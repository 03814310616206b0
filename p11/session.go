package p11

import (
	"sync"

	"github.com/tpm2-p11/tpm2-p11/keystore"
)

// session is one session, with at most one operation of each kind.
type session struct {
	handle SessionHandle
	lib    *library
	slot   *slot
	flags  Flags

	mu      sync.Mutex // guards the operations; not held while a TPM works
	closed  bool
	search  *search
	signing *signing
	proving *proving
	sealing *encryption
	opening *decryption
	hashing *digesting
	along   map[ObjectHandle]bool // what went with the private key that was destroyed last

	messageSigning *messageSigning
	messageProving *messageProving
	recovering     *recovering
	uncovering     *recoverable
}

func (s *session) readWrite() bool { return s.flags&CKF_RW_SESSION != 0 }

// OpenSession is C_OpenSession (PKCS #11 v3.1, section 5.6).
func (m *Module) OpenSession(id SlotID, flags Flags) (_ SessionHandle, err error) {
	l, err := m.library()
	if err != nil {
		return 0, err
	}
	defer l.report("C_OpenSession", &err)
	s, err := l.slot(id)
	switch {
	case err != nil:
		return 0, err
	case flags&CKF_SERIAL_SESSION == 0:
		return 0, CKR_SESSION_PARALLEL_NOT_SUPPORTED
	}
	// One that cannot be read for a moment only is as it was.
	if err := s.token.Check(); err != nil && !s.token.Initialized() {
		return 0, refuse(CKR_TOKEN_NOT_RECOGNIZED, "%v", err)
	}
	if flags&CKF_RW_SESSION != 0 {
		if err := s.token.CheckWritable(); err != nil {
			return 0, refuse(CKR_TOKEN_WRITE_PROTECTED, "%v", err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.role() == keystore.SO && flags&CKF_RW_SESSION == 0 {
		return 0, CKR_SESSION_READ_WRITE_SO_EXISTS
	}
	if len(l.sessions) >= l.maxSessions {
		return 0, CKR_SESSION_COUNT
	}
	l.lastSession++
	opened := &session{handle: l.lastSession, lib: l, slot: s, flags: flags & (CKF_RW_SESSION | CKF_SERIAL_SESSION)}
	l.sessions[opened.handle] = opened
	s.sessions[opened.handle] = opened
	return opened.handle, nil
}

// CloseSession is C_CloseSession. The last session of a token logs out.
func (m *Module) CloseSession(h SessionHandle) error {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	if !s.lib.close(s) {
		return CKR_SESSION_HANDLE_INVALID
	}
	return nil
}

// CloseAllSessions is C_CloseAllSessions.
func (m *Module) CloseAllSessions(id SlotID) error {
	l, err := m.library()
	if err != nil {
		return err
	}
	s, err := l.slot(id)
	if err != nil {
		return err
	}
	l.closeAll(s)
	return nil
}

// GetSessionInfo is C_GetSessionInfo.
func (m *Module) GetSessionInfo(h SessionHandle) (SessionInfo, error) {
	s, err := m.session(h)
	if err != nil {
		return SessionInfo{}, err
	}
	return SessionInfo{SlotID: s.slot.id, State: s.state(), Flags: s.flags}, nil
}

// GetSessionValidationFlags is C_GetSessionValidationFlags (PKCS #11 v3.2, section 5.6). Nothing here was validated by anybody: no flag is set.
func (m *Module) GetSessionValidationFlags(h SessionHandle, kind ValidationFlagsType) (Flags, error) {
	if _, err := m.session(h); err != nil {
		return 0, err
	}
	if kind != CKS_LAST_VALIDATION_OK {
		return 0, CKR_ARGUMENTS_BAD
	}
	return 0, nil
}

// session looks an open session up.
func (m *Module) session(h SessionHandle) (*session, error) {
	l, err := m.library()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s, ok := l.sessions[h]
	if !ok {
		return nil, CKR_SESSION_HANDLE_INVALID
	}
	return s, nil
}

func (s *session) state() State {
	s.lib.mu.Lock()
	defer s.lib.mu.Unlock()
	switch role := s.slot.role(); {
	case role == keystore.SO:
		return CKS_RW_SO_FUNCTIONS
	case role == keystore.User && s.readWrite():
		return CKS_RW_USER_FUNCTIONS
	case role == keystore.User:
		return CKS_RO_USER_FUNCTIONS
	case s.readWrite():
		return CKS_RW_PUBLIC_SESSION
	}
	return CKS_RO_PUBLIC_SESSION
}

// userOrOpen says whether what is private may be used: the user is logged in, or the token has no PIN.
func (s *session) userOrOpen() bool { return s.userOrOpenIn(s.slot.token.Now()) }

func (s *session) userOrOpenIn(token keystore.Moment) bool {
	if !token.HasPIN() {
		return true
	}
	s.lib.mu.Lock()
	defer s.lib.mu.Unlock()
	return s.slot.role() == keystore.User && s.slot.byPIN
}

// mayChange refuses what changes the token in a session that may not.
func (s *session) mayChange() error {
	switch {
	case s.lib.restrains(s.slot):
		return refuse(CKR_TOKEN_WRITE_PROTECTED, "%s", restraint)
	case !s.readWrite():
		return CKR_SESSION_READ_ONLY
	case !s.slot.token.Writable():
		return CKR_TOKEN_WRITE_PROTECTED
	case !s.userOrOpen():
		return CKR_USER_NOT_LOGGED_IN
	}
	return nil
}

// close takes a session and its objects away; false when somebody else did.
func (l *library) close(s *session) bool {
	l.mu.Lock()
	_, open := l.sessions[s.handle]
	if open {
		delete(l.sessions, s.handle)
		delete(s.slot.sessions, s.handle)
		for _, o := range s.slot.objects {
			if o.owner == s.handle {
				s.slot.drop(o)
			}
		}
		if len(s.slot.sessions) == 0 {
			s.slot.logout()
		}
	}
	l.mu.Unlock()
	if open {
		s.end()
	}
	return open
}

func (l *library) closeAll(s *slot) {
	l.mu.Lock()
	open := make([]*session, 0, len(s.sessions))
	for _, session := range s.sessions {
		open = append(open, session)
	}
	l.mu.Unlock()
	for _, session := range open {
		l.close(session)
	}
}

// logout forgets the login and the private session objects; library.mu is held.
func (s *slot) logout() {
	s.forgetUnwrapped()
	for _, o := range s.objects {
		if o.private {
			s.drop(o)
		}
	}
	s.login, s.byPIN = 0, false
	s.token.Logout()
}

// end drops a closed session's operations.
func (s *session) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.drop(^Flags(0))
}

// What drops one operation is called with session.mu held.

func (s *session) dropSigning() {
	if s.signing != nil {
		s.signing.auth.wipe()
	}
	s.signing = nil
}

func (s *session) dropDecryption() {
	if s.opening != nil {
		s.opening.auth.wipe()
		s.opening.secret.wipe()
	}
	s.opening = nil
}

func (s *session) dropEncryption() {
	if s.sealing != nil {
		s.sealing.secret.wipe()
	}
	s.sealing = nil
}

func (s *session) dropVerifying() { s.proving = nil }
func (s *session) dropDigesting() { s.hashing = nil }

// A failed call ends a message, not the process that it belongs to.

func (s *session) dropMessageSigning() {
	if s.messageSigning != nil {
		s.messageSigning.message = nil
	}
}

func (s *session) dropMessageVerifying() {
	if s.messageProving != nil {
		s.messageProving.message = nil
	}
}
