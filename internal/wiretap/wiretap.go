// Package wiretap taps the wire of a provider's TPM within its own process. It is for tests.
package wiretap

import (
	"context"
	"sync"

	"github.com/tpm2-p11/tpm2-p11/internal/faulttpm"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

// Dialer is a transport.Dialer with one tap on all its connections.
type Dialer struct {
	transport.Dialer
	faulttpm.Tap

	mu    sync.Mutex
	dials int
	last  transport.Conn
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

// Aside sends a command of somebody else over the connection in use. A Fault may call it.
func (d *Dialer) Aside(command []byte) ([]byte, error) {
	d.mu.Lock()
	c := d.last
	d.mu.Unlock()
	return c.Transmit(context.Background(), command)
}

// Reset forgets what was recorded, connections too.
func (d *Dialer) Reset() {
	d.Tap.Reset()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dials = 0
}

// Dials is how many connections were opened.
func (d *Dialer) Dials() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dials
}

type conn struct {
	transport.Conn
	dialer *Dialer
}

func (c *conn) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	if _, ok := ctx.Deadline(); !ok { // what waits in a fault does not wait for ever
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, transport.CommandTimeout(command))
		defer cancel()
	}
	return c.dialer.Carry(ctx, command, func() ([]byte, error) { return c.Conn.Transmit(ctx, command) })
}
