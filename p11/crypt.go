package p11

import "github.com/tpm2-p11/tpm2-p11/signer"

// encryption is an active encryption, which is done in software.
type encryption struct{ scheme cipher }

// decryption is an active decryption.
type decryption struct {
	scheme cipher
	key    *object
	auth   ownAuth
}

// EncryptInit is C_EncryptInit (PKCS #11 v3.1, section 5.8).
func (m *Module) EncryptInit(h SessionHandle, mechanism Mechanism, key ObjectHandle) (err error) {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	defer s.lib.report("C_EncryptInit", &err)
	if mechanism.cancelling() {
		return s.cancel(CKF_ENCRYPT)
	}
	o, row, err := s.key(key, mechanism, CKF_ENCRYPT, CKA_ENCRYPT)
	if err != nil {
		return err
	}
	scheme, err := row.cipher(row, CKF_ENCRYPT, o, parameter{rest: mechanism.Parameter})
	if err != nil {
		return err
	}
	return start(s, &s.sealing, &encryption{scheme})
}

// Encrypt is C_Encrypt.
func (m *Module) Encrypt(h SessionHandle, data []byte, out *Output) (err error) {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	defer s.lib.report("C_Encrypt", &err)
	s.mu.Lock()
	defer s.mu.Unlock()
	op := s.sealing
	if op == nil {
		return CKR_OPERATION_NOT_INITIALIZED
	}
	if done, err := out.Room(op.scheme.size()); done {
		return err
	}
	s.sealing = nil
	if len(data) > op.scheme.limit() {
		return CKR_DATA_LEN_RANGE
	}
	ciphertext, err := op.scheme.encrypt(data)
	if err != nil {
		return err
	}
	return out.Put(ciphertext)
}

// DecryptInit is C_DecryptInit (PKCS #11 v3.1, section 5.10).
func (m *Module) DecryptInit(h SessionHandle, mechanism Mechanism, key ObjectHandle) (err error) {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	defer s.lib.report("C_DecryptInit", &err)
	if mechanism.cancelling() {
		return s.cancel(CKF_DECRYPT)
	}
	o, row, err := s.key(key, mechanism, CKF_DECRYPT, CKA_DECRYPT)
	if err != nil {
		return err
	}
	scheme, err := row.cipher(row, CKF_DECRYPT, o, parameter{rest: mechanism.Parameter})
	if err != nil {
		return err
	}
	return start(s, &s.opening, &decryption{scheme, o, ownAuth{needed: o.entry.AsksOwnPIN()}})
}

// Decrypt is C_Decrypt. How long a plaintext is comes out only when it is decrypted: a query is told the longest that there can be,
// without the TPM, and a buffer that is then too small keeps the operation for another try.
// Every bad ciphertext of the right length is the same CKR_ENCRYPTED_DATA_INVALID.
func (m *Module) Decrypt(h SessionHandle, data []byte, out *Output) (err error) {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	defer s.lib.report("C_Decrypt", &err)
	s.mu.Lock()
	op := s.opening
	if op == nil {
		s.mu.Unlock()
		return CKR_OPERATION_NOT_INITIALIZED
	}
	if out.Query {
		s.mu.Unlock()
		_, err := out.Room(op.scheme.limit())
		return err
	}
	s.opening = nil
	s.mu.Unlock()

	if len(data) != op.scheme.size() {
		op.auth.wipe()
		return CKR_ENCRYPTED_DATA_LEN_RANGE
	}
	err = s.useKey(op.key, &op.auth, func(key *signer.Key) error {
		plaintext, err := op.scheme.decrypt(s.lib.ctx, key, data)
		if err != nil {
			return err
		}
		if err := out.Put(plaintext); err != nil {
			clear(plaintext)
			return err
		}
		return nil
	})
	if err != CKR_BUFFER_TOO_SMALL || !s.resume(op) {
		op.auth.wipe()
	}
	return err
}

// resume makes a decryption active again unless the session was closed or began another one.
func (s *session) resume(op *decryption) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.opening != nil {
		return false
	}
	s.opening = op
	return true
}
