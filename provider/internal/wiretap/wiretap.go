// Package wiretap records what goes over the wire to a TPM, and injects
// faults. It is for tests.
package wiretap

import (
	"bytes"
	"context"
	"encoding/binary"
	"sync"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

// Exchange is one command and its response, nil when there was none.
type Exchange struct{ Command, Response []byte }

// Code is the command's code.
func (e Exchange) Code() tpm2.TPMCC { return Code(e.Command) }

// Code is a command's code.
func Code(command []byte) tpm2.TPMCC { return tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])) }

// ResponseCode is a response that is nothing but a response code.
func ResponseCode(rc uint32) []byte {
	b := []byte{0x80, 0x01, 0, 0, 0, 10}
	return binary.BigEndian.AppendUint32(b, rc)
}

// Fault stands between a command and the TPM. It may call send, which gives the TPM's own answer, and answers what it likes.
// An error ends the connection.
type Fault func(ctx context.Context, command []byte, send func() ([]byte, error)) ([]byte, error)

// Dialer is a transport.Dialer with a wiretap on every connection.
type Dialer struct {
	transport.Dialer

	mu        sync.Mutex
	fault     Fault
	exchanges []Exchange
	dials     int
	last      transport.Conn
}

// New taps the wire behind d.
func New(d transport.Dialer) *Dialer { return &Dialer{Dialer: d} }

// Dial opens a tapped connection.
func (d *Dialer) Dial(ctx context.Context) (transport.Conn, error) {
	c, err := d.Dialer.Dial(ctx)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dials++
	d.last = c
	return &conn{c, d}, nil
}

// Inject sets the fault, nil for none.
func (d *Dialer) Inject(f Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = f
}

// Aside sends a command of somebody else over the connection in use. A Fault may call it.
func (d *Dialer) Aside(command []byte) ([]byte, error) {
	d.mu.Lock()
	c := d.last
	d.mu.Unlock()
	return c.Transmit(context.Background(), command)
}

// Reset forgets what was recorded.
func (d *Dialer) Reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.exchanges, d.dials = nil, 0
}

// Exchanges gives what was recorded.
func (d *Dialer) Exchanges() []Exchange {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]Exchange(nil), d.exchanges...)
}

// Codes are the codes of the recorded commands.
func (d *Dialer) Codes() (codes []tpm2.TPMCC) {
	for _, e := range d.Exchanges() {
		codes = append(codes, e.Code())
	}
	return codes
}

// Count is how many commands of a code were recorded.
func (d *Dialer) Count(code tpm2.TPMCC) (n int) {
	for _, c := range d.Codes() {
		if c == code {
			n++
		}
	}
	return n
}

// Dials is how many connections were opened.
func (d *Dialer) Dials() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dials
}

// Saw tells whether b travelled in either direction.
func (d *Dialer) Saw(b []byte) bool {
	for _, e := range d.Exchanges() {
		if bytes.Contains(e.Command, b) || bytes.Contains(e.Response, b) {
			return true
		}
	}
	return false
}

type conn struct {
	transport.Conn
	dialer *Dialer
}

func (c *conn) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	c.dialer.mu.Lock()
	fault := c.dialer.fault
	c.dialer.mu.Unlock()

	send := func() ([]byte, error) { return c.Conn.Transmit(ctx, command) }
	e := Exchange{Command: bytes.Clone(command)}
	var err error
	if fault == nil {
		e.Response, err = send()
	} else {
		e.Response, err = fault(ctx, command, send)
	}
	response := e.Response
	e.Response = bytes.Clone(response)
	c.dialer.mu.Lock()
	c.dialer.exchanges = append(c.dialer.exchanges, e)
	c.dialer.mu.Unlock()
	return response, err
}
