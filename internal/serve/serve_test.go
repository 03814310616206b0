package serve

import (
	"bytes"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tpm2-p11/tpm2-p11/internal/wire"
)

// played is an application that a test plays.
type played struct {
	dispatch  func(request []byte) []byte
	mu        sync.Mutex
	finalized int
}

func (p *played) Dispatch(request []byte) []byte { return p.dispatch(request) }

func (p *played) Finalize() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finalized++
	return nil
}

// journal is a log that a test reads.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(line []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(line)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

func (j *journal) logger() *slog.Logger { return slog.New(slog.NewTextHandler(j, nil)) }

// connected is a client's end of a connection to an application; ended is closed when the server has left it.
func connected(t *testing.T, app application, log *slog.Logger) (conn net.Conn, ended chan struct{}) {
	t.Helper()
	client, server := pair(t, unix.SOCK_STREAM)
	ended = make(chan struct{})
	served, err := net.FileConn(server)
	if err != nil {
		t.Fatal(err)
	}
	server.Close()
	conn, err = net.FileConn(client)
	if err != nil {
		t.Fatal(err)
	}
	client.Close()
	go func() {
		defer close(ended)
		newClient(served, app, defaultTerms, log).serve()
	}()
	t.Cleanup(func() {
		conn.Close()
		<-ended
	})
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return conn, ended
}

func pair(t *testing.T, kind int) (one, other *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fds[0]), "one"), os.NewFile(uintptr(fds[1]), "other")
}

