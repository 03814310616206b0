package p11

import "github.com/tpm2-p11/tpm2-p11/signer"

// encryption is an active encryption, which is done in software: with a public key in one part, or with a secret key.
type encryption struct {
	scheme cipher   // of a public key
	secret *passage // of a secret key
}

// decryption is an active decryption: in the TPM in one part, or with a secret key in software.
type decryption struct {
	scheme cipher
	key    *object
	auth   keyAuth
	secret *passage
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
	op := &encryption{}
	if row.stream != nil {
		op.secret, err = s.passage(row, CKF_ENCRYPT, o, mechanism)
	} else {
		op.scheme, err = row.cipher(row, CKF_ENCRYPT, o, parameter{rest: mechanism.Parameter})
	}
	if err != nil {
		return err
	}
	if err := start(s, &s.sealing, op); err != nil {
		op.secret.wipe()
		return err
	}
	return nil
}

// Encrypt is C_Encrypt.
func (m *Module) Encrypt(h SessionHandle, data []byte, out *Output) (err error) {
	return m.encrypting("C_Encrypt", h, func(op *encryption) (over bool, err error) {
		if op.secret != nil {
			return op.secret.whole(data, out)
		}
		if done, err := out.Room(op.scheme.size()); done {
			return false, err
		}
		if len(data) > op.scheme.limit() {
			return true, CKR_DATA_LEN_RANGE
		}
		ciphertext, err := op.scheme.encrypt(data)
		if err != nil {
			return true, err
		}
		return true, out.Put(ciphertext)
	})
}

// EncryptUpdate is C_EncryptUpdate, of secret keys alone: public keys encrypt in one part.
func (m *Module) EncryptUpdate(h SessionHandle, part []byte, out *Output) error {
	return m.encrypting("C_EncryptUpdate", h, func(op *encryption) (bool, error) {
		if op.secret == nil {
			return true, CKR_FUNCTION_NOT_SUPPORTED
		}
		return op.secret.part(part, out)
	})
}

// EncryptFinal is C_EncryptFinal.
func (m *Module) EncryptFinal(h SessionHandle, out *Output) error {
	return m.encrypting("C_EncryptFinal", h, func(op *encryption) (bool, error) {
		if op.secret == nil {
			return true, CKR_FUNCTION_NOT_SUPPORTED
		}
		return op.secret.final(out)
	})
}

// encrypting runs a step of the active encryption.
func (m *Module) encrypting(function string, h SessionHandle, step func(*encryption) (over bool, err error)) (err error) {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	defer s.lib.report(function, &err)
	seesPrivate := s.userOrOpen()
	s.mu.Lock()
	defer s.mu.Unlock()
	op := s.sealing
	if op == nil {
		return CKR_OPERATION_NOT_INITIALIZED
	}
	over := true
	if err = op.secret.mayRun(seesPrivate); err == nil {
		over, err = step(op)
	}
	if over {
		s.dropEncryption()
	}
	return err
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
	op := &decryption{key: o, auth: authFor(o, row.ways(CKF_DECRYPT))}
	if row.stream != nil {
		op.secret, err = s.passage(row, CKF_DECRYPT, o, mechanism)
	} else {
		op.scheme, err = row.cipher(row, CKF_DECRYPT, o, parameter{rest: mechanism.Parameter})
	}
	if err != nil {
		return err
	}
	if err := start(s, &s.opening, op); err != nil {
		op.secret.wipe()
		return err
	}
	return nil
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
	seesPrivate := s.userOrOpen()
	s.mu.Lock()
	op := s.opening
	switch {
	case op == nil:
		s.mu.Unlock()
		return CKR_OPERATION_NOT_INITIALIZED
	case op.secret != nil:
		defer s.mu.Unlock()
		return s.decryptStep(op, seesPrivate, func(p *passage) (bool, error) { return p.whole(data, out) })
	case out.Query:
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

// DecryptUpdate is C_DecryptUpdate, of secret keys alone: the TPM decrypts in one part.
func (m *Module) DecryptUpdate(h SessionHandle, part []byte, out *Output) error {
	return m.decrypting("C_DecryptUpdate", h, func(p *passage) (bool, error) { return p.part(part, out) })
}

// DecryptFinal is C_DecryptFinal.
func (m *Module) DecryptFinal(h SessionHandle, out *Output) error {
	return m.decrypting("C_DecryptFinal", h, func(p *passage) (bool, error) { return p.final(out) })
}

// decrypting runs a step of an active decryption that goes in parts.
func (m *Module) decrypting(function string, h SessionHandle, step func(*passage) (over bool, err error)) (err error) {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	defer s.lib.report(function, &err)
	seesPrivate := s.userOrOpen()
	s.mu.Lock()
	defer s.mu.Unlock()
	op := s.opening
	switch {
	case op == nil:
		return CKR_OPERATION_NOT_INITIALIZED
	case op.secret == nil:
		s.dropDecryption()
		return CKR_FUNCTION_NOT_SUPPORTED
	}
	return s.decryptStep(op, seesPrivate, step)
}

// decryptStep runs a step of the active decryption; session.mu is held.
func (s *session) decryptStep(op *decryption, seesPrivate bool, step func(*passage) (over bool, err error)) error {
	over := true
	err := op.secret.mayRun(seesPrivate)
	if err == nil {
		over, err = step(op.secret)
	}
	if over {
		s.dropDecryption()
	}
	return err
}
