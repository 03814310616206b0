package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"
)

// swtpmDialer connects to swtpm's data socket, which takes bare commands and
// gives bare responses.
type swtpmDialer struct {
	address string
	network string // "unix" or "tcp"
	target  string // path or host:port
}

func (d *swtpmDialer) String() string { return d.address }

// getTestResult is TPM2_GetTestResult, which every TPM answers in every state
// and which changes none (TPM 2.0 Part 3).
var getTestResult = []byte{0x80, 0x01, 0, 0, 0, headerSize, 0, 0, 0x01, 0x7c}

func (d *swtpmDialer) Dial(ctx context.Context) (Conn, error) {
	ctx, cancel := withDeadline(ctx, DialTimeout)
	defer cancel()
	socket, err := dialSocket(ctx, d.network, d.target)
	if err != nil {
		return nil, explainSocket(d.address, err)
	}
	c := &conn{framing: bare{}, address: d.address, socket: socket}
	if _, err := awaitTurn(ctx, c, getTestResult); err != nil {
		return nil, err
	}
	return c, nil
}

// explainSocket adds to a failed connect what can be done about it.
func explainSocket(address string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s: %w: is the emulator running?", address, err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%s: %w: nobody listens there; start the emulator", address, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: %w: this user needs write permission on the socket", address, err)
	}
	return fmt.Errorf("%s: %w", address, err)
}

// bare frames nothing: messages carry their own size.
type bare struct{}

func (bare) frame(command []byte) []byte                  { return command }
func (bare) read(r io.Reader, buf []byte) ([]byte, error) { return readResponse(r, buf) }
func (bare) farewell() []byte                             { return nil }
