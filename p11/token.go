package p11

import (
	"bytes"
	"unicode/utf8"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/keystore"
)

// InitToken is C_InitToken (PKCS #11 v3.1, section 5.5). pin is the security officer's; an empty one makes a token without PINs. An
// initialised token wants its own SO PIN and loses all its keys; keys that other tools made stay in the TPM.
func (m *Module) InitToken(id SlotID, pin []byte, label []byte) (err error) {
	l, err := m.library()
	if err != nil {
		return err
	}
	defer l.report("C_InitToken", &err)
	so := secret.From(pin)
	defer so.Wipe()
	s, err := l.slot(id)
	if err != nil {
		return err
	}
	label = bytes.TrimRight(label, " ")
	if len(label) == 0 || !utf8.Valid(label) {
		return refuse(CKR_ARGUMENTS_BAD, "a token's label is 1 to 32 bytes of UTF-8")
	}
	if so.Len() != 0 && (so.Len() < keystore.MinPIN || so.Len() > keystore.MaxPIN) {
		return CKR_PIN_LEN_RANGE
	}

	s.pinMu.Lock()
	defer s.pinMu.Unlock()
	l.mu.Lock()
	busy := len(s.sessions) != 0
	l.mu.Unlock()
	if busy {
		return CKR_SESSION_EXISTS
	}
	if s.token.Initialized() {
		if err := l.empty(s, so); err != nil {
			return err
		}
	}
	init := keystore.InitOptions{Label: string(label), Force: s.token.Initialized()}
	if so.Len() != 0 {
		init.SOPIN = so
	}
	if err := s.token.Init(l.ctx, init); err != nil {
		return err
	}
	l.forget(s)
	return nil
}

// empty deletes all that an initialised token keeps by its SO PIN.
func (l *library) empty(s *slot, so *secret.Bytes) error {
	if s.token.HasPIN() {
		if err := l.tryPIN(s.token.TPM(), func() error { return s.token.Login(l.ctx, keystore.SO, so) }); err != nil {
			return err
		}
		defer s.token.Logout()
	} else if so.Len() != 0 {
		return CKR_PIN_INCORRECT
	}
	defer l.forget(s)
	keys, err := s.token.Keys()
	if err != nil {
		return err
	}
	secrets, err := s.token.Secrets()
	if err != nil {
		return err
	}
	for _, key := range append(keys, secrets...) {
		if err := s.token.Delete(l.ctx, key, false); err != nil {
			return err
		}
	}
	return nil
}

// InitPIN is C_InitPIN: the security officer gives the user a PIN.
func (m *Module) InitPIN(h SessionHandle, pin []byte) (err error) {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	defer s.lib.report("C_InitPIN", &err)
	given := secret.From(pin)
	defer given.Wipe()
	s.slot.pinMu.Lock()
	defer s.slot.pinMu.Unlock()
	if s.state() != CKS_RW_SO_FUNCTIONS {
		return CKR_USER_NOT_LOGGED_IN
	}
	return s.slot.token.InitPIN(s.lib.ctx, given)
}

// SetPIN is C_SetPIN: the PIN of whoever is logged in, the user's when nobody is.
func (m *Module) SetPIN(h SessionHandle, oldPIN, newPIN []byte) (err error) {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	defer s.lib.report("C_SetPIN", &err)
	before, after := secret.From(oldPIN), secret.From(newPIN)
	defer before.Wipe()
	defer after.Wipe()
	if !s.readWrite() {
		return CKR_SESSION_READ_ONLY
	}
	s.slot.pinMu.Lock()
	defer s.slot.pinMu.Unlock()
	role := keystore.User
	if s.state() == CKS_RW_SO_FUNCTIONS {
		role = keystore.SO
	}
	return s.lib.tryPIN(s.slot.token.TPM(), func() error { return s.slot.token.SetPIN(s.lib.ctx, role, before, after) })
}
