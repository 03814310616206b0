package mux

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Execute carries out one command of a client. Maker is remembered for what the
// command creates (see Split). With strict, a command that the TPM does not list
// is refused as /dev/tpmrm0 refuses it: TPM_RC_COMMAND_CODE in the resource
// manager's layer; else it is passed on as it is, in the client's turn. An error
// is a TPM that is lost, or ErrClosed.
func (s *Space) Execute(raw []byte, maker any, strict bool) ([]byte, error) {
	m := s.mux
	m.mu.Lock()
	defer m.mu.Unlock()
	response, err := s.execute(raw, maker, strict)
	if err == nil && m.Eager {
		for _, i := range s.items() {
			if i.loaded == 0 {
				continue
			}
			if err := m.save(i); err != nil {
				return nil, err
			}
		}
	}
	return response, err
}

func (s *Space) execute(raw []byte, maker any, strict bool) ([]byte, error) {
	m := s.mux
	if s.closed {
		return nil, ErrClosed
	}
	if len(raw) < headerSize || len(raw) > maxSize || uint64(binary.BigEndian.Uint32(raw[2:])) != uint64(len(raw)) {
		return refusal(rcCommandSize), nil
	}
	c := command(bytes.Clone(raw))
	m.commands[c.code()]++
	about, listed := m.attributes[c.code()]
	if !listed && strict {
		return refusal(layerResMgr | rcCommandCode), nil
	}
	if !c.has(about.handles) {
		return refusal(rcInsufficient), nil
	}
	if err := m.enter(s); err != nil {
		if refused, is := err.(responseError); is {
			return refusal(uint32(refused)), nil
		}
		return nil, err
	}
	if answer, done := s.answerItself(c); done {
		return answer, nil
	}
	c, rc := s.translate(c, about)
	if rc != rcSuccess {
		return refusal(rc), nil
	}
	r, err := m.tpm.Transmit(c)
	if err != nil {
		return nil, err
	}
	if len(r) < headerSize {
		return nil, fmt.Errorf("a response of %d bytes", len(r))
	}
	if response(r).code() != rcSuccess {
		return r, nil
	}
	return s.record(c, about, r, maker)
}

// translate puts the TPM's handles for the client's. Sessions keep theirs: those
// of others are not in the TPM now, which therefore refuses them itself.
func (s *Space) translate(c command, about attributes) (command, uint32) {
	switch c.code() {
	case ccFlushContext: // its handle is a parameter
		if !c.has(1) {
			return nil, rcInsufficient
		}
		h := c.handle(0)
		if kind(h) == kindTransient {
			i := s.objects[h]
			if i == nil {
				return nil, rcFlushHandle
			}
			c.setHandle(0, i.loaded)
		} else if isSession(h) && s.sessions[key(h)] == nil && s.mux.kept[key(h)] == nil {
			return nil, rcFlushHandle
		}
		return c, rcSuccess
	case ccContextLoad:
		for _, k := range s.mux.kept {
			if bytes.Equal(c[headerSize:], k.given) {
				return newCommand(ccContextLoad, k.current...), rcSuccess
			}
		}
		return c, rcSuccess
	}
	for n := range about.handles {
		if h := c.handle(n); kind(h) == kindTransient {
			i := s.objects[h]
			if i == nil {
				return nil, rcReferenceH0 + uint32(n)
			}
			c.setHandle(n, i.loaded)
		}
	}
	return c, rcSuccess
}

// record notes what a successful command has changed and puts the client's
// handle into the response. c has the TPM's handles.
func (s *Space) record(c command, about attributes, r response, maker any) ([]byte, error) {
	m := s.mux
	for _, h := range c.endedSessions(about.handles) {
		if i := s.sessions[key(h)]; i != nil {
			i.forget()
		}
	}
	switch {
	case c.code() == ccFlushContext:
		m.forgetLoaded(c.handle(0))
		delete(m.kept, key(c.handle(0)))
	case about.flushed && about.handles > 0:
		m.forgetLoaded(c.handle(about.handles - 1))
	case c.code() == ccContextSave && isSession(c.handle(0)):
		context, err := contextOf(r)
		if err != nil {
			return nil, err
		}
		m.keep(c.handle(0), context)
	}
	if !about.responseHandle {
		return r, nil
	}
	if len(r) < headerSize+4 {
		return nil, fmt.Errorf("a response of %d bytes lacks its handle", len(r))
	}
	switch h := binary.BigEndian.Uint32(r[headerSize:]); {
	case kind(h) == kindTransient:
		binary.BigEndian.PutUint32(r[headerSize:], s.addObject(maker, h))
	case isSession(h):
		delete(m.kept, key(h))
		s.addSession(maker, h)
	}
	return r, nil
}

// keep remembers a session that its client saved.
func (m *Mux) keep(handle uint32, context saved) {
	m.forgetLoaded(handle)
	m.kept[key(handle)] = &keptSession{given: context, current: context}
	m.newest = max(m.newest, context.sequence())
}
