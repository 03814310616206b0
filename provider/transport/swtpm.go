package transport

import (
	"context"
	"encoding/binary"
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

// Managed is false: what a client leaves loaded takes room from the next one.
func (d *swtpmDialer) Managed() bool { return false }

func (d *swtpmDialer) Dial(ctx context.Context) (Conn, error) {
	ctx, cancel := withDeadline(ctx, DialTimeout)
	defer cancel()
	socket, err := dialSocket(ctx, d.network, d.target)
	if err != nil {
		return nil, explainSocket(d.address, err)
	}
	return &swtpmConn{conn: &conn{framing: bare{}, address: d.address, socket: socket}}, nil
}

// swtpmConn makes sure that swtpm listens to this client before it sends a
// command that changes something.
type swtpmConn struct {
	*conn
	listens bool
}

func (c *swtpmConn) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	if c.listens || c.broken != nil || ctx.Err() != nil || checkCommand(command) != nil {
		return c.conn.Transmit(ctx, command)
	}
	turn, cancel := context.WithTimeout(ctx, DialTimeout)
	defer cancel()
	first := getTestResult
	if changesNothing(command) {
		first = command
	}
	response, err := awaitTurn(turn, c.conn, first)
	if err != nil {
		return nil, err
	}
	c.listens = true
	if changesNothing(command) {
		return response, nil
	}
	return c.conn.Transmit(ctx, command)
}

// Send refuses to send to an swtpm that may not listen yet.
func (c *swtpmConn) Send(command []byte) error {
	if !c.listens {
		return fmt.Errorf("%s: %w: no command was answered yet", c.address, ErrBusy)
	}
	return c.conn.Send(command)
}

// getTestResult is TPM2_GetTestResult, which every TPM answers in every state
// and which changes none (TPM 2.0 Part 3).
var getTestResult = []byte{0x80, 0x01, 0, 0, 0, headerSize, 0, 0, 0x01, 0x7c}

// changesNothing tells some well-formed commands, quickly done, that leave a TPM
// as it was.
func changesNothing(command []byte) bool {
	const (
		ccReadPublic    = 0x00000173 // TPM 2.0 Part 2, TPM_CC
		ccGetCapability = 0x0000017A
		ccGetRandom     = 0x0000017B
		ccPCRRead       = 0x0000017E
	)
	switch binary.BigEndian.Uint32(command[6:]) {
	case ccReadPublic, ccGetCapability, ccGetRandom, ccPCRRead:
		return true
	}
	return false
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
