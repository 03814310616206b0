package serve

import (
	"bytes"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tpm2-p11/tpm2-p11/config"
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
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
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
			case <-time.After(10 * time.Second):
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

// pass sends a message with descriptors over a control socket.
func pass(t *testing.T, control *os.File, message string, files ...*os.File) {
	t.Helper()
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if err := unix.Sendmsg(int(control.Fd()), []byte(message), rights, nil, 0); err != nil {
		t.Fatal(err)
	}
}

// The helper takes connections and nothing else, survives what else is passed to it, and ends with the last of its host.
func TestHelperTakesConnectionsOnly(t *testing.T) {
	t.Parallel()
	hello := string(greeting) + "\x01\x00\x00\x00"
	host, control := pair(t, unix.SOCK_SEQPACKET)
	log := &journal{}
	ended := make(chan error, 1)
	go func() {
		ended <- Helper(control, NewSource(func() (config.Config, error) { return config.Config{}, os.ErrNotExist }, true), log.logger())
	}()
	file, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	datagrams, _ := pair(t, unix.SOCK_DGRAM)
	client, theirs := pair(t, unix.SOCK_STREAM)

	pass(t, host, "")
	pass(t, host, hello)
	pass(t, host, hello, file)
	pass(t, host, hello, datagrams)
	pass(t, host, hello, theirs, theirs)
	pass(t, host, hello, theirs, theirs, theirs, theirs, theirs, theirs)
	pass(t, host, "", theirs)
	pass(t, host, "tp11", theirs)
	pass(t, host, "tp11\x63\x00\x00\x00", theirs)
	pass(t, host, strings.Repeat("x", 4096), theirs)
	pass(t, host, hello, theirs)
	theirs.Close()

	request := binary.LittleEndian.AppendUint32(nil, 3) // C_GetInfo
	if err := wire.WriteFrame(client, wire.Frame{Version: wire.Version, ID: 5, Message: request}); err != nil {
		t.Fatal(err)
	}
	got, err := wire.ReadFrame(client, wire.MaxMessage, nil)
	if err != nil || got.ID != 5 || !bytes.Equal(got.Message, binary.LittleEndian.AppendUint64(nil, 0x190)) {
		t.Errorf("C_GetInfo before C_Initialize: %+v, %v", got, err)
	}
	host.Close()
	select {
	case err := <-ended:
		t.Fatalf("it ended while a client was there: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	client.Close()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it outlives its host")
	}
	if text := log.String(); strings.Count(text, "refused") != 10 || !strings.Contains(text, "version is 99") {
		t.Errorf("the log:\n%s", text)
	}
}

// stuck is a connection that is long in closing, since its other end reads nothing of what was written. free ends that.
func stuck(t *testing.T) (f *os.File, free func()) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	one, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	other, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })
	f, err = one.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	for err = nil; err == nil; {
		_ = one.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		_, err = one.Write(make([]byte, 1<<20))
	}
	if err := unix.SetsockoptLinger(int(f.Fd()), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 60}); err != nil {
		t.Fatal(err)
	}
	return f, func() { other.Close() }
}

// A child that passes what is long in closing, as many as the kernel lets it, keeps no other one from the keys.
func TestHelperIsNotHeldUpByWhatItCloses(t *testing.T) {
	t.Parallel()
	hello := string(greeting) + "\x01\x00\x00\x00"
	host, control := pair(t, unix.SOCK_SEQPACKET)
	slow, free := stuck(t)
	client, theirs := pair(t, unix.SOCK_STREAM)
	files := make([]*os.File, mostPassed-1)
	for i := range files {
		files[i] = theirs
	}
	pass(t, host, hello, append(files, slow)...)
	pass(t, host, hello, theirs)
	slow.Close() // the helper's is the last one
	theirs.Close()
	ended := make(chan error, 1)
	go func() {
		ended <- Helper(control, NewSource(func() (config.Config, error) { return config.Config{}, os.ErrNotExist }, true), slog.New(slog.DiscardHandler))
	}()
	conn, err := net.FileConn(client)
	if err != nil {
		t.Fatal(err)
	}
	client.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	request := binary.LittleEndian.AppendUint32(nil, 3) // C_GetInfo
	if err := wire.WriteFrame(conn, wire.Frame{Version: wire.Version, ID: 5, Message: request}); err != nil {
		t.Fatal(err)
	}
	if got, err := wire.ReadFrame(conn, wire.MaxMessage, nil); err != nil || got.ID != 5 {
		t.Errorf("who comes next gets %+v, %v", got, err)
	}
	host.Close()
	conn.Close()
	free()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it does not end")
	}
}

// A child that shuts the control socket down ends the helper for all. The host sees it at once, whoever is still being served.
func TestHelperEndsWhereItsSocketIsShutDown(t *testing.T) {
	t.Parallel()
	host, control := pair(t, unix.SOCK_SEQPACKET)
	defer host.Close()
	log := &journal{}
	ended := make(chan error, 1)
	go func() {
		ended <- Helper(control, NewSource(func() (config.Config, error) { return config.Config{}, os.ErrNotExist }, true), log.logger())
	}()
	client, theirs := pair(t, unix.SOCK_STREAM)
	pass(t, host, string(greeting)+"\x01\x00\x00\x00", theirs)
	theirs.Close()
	if err := unix.Shutdown(int(host.Fd()), unix.SHUT_WR); err != nil {
		t.Fatal(err)
	}
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(host.Fd())}}, 10_000); n != 1 {
		t.Fatalf("the host's end is as before: %d, %v", n, err)
	}
	request := binary.LittleEndian.AppendUint32(nil, 3) // C_GetInfo
	if err := wire.WriteFrame(client, wire.Frame{Version: wire.Version, ID: 5, Message: request}); err != nil {
		t.Fatal(err)
	}
	if got, err := wire.ReadFrame(client, wire.MaxMessage, nil); err != nil || got.ID != 5 {
		t.Errorf("who is served already gets %+v, %v", got, err)
	}
	client.Close()
	select {
	case err := <-ended:
		if err != nil || log.String() != "" {
			t.Errorf("%v, and the log:\n%s", err, log)
		}
	case <-time.After(10 * time.Second):
		t.Error("it does not end")
	}
}

// A helper that cannot be started is tried for as long as its host lives, and told once.
func TestHelperThatCannotBeStarted(t *testing.T) {
	t.Parallel()
	host, control := pair(t, unix.SOCK_SEQPACKET)
	defer control.Close()
	log := &journal{}
	tried, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		Attend(control, nil, "server", func() *exec.Cmd {
			select {
			case tried <- struct{}{}:
			case <-t.Context().Done():
			}
			return exec.Command("/nowhere/at/all")
		}, log.logger())
	}()
	for range 3 {
		<-tried
	}
	host.Close()
	for over := false; !over; {
		select {
		case <-tried:
		case <-ended:
			over = true
		case <-time.After(10 * time.Second):
			t.Fatal("it outlives its host")
		}
	}
	if text := log.String(); strings.Count(text, "cannot be started") != 1 || !strings.Contains(text, "/nowhere/at/all") {
		t.Errorf("the log:\n%s", text)
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
