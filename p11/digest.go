package p11

// digesting is an active digest.
type digesting struct {
	input
	mechanism MechanismType
}

// DigestInit is C_DigestInit (PKCS #11 v3.1, section 5.12).
func (m *Module) DigestInit(h SessionHandle, mechanism Mechanism) error {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	if mechanism.cancelling() {
		return s.cancel(CKF_DIGEST)
	}
	row, err := mechanisms.find(mechanism.Type, CKF_DIGEST)
	if err != nil {
		return err
	}
	if len(mechanism.Parameter) != 0 {
		return CKR_MECHANISM_PARAM_INVALID
	}
	return start(s, &s.hashing, &digesting{input: newInput(row.digest, 0), mechanism: row.id})
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
	s.hashing.parts = s.hashing.parts || part != nil
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

// DigestKey is C_DigestKey, of secret keys whose value may be read: a digest gives a short secret away to whoever tries them all.
func (m *Module) DigestKey(h SessionHandle, key ObjectHandle) (err error) {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	defer s.lib.report("C_DigestKey", &err)
	s.mu.Lock()
	active := s.hashing != nil
	s.mu.Unlock()
	if !active {
		return CKR_OPERATION_NOT_INITIALIZED
	}
	defer func() {
		if err != nil {
			s.mu.Lock()
			s.dropDigesting()
			s.mu.Unlock()
		}
	}()
	o, err := s.object(key)
	switch {
	case RVOf(err) == CKR_OBJECT_HANDLE_INVALID:
		return CKR_KEY_HANDLE_INVALID
	case err != nil:
		return err
	case o.class == CKO_PRIVATE_KEY || o.class == CKO_SECRET_KEY && o.guarded():
		return refuse(CKR_KEY_INDIGESTIBLE, "the value of key %q is not shown, nor its digest", o.attributes[CKA_LABEL])
	case o.class != CKO_SECRET_KEY:
		return CKR_KEY_HANDLE_INVALID
	}
	value, err := s.reveal(o, CKF_DECRYPT)
	if err != nil {
		return keyFault(err)
	}
	defer value.Wipe()
	return m.DigestUpdate(h, value.Bytes())
}
