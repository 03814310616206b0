package p11

// proving is an active verification, which is done in software.
type proving struct {
	input
	scheme    signature
	signature []byte // that C_VerifySignatureInit gave; nil if Verify or VerifyFinal gives it
}

// VerifyInit is C_VerifyInit (PKCS #11 v3.2, section 5.15).
func (m *Module) VerifyInit(h SessionHandle, mechanism Mechanism, key ObjectHandle) error {
	return m.verifyInit("C_VerifyInit", h, mechanism, key, nil)
}

// VerifySignatureInit is C_VerifySignatureInit: VerifyInit with the signature beforehand.
func (m *Module) VerifySignatureInit(h SessionHandle, mechanism Mechanism, key ObjectHandle, signature []byte) error {
	return m.verifyInit("C_VerifySignatureInit", h, mechanism, key, append([]byte{}, signature...))
}

func (m *Module) verifyInit(function string, h SessionHandle, mechanism Mechanism, key ObjectHandle, signature []byte) (err error) {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	defer s.lib.report(function, &err)
	if mechanism.cancelling() {
		return s.cancel(CKF_VERIFY)
	}
	scheme, err := s.verifier(mechanism, key)
	if err != nil {
		return err
	}
	if signature != nil && len(signature) != scheme.size() {
		return CKR_SIGNATURE_LEN_RANGE
	}
	return start(s, &s.proving, &proving{inputOf(scheme), scheme, signature})
}

// verifier finds the key and makes its scheme.
func (s *session) verifier(mechanism Mechanism, key ObjectHandle) (signature, error) {
	o, row, err := s.key(key, mechanism, CKF_VERIFY, CKA_VERIFY)
	if err != nil {
		return nil, err
	}
	return s.signature(row, CKF_VERIFY, o, mechanism)
}

// Verify is C_Verify.
func (m *Module) Verify(h SessionHandle, data, signature []byte) error {
	return m.verify("C_Verify", h, data, signature, false)
}

// VerifySignature is C_VerifySignature.
func (m *Module) VerifySignature(h SessionHandle, data []byte) error {
	return m.verify("C_VerifySignature", h, data, nil, true)
}

func (m *Module) verify(function string, h SessionHandle, data, signature []byte, before bool) (err error) {
	s, op, err := m.verifying(h, before)
	if err != nil {
		return err
	}
	defer s.lib.report(function, &err)
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
	return m.verifyUpdate(h, part, false)
}

// VerifySignatureUpdate is C_VerifySignatureUpdate.
func (m *Module) VerifySignatureUpdate(h SessionHandle, part []byte) error {
	return m.verifyUpdate(h, part, true)
}

func (m *Module) verifyUpdate(h SessionHandle, part []byte, before bool) error {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.proving.begun(before) {
		return CKR_OPERATION_NOT_INITIALIZED
	}
	s.proving.parts = s.proving.parts || part != nil
	if err := s.proving.write(part); err != nil {
		s.proving = nil
		return err
	}
	return nil
}

// VerifyFinal is C_VerifyFinal.
func (m *Module) VerifyFinal(h SessionHandle, signature []byte) error {
	return m.verifyFinal("C_VerifyFinal", h, signature, false)
}

// VerifySignatureFinal is C_VerifySignatureFinal.
func (m *Module) VerifySignatureFinal(h SessionHandle) error {
	return m.verifyFinal("C_VerifySignatureFinal", h, nil, true)
}

func (m *Module) verifyFinal(function string, h SessionHandle, signature []byte, before bool) (err error) {
	s, op, err := m.verifying(h, before)
	if err != nil {
		return err
	}
	defer s.lib.report(function, &err)
	return op.check(signature)
}

// begun tells an operation that was begun with its signature or without.
func (p *proving) begun(withSignature bool) bool {
	return p != nil && (p.signature != nil) == withSignature
}

// verifying takes the active verification, which ends it.
func (m *Module) verifying(h SessionHandle, withSignature bool) (*session, *proving, error) {
	s, err := m.session(h)
	if err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	op := s.proving
	if !op.begun(withSignature) {
		return nil, nil, CKR_OPERATION_NOT_INITIALIZED
	}
	s.proving = nil
	return s, op, nil
}

func (p *proving) check(signature []byte) error {
	if p.signature != nil {
		signature = p.signature
	}
	return check(p.scheme, p.sum(), signature)
}

func check(scheme signature, digest, signature []byte) error {
	if len(signature) != scheme.size() {
		return CKR_SIGNATURE_LEN_RANGE
	}
	return scheme.verify(digest, signature)
}
