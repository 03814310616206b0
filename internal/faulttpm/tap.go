// Package faulttpm stands between a TPM and its users: it records what they say to each other, and injects faults. It is for tests.
//
// A Fault answers in a TPM's place, or spoils what the TPM answers; a When says which commands it meets. A Proxy has them on a
// socket, between any process and a TPM emulator; package wiretap has them within a process.
package faulttpm

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"
	"sync"

	"github.com/google/go-tpm/tpm2"
)

// Exchange is one command and its response, nil when there was none.
type Exchange struct{ Command, Response []byte }

// Code is the command's code.
func (e Exchange) Code() tpm2.TPMCC { return Code(e.Command) }

// Code is a command's code.
func Code(command []byte) tpm2.TPMCC { return tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])) }

// Tap is a wire that is recorded and may have a fault. The zero Tap has none. It is safe for concurrent use.
type Tap struct {
	mu        sync.Mutex
	fault     Fault
	exchanges []Exchange
}

// Inject sets the fault, nil for none.
func (t *Tap) Inject(f Fault) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fault = f
}

// Carry passes a command through the fault and notes it with its answer. What waits gives up when ctx ends.
func (t *Tap) Carry(ctx context.Context, command []byte, send func() ([]byte, error)) ([]byte, error) {
	t.mu.Lock()
	fault := t.fault
	t.mu.Unlock()
	if fault == nil {
		fault = pass
	}
	e := Exchange{Command: bytes.Clone(command)}
	response, err := fault(ctx, command, send)
	e.Response = bytes.Clone(response)
	t.mu.Lock()
	t.exchanges = append(t.exchanges, e)
	t.mu.Unlock()
	return response, err
}

// Reset forgets what was recorded.
func (t *Tap) Reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.exchanges = nil
}

// Exchanges gives what was recorded.
func (t *Tap) Exchanges() []Exchange {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.exchanges)
}

// Codes are the codes of the recorded commands.
func (t *Tap) Codes() (codes []tpm2.TPMCC) {
	for _, e := range t.Exchanges() {
		codes = append(codes, e.Code())
	}
	return codes
}

// Count is how many commands of a code were recorded.
func (t *Tap) Count(code tpm2.TPMCC) (n int) {
	for _, c := range t.Codes() {
		if c == code {
			n++
		}
	}
	return n
}

// Saw tells whether b travelled in either direction.
func (t *Tap) Saw(b []byte) bool {
	for _, e := range t.Exchanges() {
		if bytes.Contains(e.Command, b) || bytes.Contains(e.Response, b) {
			return true
		}
	}
	return false
}
