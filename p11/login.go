package p11

import (
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/keystore"
)

// Login is C_Login (PKCS #11 v3.1, section 5.6). A token without a PIN takes the empty PIN of the user and nothing else. The PIN of
// CKU_CONTEXT_SPECIFIC is a key's own; the TPM checks it when the key is used.
func (m *Module) Login(h SessionHandle, user UserType, pin []byte) error {
	return m.login("C_Login", h, user, pin, nil)
}

// LoginUser is C_LoginUser (PKCS #11 v3.2, section 5.6): users have no names here, and an empty one is none.
func (m *Module) LoginUser(h SessionHandle, user UserType, pin, username []byte) error {
	return m.login("C_LoginUser", h, user, pin, username)
}

func (m *Module) login(function string, h SessionHandle, user UserType, pin, username []byte) (err error) {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	defer s.lib.report(function, &err)
	if len(username) != 0 {
		return refuse(CKR_ARGUMENTS_BAD, "a token's users have no names: log in without one")
	}
	given := secret.From(pin)
	switch user {
	case CKU_CONTEXT_SPECIFIC:
		return s.authenticate(given)
	case CKU_USER:
		defer given.Wipe()
		return s.lib.logIn(s, keystore.User, given)
	case CKU_SO:
		defer given.Wipe()
		return s.lib.logIn(s, keystore.SO, given)
	}
	given.Wipe()
	return CKR_USER_TYPE_INVALID
}

func (l *library) logIn(s *session, role keystore.Role, pin *secret.Bytes) error {
	s.slot.pinMu.Lock()
	defer s.slot.pinMu.Unlock()

	byPIN := s.slot.token.HasPIN()
	l.mu.Lock()
	if byPIN && !s.slot.byPIN {
		s.slot.login = 0 // another process gave the token a PIN since: a login without one is none
	}
	err := l.mayLogIn(s, role)
	l.mu.Unlock()
	if err != nil {
		return err
	}
	if byPIN {
		if err := l.mayGivePIN(s.slot, role); err != nil {
			return err
		}
		if err := l.tryPIN(s.slot.token.TPM(), func() error { return s.slot.token.Login(l.ctx, role, pin) }); err != nil {
			return err
		}
	} else if role != keystore.User || pin.Len() != 0 {
		return CKR_USER_PIN_NOT_INITIALIZED
	}
	// Sessions may have come and gone while the TPM worked.
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.mayLogIn(s, role); err != nil {
		s.slot.token.Logout()
		return err
	}
	s.slot.login, s.slot.byPIN = role, byPIN
	return nil
}

// mayLogIn checks the states of PKCS #11 v3.1, section 5.6.8; library.mu is held.
func (l *library) mayLogIn(s *session, role keystore.Role) error {
	if l.sessions[s.handle] == nil {
		return CKR_SESSION_HANDLE_INVALID
	}
	switch s.slot.role() {
	case 0:
	case role:
		return CKR_USER_ALREADY_LOGGED_IN
	default:
		return CKR_USER_ANOTHER_ALREADY_LOGGED_IN
	}
	if role == keystore.SO {
		for _, open := range s.slot.sessions {
			if !open.readWrite() {
				return CKR_SESSION_READ_ONLY_EXISTS
			}
		}
	}
	return nil
}

// Logout is C_Logout. Handles of private objects come back to life with the next login: they follow from the keys' Names.
func (m *Module) Logout(h SessionHandle) error {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	s.lib.mu.Lock()
	defer s.lib.mu.Unlock()
	if s.slot.role() == 0 {
		return CKR_USER_NOT_LOGGED_IN
	}
	s.slot.logout()
	return nil
}

// authenticate gives the PIN of a key with CKA_ALWAYS_AUTHENTICATE to the operation that waits for it.
func (s *session) authenticate(pin *secret.Bytes) error {
	if pin.Len() > keystore.MaxPIN {
		pin.Wipe()
		return CKR_PIN_LEN_RANGE
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, auth := range s.waiting() {
		if auth.needed && auth.pin == nil {
			auth.pin = pin
			return nil
		}
	}
	pin.Wipe()
	return CKR_OPERATION_NOT_INITIALIZED
}

// waiting lists the private key operations that are active; session.mu is held.
func (s *session) waiting() (auths []*keyAuth) {
	if s.signing != nil {
		auths = append(auths, &s.signing.auth)
	}
	if s.opening != nil {
		auths = append(auths, &s.opening.auth)
	}
	if s.recovering != nil {
		auths = append(auths, &s.recovering.auth)
	}
	if s.messageSigning != nil {
		auths = append(auths, &s.messageSigning.auth)
	}
	return auths
}

// keyAuth is what entitles an operation to its key: what the guard permits, and the PIN of a key's own.
type keyAuth struct {
	ways   Flags // in which the key is used
	needed bool  // the PIN
	pin    *secret.Bytes
}

func authFor(o *object, ways Flags) keyAuth {
	return keyAuth{ways: ways, needed: o.info == nil && o.entry.AsksOwnPIN()}
}

func (a *keyAuth) wipe() { a.pin.Wipe() }
