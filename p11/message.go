package p11

import "github.com/tpm2-p11/tpm2-p11/signer"

// messages is a message-based process: any number of messages by one scheme, each in one part or in several.
type messages struct {
	scheme  signature
	message *input // that is in several parts
}

// messageSigning is an active process of signatures.
type messageSigning struct {
	messages
	key  *object
	auth keyAuth // for the next signature
}

// messageProving is the same for verification.
type messageProving struct{ messages }

// process gives what both have, nil when there is none.
func (o *messageSigning) process() *messages {
	if o == nil {
		return nil
	}
	return &o.messages
}

func (o *messageProving) process() *messages {
	if o == nil {
		return nil
	}
	return &o.messages
}

func signs(s *session) *messages  { return s.messageSigning.process() }
func proves(s *session) *messages { return s.messageProving.process() }

// withMessages does something to a session's process under the session's lock, where no TPM works.
func (m *Module) withMessages(h SessionHandle, find func(*session) *messages, do func(*session, *messages) error) error {
	s, err := m.session(h)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	process := find(s)
	if process == nil {
		return CKR_OPERATION_NOT_INITIALIZED
	}
	return do(s, process)
}

// beginMessage begins a message in several parts. No signature mechanism wants to know anything of a message.
func (m *Module) beginMessage(h SessionHandle, find func(*session) *messages, parameter []byte) error {
	return m.withMessages(h, find, func(_ *session, process *messages) error {
		switch {
		case process.message != nil:
			return CKR_OPERATION_ACTIVE
		case len(parameter) != 0:
			return CKR_MECHANISM_PARAM_INVALID
		}
		message := inputOf(process.scheme)
		process.message = &message
		return nil
	})
}

// continueMessage takes a part that is not the last. An error ends the message, not the process.
func (m *Module) continueMessage(h SessionHandle, find func(*session) *messages, parameter, part []byte) error {
	return m.withMessages(h, find, func(_ *session, process *messages) error {
		if process.message == nil {
			return CKR_OPERATION_NOT_INITIALIZED
		}
		err := error(CKR_MECHANISM_PARAM_INVALID)
		if len(parameter) == 0 {
			err = process.message.write(part)
		}
		if err != nil {
			process.message = nil
		}
		return err
	})
}

// endMessages ends the process, between two messages.
func (m *Module) endMessages(h SessionHandle, find func(*session) *messages, kind Flags) error {
	return m.withMessages(h, find, func(s *session, process *messages) error {
		if process.message != nil {
			return CKR_OPERATION_ACTIVE
		}
		s.drop(kind)
		return nil
	})
}

// last gives the message whose last part comes: a new one, or the one that was begun. With done the answer is a length.
func (p *messages) last(parameter []byte, begun bool, out *Output) (message *input, done bool, err error) {
	switch {
	case !begun && p.message != nil:
		return nil, false, CKR_OPERATION_ACTIVE
	case begun && p.message == nil:
		return nil, false, CKR_OPERATION_NOT_INITIALIZED
	case len(parameter) != 0:
		p.message = nil
		return nil, false, CKR_MECHANISM_PARAM_INVALID
	}
	if out != nil {
		if done, err := out.Room(p.scheme.size()); done {
			return nil, true, err
		}
	}
	message = p.message
	if !begun {
		one := inputOf(p.scheme)
		message = &one
	}
	p.message = nil
	return message, false, nil
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
	return start(s, &s.messageSigning, &messageSigning{messages: messages{scheme: scheme}, key: o, auth: authFor(o, row.ways(CKF_SIGN))})
}

// SignMessage is C_SignMessage. Only the call that gets the signature reaches the TPM.
func (m *Module) SignMessage(h SessionHandle, parameter, data []byte, out *Output) error {
	return m.signMessage("C_SignMessage", h, parameter, data, false, out)
}

// SignMessageBegin is C_SignMessageBegin.
func (m *Module) SignMessageBegin(h SessionHandle, parameter []byte) error {
	return m.beginMessage(h, signs, parameter)
}

// SignMessageNext is C_SignMessageNext: out is nil when more is to follow.
func (m *Module) SignMessageNext(h SessionHandle, parameter, part []byte, out *Output) error {
	if out != nil {
		return m.signMessage("C_SignMessageNext", h, parameter, part, true, out)
	}
	return m.continueMessage(h, signs, parameter, part)
}

// MessageSignFinal is C_MessageSignFinal.
func (m *Module) MessageSignFinal(h SessionHandle) error {
	return m.endMessages(h, signs, CKF_MESSAGE_SIGN)
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
	message, done, err := op.last(parameter, last, out)
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
	return start(s, &s.messageProving, &messageProving{messages{scheme: scheme}})
}

// VerifyMessage is C_VerifyMessage.
func (m *Module) VerifyMessage(h SessionHandle, parameter, data, signature []byte) error {
	return m.verifyMessage("C_VerifyMessage", h, parameter, data, signature, false)
}

// VerifyMessageBegin is C_VerifyMessageBegin.
func (m *Module) VerifyMessageBegin(h SessionHandle, parameter []byte) error {
	return m.beginMessage(h, proves, parameter)
}

// VerifyMessageNext is C_VerifyMessageNext: signature is nil when more is to follow.
func (m *Module) VerifyMessageNext(h SessionHandle, parameter, part, signature []byte) error {
	if signature != nil {
		return m.verifyMessage("C_VerifyMessageNext", h, parameter, part, signature, true)
	}
	return m.continueMessage(h, proves, parameter, part)
}

// MessageVerifyFinal is C_MessageVerifyFinal.
func (m *Module) MessageVerifyFinal(h SessionHandle) error {
	return m.endMessages(h, proves, CKF_MESSAGE_VERIFY)
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
	message, _, err := op.last(parameter, last, nil)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if err := message.write(data); err != nil {
		return err
	}
	return check(op.scheme, message.sum(), signature)
}
