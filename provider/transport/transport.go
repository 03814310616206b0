// Package transport carries TPM 2.0 commands to a TPM and responses back:
// Linux devices, swtpm sockets and the reference simulator's TCP protocol.
//
// It knows the size fields of commands and responses (TPM 2.0 Part 1,
// "Command/Response Structure"), the command codes that take long, and nothing
// else of them. It sends each command once: when to send it again is the
// caller's to decide, and so is what a response code means.
package transport

import (
	"context"
	"errors"
)

// Conn is one open connection to a TPM. It is used by one goroutine at a time.
type Conn interface {
	// Transmit sends one whole command and returns its whole response. The
	// response is valid until the next call, and nothing keeps the command.
	//
	// Without a deadline in ctx it takes at most CommandTimeout. A cancelled
	// context or a passed deadline breaks the connection, since the response
	// still comes, and so does every other error after the command was sent;
	// from then on Transmit gives ErrBroken. What the TPM did with the command
	// is unknown then. A malformed command, a context that had ended before,
	// ErrBroken and ErrBusy mean that nothing was sent that changes the TPM.
	Transmit(ctx context.Context, command []byte) (response []byte, err error)
	// Close gives the TPM to the next client. It may be called more than once.
	Close() error
}

// Sender is a Conn that can send a command without waiting for its response. In swtpm's and the reference simulator's case it can once
// Transmit succeeded.
type Sender interface {
	Conn
	// Send sends one whole command and does not wait. If it fails nothing was sent, or the connection is broken.
	Send(command []byte) error
	// Receive gives the response to the command that was sent, in the way of Transmit, and is called before anything else is sent.
	Receive(ctx context.Context) (response []byte, err error)
}

// Dialer opens connections to one TPM. It is safe for concurrent use.
type Dialer interface {
	// Dial connects. While another client holds the TPM it waits, until ctx's
	// deadline or for DialTimeout when ctx has none, and then gives ErrBusy. swtpm
	// shows that another client holds it only when it is asked: there the first
	// Transmit waits instead, likewise for DialTimeout at most.
	Dial(ctx context.Context) (Conn, error)
	// String is the address as the user wrote it; for "" it is the device that
	// Dial would open now.
	String() string
	// Managed tells a TPM behind a resource manager, which gives each connection handles of its own and unloads what a closed one
	// left loaded.
	Managed() bool
}

// The errors that callers tell apart with errors.Is. Besides them an absent
// device or socket is fs.ErrNotExist, one without permission fs.ErrPermission,
// a socket behind which nobody listens syscall.ECONNREFUSED, a connection that
// the TPM ended io.EOF or io.ErrUnexpectedEOF, a passed deadline
// context.DeadlineExceeded and a cancelled context context.Canceled.
var (
	// ErrAddress is an address that Parse cannot read.
	ErrAddress = errors.New("not the address of a TPM")
	// ErrBusy is a TPM that another client did not let go in time.
	ErrBusy = errors.New("the TPM is held by another client")
	// ErrBroken is a connection that was broken before the command was sent:
	// the command may be sent again on a new connection.
	ErrBroken = errors.New("the connection to the TPM is broken")
	// ErrMalformed is a command or response whose size field is wrong.
	ErrMalformed = errors.New("malformed TPM message")
)
