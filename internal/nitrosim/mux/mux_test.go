package mux

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/internal/tpmtest"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

// swtpm is the TPM below a Mux.
type swtpm struct{ conn transport.Conn }

func (s swtpm) Transmit(command []byte) ([]byte, error) {
	response, err := s.conn.Transmit(context.Background(), command)
	return bytes.Clone(response), err
}

// start serves a swtpm of the test's own and gives the socket.
func start(t *testing.T, strict bool) (socket string, s *Server) {
	t.Helper()
	dialer, err := transport.Parse(tpmtest.Start(t).Address())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := dialer.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	m, err := New(swtpm{conn})
	if err != nil {
		t.Fatal(err)
	}
	s = &Server{Mux: m, Strict: strict}
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		l.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
		s.Close()
		awaitNothing(t, s)
	})
	return socket, s
}

// awaitNothing waits until the last client has left, and its things with it. The
// spaces of processes that live on are flushed here.
func awaitNothing(t *testing.T, s *Server) {
	t.Helper()
	s.peers.mu.Lock()
	for _, space := range s.peers.processes {
		space.Close()
	}
	s.peers.mu.Unlock()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		stats := s.Mux.Stats()
		if s.Connections() == 0 && stats.Objects+stats.Sessions+stats.SavedSessions == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%d clients hold %+v", s.Connections(), stats)
			return
		}
	}
}

// link is a client's connection, as go-tpm takes it.
type link struct{ net.Conn }

func connect(t *testing.T, socket string) link {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return link{conn}
}

func (l link) Send(command []byte) ([]byte, error) {
	if _, err := l.Write(command); err != nil {
		return nil, err
	}
	return readCommand(l)
}

// perCommand is a client that connects for each command.
type perCommand struct {
	t      *testing.T
	socket string
}

func (p perCommand) Send(command []byte) ([]byte, error) {
	l := connect(p.t, p.socket)
	defer l.Close()
	return l.Send(command)
}

type sender interface {
	Send(command []byte) ([]byte, error)
}

func hash(tpm sender) (tpm2.TPMHandle, error) {
	r, err := tpm2.HashSequenceStart{HashAlg: tpm2.TPMAlgSHA256}.Execute(tpm)
	if err != nil {
		return 0, err
	}
	return r.SequenceHandle, nil
}

func feed(tpm sender, h tpm2.TPMHandle, data string) error {
	_, err := tpm2.SequenceUpdate{SequenceHandle: tpm2.AuthHandle{Handle: h, Auth: tpm2.PasswordAuth(nil)},
		Buffer: tpm2.TPM2BMaxBuffer{Buffer: []byte(data)}}.Execute(tpm)
	return err
}

func finish(tpm sender, h tpm2.TPMHandle) ([]byte, error) {
	r, err := tpm2.SequenceComplete{SequenceHandle: tpm2.AuthHandle{Handle: h, Auth: tpm2.PasswordAuth(nil)},
		Hierarchy: tpm2.TPMRHNull}.Execute(tpm)
	if err != nil {
		return nil, err
	}
	return r.Result.Buffer, nil
}

func TestClientsTakeTurnsInTheMiddleOfTheirWork(t *testing.T) {
	t.Parallel()
	socket, s := start(t, false)
	results := make([][]byte, 4)
	var clients sync.WaitGroup
	for n := range results {
		l := connect(t, socket)
		clients.Go(func() {
			_, err := l.Send(newCommand(0x17c)) // TPM2_GetTestResult: the first one is the process's
			var h tpm2.TPMHandle
			if err == nil {
				h, err = hash(l)
			}
			for range 10 {
				if err == nil {
					err = feed(l, h, string(rune('a'+n/2)))
				}
			}
			if err == nil {
				results[n], err = finish(l, h)
			}
			if err != nil {
				t.Errorf("client %d: %v", n, err)
			}
		})
	}
	clients.Wait()
	if !bytes.Equal(results[0], results[1]) || !bytes.Equal(results[2], results[3]) || bytes.Equal(results[0], results[2]) {
		t.Errorf("hashes %x: the first two and the last two have the same data", results)
	}
	if stats := s.Mux.Stats(); stats.Objects != 0 {
		t.Errorf("completed sequences are counted as held: %+v", stats)
	}
}

func TestAProcessThatConnectsForEachCommandKeepsItsThings(t *testing.T) {
	t.Parallel()
	socket, s := start(t, false)
	p := perCommand{t, socket}
	h, err := hash(p)
	if err != nil {
		t.Fatal(err)
	}
	// A connection with more than one command is a client of its own.
	l := connect(t, socket)
	other, err := hash(l)
	if err != nil {
		t.Fatal(err)
	}
	if err := feed(l, other, "others"); err != nil {
		t.Fatal(err)
	}
	if err := feed(p, h, "data"); err != nil {
		t.Fatal(err)
	}
	if stats := s.Mux.Stats(); stats.Objects != 2 {
		t.Errorf("%+v, want 2 objects", stats)
	}
	l.Close()
	if _, err := finish(p, h); err != nil {
		t.Error(err)
	}
}

