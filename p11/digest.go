package p11

// DigestInit is C_DigestInit (PKCS #11 v3.1, section 5.12).
func (m *Module) DigestInit(h SessionHandle, mechanism Mechanism) error {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	if mechanism.cancelling() {
		return s.cancel(CKF_DIGEST)
	}
	row, err := findMechanism(mechanism.Type, CKF_DIGEST)
	if err != nil {
		return err
	}
	if len(mechanism.Parameter) != 0 {
		return CKR_MECHANISM_PARAM_INVALID
	}
	op := newInput(row.digest, 0)
	return start(s, &s.hashing, &op)
}

// Digest is C_Digest.
func (m *Module) Digest(h SessionHandle, data []byte, out *Output) error {
	return m.digest(h, data, false, out)
}

// DigestUpdate is C_DigestUpdate.
func (m *Module) DigestUpdate(h SessionHandle, part []byte) error {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hashing == nil {
		return CKR_OPERATION_NOT_INITIALIZED
	}
	s.hashing.parts = true
	return s.hashing.write(part)
}

// DigestFinal is C_DigestFinal.
func (m *Module) DigestFinal(h SessionHandle, out *Output) error {
	return m.digest(h, nil, true, out)
}

func (m *Module) digest(h SessionHandle, data []byte, final bool, out *Output) error {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	op := s.hashing
	if op == nil {
		return CKR_OPERATION_NOT_INITIALIZED
	}
	if op.parts && !final {
		s.hashing = nil
		return CKR_OPERATION_ACTIVE
	}
	if done, err := out.Room(op.hash.Size()); done {
		return err
	}
	s.hashing = nil
	if err := op.write(data); err != nil {
		return err
	}
	return out.Put(op.sum())
}
