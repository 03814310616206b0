package p11

// What an application can make this process keep for it. No application is known that needs a tenth of it.
const (
	maxSessionObjects = 4096     // of a token
	maxHidden         = 4 << 20  // bytes that they hide together: in locked memory, where the system has that much
	maxShown          = 16 << 20 // bytes of their attributes
	maxHeld           = 32 << 20 // bytes of unfinished messages and searches, and of long parameters, in all sessions
	maxMechanisms     = 1 << 10  // in one CKA_ALLOWED_MECHANISMS
	maxOAEPLabel      = 4 << 10  // bytes
)

// fits tells whether a session object, whose size is known, has its place beside the others of its token. library.mu is held.
func (s *slot) fits(o *object) bool {
	n, hidden, shown := 1, o.value.Len(), o.shown
	for _, other := range s.objects {
		if other.handle != o.handle {
			n, hidden, shown = n+1, hidden+other.value.Len(), shown+other.shown
		}
	}
	return n <= maxSessionObjects && hidden <= maxHidden && shown <= maxShown
}

// hold counts n bytes more that an operation keeps, until it releases them; if they are too many it counts none.
func (l *library) hold(n int) error {
	if l.held.Add(int64(n)) > maxHeld {
		l.release(n)
		return CKR_DEVICE_MEMORY
	}
	return nil
}

func (l *library) release(n int) { l.held.Add(-int64(n)) }
