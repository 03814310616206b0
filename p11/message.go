package p11

import "github.com/tpm2-p11/tpm2-p11/signer"

// messageSigning is an active message-based signature process: any number of messages, each in one part or in several.
type messageSigning struct {
	scheme  signature
	key     *object
	auth    ownAuth // for the next signature
	message *input  // that is signed in several parts
}

// messageProving is the same for verification.
type messageProving struct {
	scheme  signature
	message *input
}

// MessageSignInit is C_MessageSignInit (PKCS #11 v3.2, section 5.14).
func (m *Module) MessageSignInit(h SessionHandle, mechanism Mechanism, key ObjectHandle) (err error) {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	defer s.lib.report("C_MessageSignInit", &err)
	o, row, err := s.key(key, mechanism, CKF_SIGN, CKA_SIGN)
	if err != nil {
		return err
	}
	scheme, err := s.signature(row, CKF_SIGN, o, mechanism)
	if err != nil {
		return err
	}
	return start(s, &s.messageSigning, &messageSigning{scheme: scheme, key: o, auth: ownAuth{needed: o.entry.AsksOwnPIN()}})
}

// SignMessage is C_SignMessage. Only the call that gets the signature reaches the TPM.
func (m *Module) SignMessage(h SessionHandle, parameter, data []byte, out *Output) error {
	return m.signMessage("C_SignMessage", h, parameter, data, false, out)
}

// SignMessageBegin is C_SignMessageBegin.
func (m *Module) SignMessageBegin(h SessionHandle, parameter []byte) error {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.messageSigning == nil {
		return CKR_OPERATION_NOT_INITIALIZED
	}
	return beginMessage(&s.messageSigning.message, s.messageSigning.scheme, parameter)
}

// SignMessageNext is C_SignMessageNext: out is nil when more is to follow.
func (m *Module) SignMessageNext(h SessionHandle, parameter, part []byte, out *Output) error {
	if out != nil {
		return m.signMessage("C_SignMessageNext", h, parameter, part, true, out)
	}
	s, err := m.session(h)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.messageSigning == nil {
		return CKR_OPERATION_NOT_INITIALIZED
	}
	return continueMessage(&s.messageSigning.message, parameter, part)
}

// MessageSignFinal is C_MessageSignFinal.
func (m *Module) MessageSignFinal(h SessionHandle) error {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.messageSigning == nil:
		return CKR_OPERATION_NOT_INITIALIZED
	case s.messageSigning.message != nil:
		return CKR_OPERATION_ACTIVE
	}
	s.drop(CKF_MESSAGE_SIGN)
	return nil
}

// signMessage gives the signature of a message in one part, or of one whose last part comes.
func (m *Module) signMessage(function string, h SessionHandle, parameter, data []byte, last bool, out *Output) (err error) {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	defer s.lib.report(function, &err)
	s.mu.Lock()
	op := s.messageSigning
	if op == nil {
		s.mu.Unlock()
		return CKR_OPERATION_NOT_INITIALIZED
	}
	message, done, err := lastOfMessage(&op.message, op.scheme, parameter, last, out)
	if done || err != nil {
		s.mu.Unlock()
		return err
	}
	auth := op.auth
	op.auth.pin = nil
	s.mu.Unlock()

	defer auth.wipe()
	if err := message.write(data); err != nil {
		return err
	}
	return s.useKey(op.key, &auth, func(key *signer.Key) error {
		signature, err := op.scheme.sign(s.lib.ctx, key, message.sum())
		if err != nil {
			return err
		}
		return out.Put(signature)
	})
}

// MessageVerifyInit is C_MessageVerifyInit (PKCS #11 v3.2, section 5.16).
func (m *Module) MessageVerifyInit(h SessionHandle, mechanism Mechanism, key ObjectHandle) (err error) {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	defer s.lib.report("C_MessageVerifyInit", &err)
	scheme, err := s.verifier(mechanism, key)
	if err != nil {
		return err
	}
	return start(s, &s.messageProving, &messageProving{scheme: scheme})
}

// VerifyMessage is C_VerifyMessage.
func (m *Module) VerifyMessage(h SessionHandle, parameter, data, signature []byte) error {
	return m.verifyMessage("C_VerifyMessage", h, parameter, data, signature, false)
}

// VerifyMessageBegin is C_VerifyMessageBegin.
func (m *Module) VerifyMessageBegin(h SessionHandle, parameter []byte) error {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.messageProving == nil {
		return CKR_OPERATION_NOT_INITIALIZED
	}
	return beginMessage(&s.messageProving.message, s.messageProving.scheme, parameter)
}

// VerifyMessageNext is C_VerifyMessageNext: signature is nil when more is to follow.
func (m *Module) VerifyMessageNext(h SessionHandle, parameter, part, signature []byte) error {
	if signature != nil {
		return m.verifyMessage("C_VerifyMessageNext", h, parameter, part, signature, true)
	}
	s, err := m.session(h)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.messageProving == nil {
		return CKR_OPERATION_NOT_INITIALIZED
	}
	return continueMessage(&s.messageProving.message, parameter, part)
}

// MessageVerifyFinal is C_MessageVerifyFinal.
func (m *Module) MessageVerifyFinal(h SessionHandle) error {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.messageProving == nil:
		return CKR_OPERATION_NOT_INITIALIZED
	case s.messageProving.message != nil:
		return CKR_OPERATION_ACTIVE
	}
	s.drop(CKF_MESSAGE_VERIFY)
	return nil
}

func (m *Module) verifyMessage(function string, h SessionHandle, parameter, data, signature []byte, last bool) (err error) {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	defer s.lib.report(function, &err)
	s.mu.Lock()
	op := s.messageProving
	if op == nil {
		s.mu.Unlock()
		return CKR_OPERATION_NOT_INITIALIZED
	}
	message, _, err := lastOfMessage(&op.message, op.scheme, parameter, last, nil)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if err := message.write(data); err != nil {
		return err
	}
	return check(op.scheme, message.sum(), signature)
}

// beginMessage begins a message in several parts. No signature mechanism wants to know anything of a message.
func beginMessage(place **input, scheme signature, parameter []byte) error {
	switch {
	case *place != nil:
		return CKR_OPERATION_ACTIVE
	case len(parameter) != 0:
		return CKR_MECHANISM_PARAM_INVALID
	}
	message := inputOf(scheme)
	*place = &message
	return nil
}

// continueMessage takes a part. An error ends the message, not the process.
func continueMessage(place **input, parameter, part []byte) error {
	message := *place
	if message == nil {
		return CKR_OPERATION_NOT_INITIALIZED
	}
	err := error(CKR_MECHANISM_PARAM_INVALID)
	if len(parameter) == 0 {
		err = message.write(part)
	}
	if err != nil {
		*place = nil
	}
	return err
}

// lastOfMessage gives the message whose last part comes: a new one, or the one that was begun. With done the answer is a length.
func lastOfMessage(place **input, scheme signature, parameter []byte, begun bool, out *Output) (message *input, done bool, err error) {
	switch {
	case !begun && *place != nil:
		return nil, false, CKR_OPERATION_ACTIVE
	case begun && *place == nil:
		return nil, false, CKR_OPERATION_NOT_INITIALIZED
	case len(parameter) != 0:
		*place = nil
		return nil, false, CKR_MECHANISM_PARAM_INVALID
	}
	if out != nil {
		if done, err := out.Room(scheme.size()); done {
			return nil, true, err
		}
	}
	message = *place
	if !begun {
		one := inputOf(scheme)
		message = &one
	}
	*place = nil
	return message, false, nil
}
