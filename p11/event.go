package p11

// maxWaiting is how many threads of an application may wait for a slot event: in another process each of them holds a place there.
const maxWaiting = 16

// WaitForSlotEvent is C_WaitForSlotEvent (PKCS #11 v3.2, section 5.5). Nothing ever happens to a slot: whoever waits does so until C_Finalize.
func (m *Module) WaitForSlotEvent(flags Flags) (SlotID, error) {
	l, err := m.library()
	if err != nil {
		return 0, err
	}
	if flags&CKF_DONT_BLOCK != 0 {
		return 0, CKR_NO_EVENT
	}
	if l.waiting.Add(1) > maxWaiting {
		l.waiting.Add(-1)
		return 0, CKR_FUNCTION_FAILED
	}
	<-l.ctx.Done()
	return 0, CKR_CRYPTOKI_NOT_INITIALIZED
}
