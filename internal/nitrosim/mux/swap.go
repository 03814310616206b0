package mux

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// responseError is a TPM's refusal of a command that the multiplexer sent.
type responseError uint32

func (e responseError) Error() string { return fmt.Sprintf("response code 0x%03x", uint32(e)) }

// enter makes the TPM hold the items of s and nobody else's.
func (m *Mux) enter(s *Space) error {
	for _, i := range m.loaded {
		if i.space != s {
			if err := m.save(i); err != nil {
				return err
			}
		}
	}
	m.refreshOldest()
	for _, i := range s.items() {
		if i.loaded == 0 {
			if err := m.load(i); err != nil {
				return err
			}
		}
	}
	return nil
}

// save takes an item out of the TPM. One that the TPM no longer has is
// forgotten.
func (m *Mux) save(i *item) error {
	context, err := m.contextSave(i.loaded)
	if isGone(err) {
		i.forget()
		return nil
	}
	if err != nil {
		return err
	}
	if !i.isSession() {
		if err := m.flushHandle(i.loaded); err != nil {
			return err
		}
	}
	delete(m.loaded, key(i.loaded))
	i.saved, i.loaded = context, 0
	return nil
}

// load puts an item back. One that the TPM does not take any more, as an object
// of a hierarchy that was cleared meanwhile, is forgotten.
func (m *Mux) load(i *item) error {
	handle, err := m.contextLoad(i.saved)
	if refused, is := err.(responseError); is && !isMemory(refused) {
		i.forget()
		return nil
	}
	if err != nil {
		return err
	}
	i.saved, i.loaded = nil, handle
	m.loaded[key(handle)] = i
	return nil
}

// flush ends an item, wherever it is.
func (m *Mux) flush(i *item) {
	switch {
	case i.loaded != 0:
		_ = m.flushHandle(i.loaded)
	case i.isSession(): // the TPM keeps count of saved sessions
		_ = m.flushHandle(i.handle)
	}
	i.forget()
}

// forgetLoaded drops an item whose handle the TPM has given to another: it had
// vanished without a word, as by TPM2_Clear.
func (m *Mux) forgetLoaded(handle uint32) {
	if i := m.loaded[key(handle)]; i != nil {
		i.forget()
	}
}

// refreshOldest saves the oldest contexts of sessions anew before the distance
// to the newest is more than the TPM allows (TPM 2.0 Part 1, "Session Context
// Management"), when it would refuse to save or start any.
func (m *Mux) refreshOldest() {
	type old struct {
		at  *saved
		age uint64
	}
	var due []old
	consider := func(at *saved) {
		if n := at.sequence(); n+m.gap < m.newest {
			due = append(due, old{at, n})
		}
	}
	for s := range m.spaces {
		for _, i := range s.sessions {
			if i.loaded == 0 {
				consider(&i.saved)
			}
		}
	}
	for _, kept := range m.kept {
		consider(&kept.current)
	}
	slices.SortFunc(due, func(a, b old) int { return int(int64(a.age - b.age)) })
	for _, o := range due {
		handle, err := m.contextLoad(*o.at)
		if err != nil {
			continue // its owner learns of it when its turn comes
		}
		if context, err := m.contextSave(handle); err == nil {
			*o.at = context
		}
	}
}

func isGone(err error) bool {
	const rcHandle1 = 0x18b // TPM_RC_HANDLE of the first handle
	return err == responseError(rcReferenceH0) || err == responseError(rcHandle1)
}

func isMemory(e responseError) bool {
	const rcObjectMemory, rcSessionMemory, rcMemory = 0x902, 0x903, 0x904
	return e == rcObjectMemory || e == rcSessionMemory || e == rcMemory
}

func (m *Mux) contextSave(handle uint32) (saved, error) {
	r, err := m.own(newCommand(ccContextSave, word(handle)...))
	if err != nil {
		return nil, err
	}
	context, err := contextOf(r)
	if err != nil {
		return nil, err
	}
	m.swaps.Saves++
	if isSession(handle) {
		m.newest = max(m.newest, context.sequence())
	}
	return context, nil
}

// contextOf is the context in TPM2_ContextSave's response.
func contextOf(r response) (saved, error) {
	const sequence = 8
	if len(r) < headerSize+sequence {
		return nil, fmt.Errorf("TPM2_ContextSave: a response of %d bytes", len(r))
	}
	return saved(r[headerSize:]), nil
}

func (m *Mux) contextLoad(context saved) (uint32, error) {
	r, err := m.own(newCommand(ccContextLoad, context...))
	if err != nil {
		return 0, err
	}
	if len(r) < headerSize+4 {
		return 0, fmt.Errorf("TPM2_ContextLoad: a response of %d bytes", len(r))
	}
	m.swaps.Loads++
	return binary.BigEndian.Uint32(r[headerSize:]), nil
}

func (m *Mux) flushHandle(handle uint32) error {
	_, err := m.own(newCommand(ccFlushContext, word(handle)...))
	if err == nil {
		m.swaps.Flushes++
	}
	return err
}

// own sends a command of the multiplexer's.
func (m *Mux) own(c command) (response, error) {
	r, err := m.tpm.Transmit(c)
	if err != nil {
		return nil, err
	}
	if len(r) < headerSize {
		return nil, fmt.Errorf("a response of %d bytes", len(r))
	}
	if rc := response(r).code(); rc != rcSuccess {
		return nil, responseError(rc)
	}
	return r, nil
}
