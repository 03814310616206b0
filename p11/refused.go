package p11

// callRefused ends the operation of a call that never came here, since the C side refused it.
func callRefused(f functions, c *call) {
	h := handlers[c.in.Uint32()]
	handle := SessionHandle(c.in.Uint64())
	m, ok := f.(*Module)
	if !ok || h.drop == nil {
		c.in.Fail()
	}
	if !c.decoded() {
		return
	}
	s, err := m.session(handle)
	if err == nil {
		s.mu.Lock()
		h.drop(s)
		s.mu.Unlock()
	}
	c.answer(err)
}
