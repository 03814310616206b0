package mux

// Space is one client's: the objects and sessions that it sees. A space belongs
// to one Mux, whose lock guards it.
type Space struct {
	mux      *Mux
	objects  map[uint32]*item // by the client's handle
	sessions map[uint32]*item // by key of their handle, which is the TPM's own
	closed   bool
}

// item is an object or a session of a client: loaded in the TPM, or saved.
type item struct {
	space  *Space
	maker  any    // who asked for it, within the space
	handle uint32 // the client's
	loaded uint32 // the TPM's handle; 0 while saved
	saved  saved
}

// saved is a context in the form of TPM2_ContextSave's response.
type saved []byte

// sequence of a session's context is the TPM's count of contexts when it was
// saved (TPM 2.0 Part 2, "TPMS_CONTEXT").
func (s saved) sequence() uint64 {
	var n uint64
	for _, b := range s[:8] {
		n = n<<8 | uint64(b)
	}
	return n
}

func (i *item) isSession() bool { return isSession(i.handle) }

// firstVirtual is the first handle that a client's object gets; further ones
// count down, as in the kernel's spaces.
const firstVirtual = 0x80ffffff

// addObject takes the object with the TPM's handle into the space and gives the
// client's handle.
func (s *Space) addObject(maker any, loaded uint32) uint32 {
	s.mux.forgetLoaded(loaded)
	virtual := uint32(firstVirtual)
	for s.objects[virtual] != nil {
		virtual--
	}
	i := &item{space: s, maker: maker, handle: virtual, loaded: loaded}
	s.objects[virtual] = i
	s.mux.loaded[loaded] = i
	return virtual
}

func (s *Space) addSession(maker any, handle uint32) {
	s.mux.forgetLoaded(handle)
	i := &item{space: s, maker: maker, handle: handle, loaded: handle}
	s.sessions[key(handle)] = i
	s.mux.loaded[key(handle)] = i
}

// forget drops an item that the TPM no longer has, or that went elsewhere.
func (i *item) forget() {
	if i.loaded != 0 && i.space.mux.loaded[key(i.loaded)] == i {
		delete(i.space.mux.loaded, key(i.loaded))
	}
	if i.isSession() {
		delete(i.space.sessions, key(i.handle))
	} else {
		delete(i.space.objects, i.handle)
	}
}

// items are the space's sessions and objects.
func (s *Space) items() []*item {
	var all []*item
	for _, i := range s.sessions {
		all = append(all, i)
	}
	for _, i := range s.objects {
		all = append(all, i)
	}
	return all
}

// Split moves what maker asked for within the space into a new space.
func (s *Space) Split(maker any) *Space {
	s.mux.mu.Lock()
	defer s.mux.mu.Unlock()
	own := s.mux.newSpace()
	for _, i := range s.items() {
		if i.maker != maker {
			continue
		}
		if i.isSession() {
			delete(s.sessions, key(i.handle))
			own.sessions[key(i.handle)] = i
		} else {
			delete(s.objects, i.handle)
			own.objects[i.handle] = i
		}
		i.space = own
	}
	return own
}

// Close flushes what the space holds. It takes no commands afterwards.
func (s *Space) Close() {
	s.mux.mu.Lock()
	defer s.mux.mu.Unlock()
	s.closed = true
	delete(s.mux.spaces, s)
	for _, i := range s.items() {
		s.mux.flush(i)
	}
}
