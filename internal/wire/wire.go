// Package wire writes and reads the messages between the C boundary and
// Cryptoki: little-endian numbers and counted bytes, nothing else.
//
// Messages are untrusted input. A Reader never panics and never allocates by
// a length that it was only told; a Writer never makes a message that is too long.
package wire

import "errors"

// MaxMessage is the largest message, in bytes.
const MaxMessage = 1 << 20

// null is the length that stands for a NULL pointer.
const null = ^uint64(0)

var (
	// ErrMalformed tells that a message is shorter, longer or other than its meaning asks for.
	ErrMalformed = errors.New("malformed message")
	// ErrTooLong tells that a message is longer than MaxMessage, or than its reader takes.
	ErrTooLong = errors.New("message too long")
)
