package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// socket is a connected stream socket whose calls block their thread. Go's poller would wake threads of its own for each response,
// which costs more than all else that a command takes here, and more still where the caller's thread is not Go's.
type socket struct {
	fd      int
	timeout time.Duration // of calls, 0 for none
}

// newSocket takes a connection over.
func newSocket(c net.Conn) (*socket, error) {
	defer c.Close()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &socket{}
	var failed error
	err = raw.Control(func(fd uintptr) {
		if s.fd, failed = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); failed != nil {
			return
		}
		if failed = unix.SetNonblock(s.fd, false); failed != nil {
			unix.Close(s.fd)
		}
	})
	if err := errors.Join(err, failed); err != nil {
		return nil, err
	}
	return s, nil
}

// limit sets the time that a call may take.
func (s *socket) limit(timeout time.Duration) error {
	if s.timeout == timeout {
		return nil
	}
	tv := unix.NsecToTimeval(timeout.Nanoseconds())
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, option, &tv); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	s.timeout = timeout
	return nil
}

// during calls work, and ends the connection, the one way to wake a call that blocks, when ctx ends before it. It tells whether that
// came about.
func (s *socket) during(ctx context.Context, work func() error) (ended bool, err error) {
	if ctx.Done() == nil {
		return false, work()
	}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = unix.Shutdown(s.fd, unix.SHUT_RDWR)
		close(done)
	})
	err = work()
	if stop() {
		return false, err
	}
	<-done // whoever closes the socket next closes this one
	return true, err
}

// retry makes a system call until no signal interrupts it, and names its error.
func retry(name string, call func() (int, error)) (int, error) {
	for {
		n, err := call()
		switch {
		case err == nil:
			return n, nil
		case errors.Is(err, unix.EAGAIN):
			return 0, fmt.Errorf("%s: %w", name, context.DeadlineExceeded)
		case !errors.Is(err, unix.EINTR):
			return 0, os.NewSyscallError(name, err)
		}
	}
}

func (s *socket) Read(b []byte) (int, error) {
	n, err := retry("read", func() (int, error) { return unix.Read(s.fd, b) })
	if n == 0 && err == nil && len(b) > 0 {
		err = io.EOF
	}
	return n, err
}

// Write raises no SIGPIPE in whoever's process this is.
func (s *socket) Write(b []byte) (written int, err error) {
	for written < len(b) && err == nil {
		var n int
		n, err = retry("write", func() (int, error) { return unix.SendmsgN(s.fd, b[written:], nil, nil, unix.MSG_NOSIGNAL) })
		written += n
	}
	return written, err
}

// quiet finds out whether the TPM has ended the connection (a command can go elsewhere then), or has sent what nobody asked for (it
// would be taken for the response).
func (s *socket) quiet() error {
	var b [1]byte
	n, _, err := unix.Recvfrom(s.fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	for errors.Is(err, unix.EINTR) {
		n, _, err = unix.Recvfrom(s.fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	}
	switch {
	case errors.Is(err, unix.EAGAIN):
		return nil
	case err != nil:
		return os.NewSyscallError("recvfrom", err)
	case n == 0:
		return io.EOF
	}
	return fmt.Errorf("%w: a response without a command", ErrMalformed)
}

func (s *socket) Close() error { return unix.Close(s.fd) }
