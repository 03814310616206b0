package serve

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/internal/wire"
)

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
	case <-time.After(time.Minute):
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
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
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
	case <-time.After(time.Minute):
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
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(host.Fd())}}, 60_000); n != 1 {
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
	case <-time.After(time.Minute):
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
		case <-time.After(time.Minute):
			t.Fatal("it outlives its host")
		}
	}
	if text := log.String(); strings.Count(text, "cannot be started") != 1 || !strings.Contains(text, "/nowhere/at/all") {
		t.Errorf("the log:\n%s", text)
	}
}
