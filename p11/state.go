package p11

import (
	"bytes"
	"encoding"
	"encoding/binary"
)

// stateMark begins a saved state.
var stateMark = []byte("tpm2-p11 digest\x01")

// GetOperationState is C_GetOperationState (PKCS #11 v3.2, section 5.6). The state of a digest can be saved, of nothing else.
// What it tells of a key that went into it may be read anyway: others are not digested.
func (m *Module) GetOperationState(h SessionHandle, out *Output) error {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	active := s.active()
	if active == 0 {
		return CKR_OPERATION_NOT_INITIALIZED
	}
	if active != CKF_DIGEST {
		return CKR_STATE_UNSAVEABLE
	}
	inner, ok := s.hashing.hash.(encoding.BinaryMarshaler)
	if !ok {
		return CKR_STATE_UNSAVEABLE
	}
	state, err := inner.MarshalBinary()
	if err != nil {
		return refuse(CKR_STATE_UNSAVEABLE, "%v", err)
	}
	saved := binary.LittleEndian.AppendUint64(bytes.Clone(stateMark), uint64(s.hashing.mechanism))
	saved = append(saved, boolean(s.hashing.parts)...)
	return out.Put(append(saved, state...))
}

// SetOperationState is C_SetOperationState: the session's operations are those of the state, which may come from another session.
func (m *Module) SetOperationState(h SessionHandle, state []byte, encryptionKey, authenticationKey ObjectHandle) error {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	op, err := restore(state)
	if err != nil {
		return err
	}
	if encryptionKey != 0 || authenticationKey != 0 {
		return CKR_KEY_NOT_NEEDED
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return CKR_SESSION_HANDLE_INVALID
	}
	s.drop(^CKF_FIND_OBJECTS)
	s.hashing = op
	return nil
}

func restore(state []byte) (*digesting, error) {
	rest, ours := bytes.CutPrefix(state, stateMark)
	if !ours || len(rest) < 9 {
		return nil, CKR_SAVED_STATE_INVALID
	}
	row, err := mechanisms.find(MechanismType(binary.LittleEndian.Uint64(rest)), CKF_DIGEST)
	if err != nil {
		return nil, CKR_SAVED_STATE_INVALID
	}
	op := &digesting{input: newInput(row.digest, 0), mechanism: row.id}
	op.parts = rest[8] != 0
	inner, ok := op.hash.(encoding.BinaryUnmarshaler)
	if !ok || inner.UnmarshalBinary(rest[9:]) != nil {
		return nil, CKR_SAVED_STATE_INVALID
	}
	return op, nil
}

// active are the cryptographic operations of a session, as C_SessionCancel calls them. session.mu is held.
func (s *session) active() (flags Flags) {
	for _, o := range s.operations() {
		if o.active {
			flags |= o.flag
		}
	}
	return flags &^ CKF_FIND_OBJECTS
}
