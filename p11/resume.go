package p11

// resumed is a session that the application had before its connection to this process was made.
type resumed struct {
	handle SessionHandle
	slot   SlotID
	flags  Flags
}

func callResume(f functions, c *call) {
	hasArgs := c.in.Bool()
	flags := Flags(c.in.Uint64())
	sessions := make([]resumed, c.in.Count(24))
	for i := range sessions {
		sessions[i] = resumed{SessionHandle(c.in.Uint64()), SlotID(c.in.Uint64()), Flags(c.in.Uint64())}
	}
	m, ok := f.(*Module)
	if !ok {
		c.in.Fail()
	}
	if !c.decoded() {
		return
	}
	c.answer(m.resume(flags, hasArgs, sessions))
}

// resume is C_Initialize of an application that was served by another process before, and still has sessions. One that cannot be
// opened again is not: its next call says so. Logins are not resumed.
func (m *Module) resume(flags Flags, hasArgs bool, sessions []resumed) error {
	if err := m.Initialize(flags, hasArgs); err != nil {
		return err
	}
	l, err := m.library()
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range sessions {
		s, err := l.slot(r.slot)
		if err != nil || r.handle == 0 || l.sessions[r.handle] != nil || len(l.sessions) >= l.maxSessions {
			continue
		}
		opened := &session{handle: r.handle, lib: l, slot: s, flags: r.flags & (CKF_RW_SESSION | CKF_SERIAL_SESSION)}
		l.sessions[opened.handle] = opened
		s.sessions[opened.handle] = opened
		l.lastSession = max(l.lastSession, r.handle)
	}
	return nil
}
