package serve

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/tpm2-p11/tpm2-p11/internal/wire"
	"github.com/tpm2-p11/tpm2-p11/p11"
)

// maxClients is how many children of one host are served at once.
const maxClients = 4096

// greeting begins each message on the control socket; the protocol's version follows.
var greeting = []byte("tp11")

// Helper serves the forked children of a host: each passes one end of a socket pair, a connection of its own, over the control
// socket (SOCK_SEQPACKET). It returns when nobody has the other end of the control socket any more, or one of them shut it down, and
// every client has left.
func Helper(control *os.File, source *Source, log *slog.Logger) error {
	generic, err := net.FileConn(control)
	if err != nil {
		return fmt.Errorf("the control socket: %w", err)
	}
	defer generic.Close()
	conn, ok := generic.(*net.UnixConn)
	if !ok {
		return errors.New("the control socket is no unix socket")
	}
	var clients sync.WaitGroup
	places := make(chan struct{}, maxClients)
	host := p11.NewUsers().New()
	for {
		places <- struct{}{}
		p, err := receive(conn)
		switch {
		case errors.Is(err, io.EOF):
			_ = conn.CloseWrite() // where one child shut it down for all, the host sees that it needs another helper
			clients.Wait()
			source.Close()
			return nil
		case err != nil:
			return fmt.Errorf("the control socket: %w", err)
		}
		// Closing what was passed may take as long as whoever passed it likes: that costs a place, and holds nobody up.
		clients.Go(func() {
			defer func() { <-places }()
			client, err := p.client()
			if err != nil {
				log.Warn("a connection was refused", "reason", err.Error())
				return
			}
			named := func(log *slog.Logger) *slog.Logger {
				if who, err := credentials(client); err == nil {
					return log.With(who.attributes()...)
				}
				return log
			}
			newClient(client, p11.NewForked(source.OpenFor(named), host), defaultTerms, named(log)).serve()
		})
	}
}

// mostPassed are the descriptors that one message can pass (SCM_MAX_FD of the kernel, which itself closes those that find no room).
const mostPassed = 253

// parcel is one message of the control socket.
type parcel struct {
	text  []byte
	files []*os.File
	cut   bool // there was more
}

// receive takes the next message. io.EOF when nobody can pass anything any more.
func receive(control *net.UnixConn) (parcel, error) {
	message := make([]byte, 64)
	rights := make([]byte, unix.CmsgSpace(4*mostPassed))
	n, rightsLength, flags, _, err := control.ReadMsgUnix(message, rights)
	if err != nil && !errors.Is(err, io.EOF) {
		return parcel{}, err
	}
	p := parcel{message[:n], received(rights[:rightsLength]), flags&unix.MSG_CTRUNC != 0}
	if n == 0 && len(p.files) == 0 && hungUp(control) {
		return parcel{}, io.EOF
	}
	return p, nil
}

// errNoClient is for a message on the control socket that passes no connection.
var errNoClient = errors.New("no connection was passed")

// client is the connection that a parcel passes. All else that is in it is closed.
func (p parcel) client() (*net.UnixConn, error) {
	defer func() {
		for _, f := range p.files {
			f.Close()
		}
	}()
	if len(p.files) != 1 || p.cut {
		return nil, fmt.Errorf("%w: a message passes one descriptor, not %d", errNoClient, len(p.files))
	}
	version, greeted := bytes.CutPrefix(p.text, greeting)
	if !greeted || len(version) < 4 {
		return nil, fmt.Errorf("%w: no greeting", errNoClient)
	}
	if version := wire.NewReader(version).Uint32(); !wire.Spoken(version) {
		return nil, fmt.Errorf("%w: the program has loaded another release of the module: its protocol's version is %d, and %d is spoken: restart it",
			errNoClient, version, wire.Version)
	}
	return stream(p.files[0])
}

// received takes the descriptors out of control messages.
func received(rights []byte) (files []*os.File) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "passed"))
		}
	}
	return files
}

// stream is the connection of a passed descriptor.
func stream(f *os.File) (*net.UnixConn, error) {
	domain, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil || domain != unix.AF_UNIX {
		return nil, fmt.Errorf("%w: the descriptor is no unix socket", errNoClient)
	}
	kind, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || kind != unix.SOCK_STREAM {
		return nil, fmt.Errorf("%w: the socket is no stream", errNoClient)
	}
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoClient, err)
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, fmt.Errorf("%w: the socket is another one than it said", errNoClient)
	}
	return unixConn, nil
}

// hungUp tells whether nobody can pass anything any more: an empty message reads like the end.
func hungUp(control *net.UnixConn) bool {
	raw, err := control.SyscallConn()
	if err != nil {
		return true
	}
	over := true
	err = raw.Control(func(fd uintptr) { over = fdHungUp(int(fd)) })
	return over || err != nil
}

// fdHungUp tells whether the other end of a socket is closed, or was shut down by one of those who have it: then it is for all of them.
func fdHungUp(fd int) bool {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	for {
		_, err := unix.Poll(poll, 0)
		if !errors.Is(err, unix.EINTR) {
			return err != nil || poll[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0
		}
	}
}