// A call that waits for the TPM holds up no other one, and each answer has its question's id.
func TestCallsOfAClientPassEachOther(t *testing.T) {
	t.Parallel()
	slow := make(chan struct{})
	app := &played{dispatch: func(request []byte) []byte {
		if string(request) == "slow" {
			<-slow
		}
		return append([]byte("re: "), request...)
	}}
	conn, _ := connected(t, app, slog.New(slog.DiscardHandler))
	for id, text := range []string{"slow", "quick"} {
		if err := wire.WriteFrame(conn, wire.Frame{Version: wire.Version, ID: uint64(id), Message: []byte(text)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []wire.Frame{{ID: 1, Message: []byte("re: quick")}, {ID: 0, Message: []byte("re: slow")}} {
		got, err := wire.ReadFrame(conn, wire.MaxMessage, nil)
		if err != nil || got.ID != want.ID || !bytes.Equal(got.Message, want.Message) {
			t.Fatalf("%d %q, %v; want %d %q", got.ID, got.Message, err, want.ID, want.Message)
		}
		if want.ID == 1 {
			close(slow)
		}
	}
}

// While a call is worked on, or waits for its turn behind others, the client is shown that the server lives.
func TestCallsInWorkShowLife(t *testing.T) {
	t.Parallel()
	finish := make(chan struct{})
	app := &played{dispatch: func([]byte) []byte { <-finish; return []byte("done") }}
	conn, _ := connected(t, app, slog.New(slog.DiscardHandler))
	const calls = 70 // more than are in work at once
	for id := range uint64(calls) {
		if err := wire.WriteFrame(conn, wire.Frame{Version: wire.Version, ID: id + 1, Message: []byte("call")}); err != nil {
			t.Fatal(err)
		}
	}
	for n, answered := 0, 0; answered < calls; n++ {
		f, err := wire.ReadFrame(conn, wire.MaxMessage, nil)
		switch {
		case err != nil:
			t.Fatal(err)
		case n < 3 && (f.ID != wire.SignOfLife || len(f.Message) != 0):
			t.Fatalf("frame %d is %+v", n, f)
		case n == 2:
			close(finish)
		case f.ID != wire.SignOfLife:
			answered++
		}
	}
}

// idle is an application whose calls end with it.
type idle struct {
	over sync.Once
	end  chan struct{}
}

func (i *idle) Dispatch([]byte) []byte { <-i.end; return []byte("over") }

func (i *idle) Finalize() error {
	i.over.Do(func() { close(i.end) })
	return nil
}

// A client that leaves while it has more calls in work than it may have is noticed, and they end.
func TestClientsLeaveAmidTheirCalls(t *testing.T) {
	t.Parallel()
	conn, ended := connected(t, &idle{end: make(chan struct{})}, slog.New(slog.DiscardHandler))
	for id := range uint64(70) {
		if err := wire.WriteFrame(conn, wire.Frame{Version: wire.Version, ID: id + 1, Message: []byte("wait")}); err != nil {
			t.Fatal(err)
		}
	}
	if f, err := wire.ReadFrame(conn, wire.MaxMessage, nil); err != nil || f.ID != wire.SignOfLife {
		t.Errorf("%+v, %v", f, err)
	}
	conn.Close()
	<-ended
}

// Whatever a client sends, the server answers or leaves, and ends what the client had begun.
func TestBadClientsAreLeft(t *testing.T) {
	t.Parallel()
	for name, sent := range map[string]string{
		"nothing":          "",
		"half a header":    "\x04\x00\x00",
		"half a message":   "\x04\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00ab",
		"a huge message":   "\xff\xff\xff\xff\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"another protocol": "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			app := &played{dispatch: func([]byte) []byte { t.Error("it was dispatched"); return nil }}
			conn, ended := connected(t, app, slog.New(slog.DiscardHandler))
			if _, err := conn.Write([]byte(sent)); err != nil {
				t.Fatal(err)
			}
			if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			select {
			case <-ended:
			case <-time.After(time.Minute):
				t.Fatal("the server does not leave")
			}
			if app.finalized == 0 {
				t.Error("what the client had is still there")
			}
		})
	}
}

// A client of another release is answered, and the log says what to do, once.
func TestOtherVersionsAreRefused(t *testing.T) {
	t.Parallel()
	app := &played{dispatch: func([]byte) []byte { t.Error("it was dispatched"); return nil }}
	log := &journal{}
	conn, _ := connected(t, app, log.logger())
	for id := range uint64(2) {
		if err := wire.WriteFrame(conn, wire.Frame{Version: 7, ID: id, Message: []byte("call")}); err != nil {
			t.Fatal(err)
		}
		got, err := wire.ReadFrame(conn, wire.MaxMessage, nil)
		if err != nil || got.ID != id || got.Version != wire.Version || !bytes.Equal(got.Message, binary.LittleEndian.AppendUint64(nil, rvGeneralError)) {
			t.Errorf("%+v, %v", got, err)
		}
	}
	if n := strings.Count(log.String(), "restart the program"); n != 1 {
		t.Errorf("it is logged %d times:\n%s", n, log)
	}
}

// A socket whose server has no room for another connection is not taken from it; one that nobody serves any more is.
func TestBusySocketsAreNotTakenAway(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "socket")
	busy, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unix.Bind(busy, &unix.SockaddrUnix{Name: path}), unix.Listen(busy, 0)); err != nil {
		t.Fatal(err)
	}
	for err = nil; err == nil; {
		var conn net.Conn
		if conn, err = net.Dial("unix", path); err == nil {
			defer conn.Close()
		}
	}
	if _, err := Listen(path, false); err == nil || !strings.Contains(err.Error(), "may be served already") {
		t.Errorf("a busy socket: %v", err)
	}
	unix.Close(busy)
	l, err := Listen(path, false)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

// FuzzClient sends arbitrary bytes: the server neither panics nor stays.
func FuzzClient(f *testing.F) {
	f.Add([]byte("\x04\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00"))
	f.Add([]byte("\x04\x00\x00\x00\x09\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		app := &played{dispatch: func([]byte) []byte { return make([]byte, 8) }}
		conn, ended := connected(t, app, slog.New(slog.DiscardHandler))
		go func() {
			_, _ = conn.Write(sent)
			_ = conn.(*net.UnixConn).CloseWrite()
		}()
		for {
			if _, err := wire.ReadFrame(conn, wire.MaxMessage, nil); err != nil {
				break
			}
		}
		<-ended
	})
}