func TestAMalformedCommandEndsTheConnectionOrIsRefused(t *testing.T) {
	t.Parallel()
	socket, _ := start(t, false)
	for name, bad := range map[string][]byte{
		"announces less than a header": {0x80, 1, 0, 0, 0, 9, 0, 0, 1, 0x7b},
		"announces 4 GiB":              {0x80, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 1, 0x7b},
	} {
		l := connect(t, socket)
		if _, err := l.Write(bad); err != nil {
			t.Fatal(err)
		}
		if n, err := l.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("a command that %s: %d bytes, error %v", name, n, err)
		}
	}
	l := connect(t, socket)
	for name, c := range map[string]struct {
		command []byte
		code    uint32
	}{
		"lacks its handles":  {newCommand(0x173), 0x09a},
		"lacks one to flush": {newCommand(ccFlushContext), 0x09a},
		"no TPM knows":       {newCommand(0x1ff), 0x143},
		"loads no context":   {newCommand(ccContextLoad, make([]byte, 20)...), 0},
	} {
		r, err := l.Send(c.command)
		if err != nil {
			t.Fatalf("a command that %s: %v", name, err)
		}
		if code := response(r).code(); code != c.code && (c.code != 0 || code == 0) {
			t.Errorf("a command that %s: response code 0x%03x", name, code)
		}
	}
}

func TestStrictRefusesWhatIsNotListedInTheLayerOfAResourceManager(t *testing.T) {
	t.Parallel()
	socket, _ := start(t, true)
	r, err := connect(t, socket).Send(newCommand(0x20000001))
	if err != nil || response(r).code() != 0x000b0143 {
		t.Errorf("response %x, error %v", r, err)
	}
}

func TestAnObjectThatVanishedIsForgotten(t *testing.T) {
	t.Parallel()
	socket, s := start(t, false)
	alice, bob := connect(t, socket), connect(t, socket)
	r, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(alice)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.Clear{AuthHandle: tpm2.TPMRHLockout}).Execute(alice); err != nil {
		t.Fatal(err)
	}
	if _, err := hash(bob); err != nil { // takes the turn, and alice's handle
		t.Fatal(err)
	}
	if _, err := (tpm2.ReadPublic{ObjectHandle: r.ObjectHandle}).Execute(alice); err != tpm2.TPMRCReferenceH0 {
		t.Errorf("alice reads her cleared object: error %v", err)
	}
	if stats := s.Mux.Stats(); stats.Objects != 1 {
		t.Errorf("%+v, want bob's object only", stats)
	}
}

func TestTheControlChannelAnswersAsSwtpmDoes(t *testing.T) {
	t.Parallel()
	here, there := net.Pipe()
	defer here.Close()
	go func() {
		for answerControl(there) == nil {
		}
	}()
	for _, c := range []struct {
		name            string
		request, answer []byte
	}{
		{"capability", []byte{0, 0, 0, 1}, []byte{0, 0, 0, 0, 0, 0, 1, 0x53}},
		{"init", []byte{0, 0, 0, 2, 0, 0, 0, 0}, []byte{0, 0, 0, 0}},
		{"locality 0", []byte{0, 0, 0, 5, 0}, []byte{0, 0, 0, 0}},
		{"locality 3", []byte{0, 0, 0, 5, 3}, []byte{0, 0, 0, 0x3d}},
		{"cancel", []byte{0, 0, 0, 9}, []byte{0, 0, 0, 0}},
		{"stop", []byte{0, 0, 0, 14}, []byte{0, 0, 0, 0}},
		{"unknown", []byte{0, 0, 0, 99}, []byte{0, 0, 0, 0x0a}},
	} {
		if _, err := here.Write(c.request); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, len(c.answer))
		if _, err := io.ReadFull(here, answer); err != nil || !bytes.Equal(answer, c.answer) {
			t.Errorf("%s: answer %x, error %v, want %x", c.name, answer, err, c.answer)
		}
	}
}

func TestAQuietHostsSpaceIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p peers
		m := &Mux{spaces: map[*Space]struct{}{}}
		closed := func(s *Space) (is bool) {
			_ = m.Exclusive(func() error { is = s.closed; return nil })
			return is
		}
		first := p.hostSpace(m, "198.51.100.1")
		time.Sleep(HostTimeout - time.Second)
		if p.hostSpace(m, "198.51.100.1") != first {
			t.Error("a host that comes again has another space")
		}
		time.Sleep(HostTimeout - time.Second)
		synctest.Wait()
		if closed(first) {
			t.Error("closed before its time")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if !closed(first) || p.hostSpace(m, "198.51.100.1") == first {
			t.Error("not closed after a silence")
		}
		time.Sleep(2 * HostTimeout)
	})
}

func FuzzEndedSessions(f *testing.F) {
	f.Add([]byte{}, 0)
	f.Add([]byte{0x80, 0, 0, 1, 0, 0, 0, 9, 2, 0, 0, 0, 0, 0, 0, 0, 0}, 1)
	f.Add([]byte{0, 0, 0, 9, 2, 0, 0, 0, 0xff, 0xff, 0, 0, 0}, 0)
	f.Add([]byte{0, 0, 0, 9, 2, 0, 0, 0, 0, 0, 0, 0xff, 0xff}, 0)
	f.Fuzz(func(t *testing.T, rest []byte, handles int) {
		if handles < 0 || handles > 7 {
			return
		}
		c := newCommand(0x15d, rest...)
		binary.BigEndian.PutUint16(c, tagSessions)
		for _, h := range c.endedSessions(handles) {
			if !isSession(h) {
				t.Errorf("%#x is no session", h)
			}
		}
	})
}
