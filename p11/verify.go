package p11

// proving is an active verification, which is done in software.
type proving struct {
	input
	scheme signature
}

// VerifyInit is C_VerifyInit (PKCS #11 v3.1, section 5.15).
func (m *Module) VerifyInit(h SessionHandle, mechanism Mechanism, key ObjectHandle) (err error) {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	defer s.lib.report("C_VerifyInit", &err)
	o, row, err := s.key(key, mechanism, CKF_VERIFY, CKA_VERIFY)
	if err != nil {
		return err
	}
	scheme, err := row.sign(row, CKF_VERIFY, o, parameter{rest: mechanism.Parameter})
	if err != nil {
		return err
	}
	return start(s, &s.proving, &proving{newInput(scheme.hash(), scheme.limit()), scheme})
}

// Verify is C_Verify.
func (m *Module) Verify(h SessionHandle, data, signature []byte) (err error) {
	s, op, err := m.verifying(h)
	if err != nil {
		return err
	}
	defer s.lib.report("C_Verify", &err)
	if op.parts {
		return CKR_OPERATION_ACTIVE
	}
	if err := op.write(data); err != nil {
		return err
	}
	return op.check(signature)
}

// VerifyUpdate is C_VerifyUpdate.
func (m *Module) VerifyUpdate(h SessionHandle, part []byte) error {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proving == nil {
		return CKR_OPERATION_NOT_INITIALIZED
	}
	s.proving.parts = true
	if err := s.proving.write(part); err != nil {
		s.proving = nil
		return err
	}
	return nil
}

// VerifyFinal is C_VerifyFinal.
func (m *Module) VerifyFinal(h SessionHandle, signature []byte) (err error) {
	s, op, err := m.verifying(h)
	if err != nil {
		return err
	}
	defer s.lib.report("C_VerifyFinal", &err)
	return op.check(signature)
}

// verifying takes the active verification, which ends it.
func (m *Module) verifying(h SessionHandle) (*session, *proving, error) {
	s, err := m.session(h)
	if err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	op := s.proving
	if op == nil {
		return nil, nil, CKR_OPERATION_NOT_INITIALIZED
	}
	s.proving = nil
	return s, op, nil
}

func (p *proving) check(signature []byte) error {
	if len(signature) != p.scheme.size() {
		return CKR_SIGNATURE_LEN_RANGE
	}
	return p.scheme.verify(p.sum(), signature)
}
