package p11

import (
	"crypto/rsa"
	"math/big"

	"github.com/tpm2-p11/tpm2-p11/signer"
)

// recoverable is a signature that holds its data.
type recoverable interface {
	signature
	recover(signature []byte) ([]byte, error) // CKR_SIGNATURE_INVALID
}

// recovering is an active signature of data that it will hold.
type recovering struct {
	scheme recoverable
	key    *object
	auth   keyAuth
}

// SignRecoverInit is C_SignRecoverInit (PKCS #11 v3.2, section 5.14).
func (m *Module) SignRecoverInit(h SessionHandle, mechanism Mechanism, key ObjectHandle) (err error) {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	defer s.lib.report("C_SignRecoverInit", &err)
	if mechanism.cancelling() {
		return s.cancel(CKF_SIGN_RECOVER)
	}
	o, scheme, err := s.recoverable(key, mechanism, CKF_SIGN_RECOVER, CKA_SIGN_RECOVER)
	if err != nil {
		return err
	}
	return start(s, &s.recovering, &recovering{scheme, o, authFor(o, CKF_SIGN_RECOVER)})
}

// SignRecover is C_SignRecover. Only the call that gets the signature reaches the TPM.
func (m *Module) SignRecover(h SessionHandle, data []byte, out *Output) (err error) {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	defer s.lib.report("C_SignRecover", &err)
	s.mu.Lock()
	op := s.recovering
	if op == nil {
		s.mu.Unlock()
		return CKR_OPERATION_NOT_INITIALIZED
	}
	if done, err := out.Room(op.scheme.size()); done {
		s.mu.Unlock()
		return err
	}
	s.recovering = nil
	s.mu.Unlock()
	defer op.auth.wipe()
	if len(data) > op.scheme.limit() {
		return CKR_DATA_LEN_RANGE
	}
	return s.useKey(op.key, &op.auth, func(key *signer.Key) error {
		signature, err := op.scheme.sign(s.lib.ctx, key, data)
		if err != nil {
			return err
		}
		return out.Put(signature)
	})
}

// VerifyRecoverInit is C_VerifyRecoverInit (PKCS #11 v3.2, section 5.16).
func (m *Module) VerifyRecoverInit(h SessionHandle, mechanism Mechanism, key ObjectHandle) (err error) {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	defer s.lib.report("C_VerifyRecoverInit", &err)
	if mechanism.cancelling() {
		return s.cancel(CKF_VERIFY_RECOVER)
	}
	_, scheme, err := s.recoverable(key, mechanism, CKF_VERIFY_RECOVER, CKA_VERIFY_RECOVER)
	if err != nil {
		return err
	}
	return start(s, &s.uncovering, &scheme)
}

// VerifyRecover is C_VerifyRecover, in software.
func (m *Module) VerifyRecover(h SessionHandle, signature []byte, out *Output) error {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.uncovering == nil {
		return CKR_OPERATION_NOT_INITIALIZED
	}
	scheme := *s.uncovering
	if len(signature) != scheme.size() {
		s.uncovering = nil
		return CKR_SIGNATURE_LEN_RANGE
	}
	data, err := scheme.recover(signature)
	if err == nil {
		err = out.Put(data)
	}
	if !out.Query && err != CKR_BUFFER_TOO_SMALL || RVOf(err) == CKR_SIGNATURE_INVALID {
		s.uncovering = nil
	}
	return err
}

func (s *session) recoverable(key ObjectHandle, mechanism Mechanism, how Flags, attribute AttributeType) (*object, recoverable, error) {
	o, row, err := s.key(key, mechanism, how, attribute)
	if err != nil {
		return nil, nil, err
	}
	scheme, err := s.signature(row, how, o, mechanism)
	if err != nil {
		return nil, nil, err
	}
	r, ok := scheme.(recoverable)
	if !ok {
		return nil, nil, CKR_MECHANISM_INVALID
	}
	return o, r, nil
}

// recover gives what RSASSA-PKCS1-v1_5 padded (RFC 8017, section 9.2): 00 01, at least eight FF, 00, and the data.
func (s rsaPKCS1) recover(signature []byte) ([]byte, error) {
	n := new(big.Int).SetBytes(signature)
	if n.Cmp(s.key.N) >= 0 {
		return nil, CKR_SIGNATURE_INVALID
	}
	block := n.Exp(n, big.NewInt(int64(s.key.E)), s.key.N).FillBytes(make([]byte, s.size()))
	end := 2
	for end < len(block) && block[end] == 0xff {
		end++
	}
	if end == len(block) {
		return nil, CKR_SIGNATURE_INVALID
	}
	data := block[end+1:]
	if rsa.VerifyPKCS1v15(s.key, 0, data, signature) != nil { // which knows what the padding has to be
		return nil, CKR_SIGNATURE_INVALID
	}
	return data, nil
}

func (s *session) dropRecovering() {
	if s.recovering != nil {
		s.recovering.auth.wipe()
	}
	s.recovering = nil
}

func (s *session) dropUncovering() { s.uncovering = nil }
