// Package wiretap taps the wire of a provider's TPM within its own process. It is for tests.
package wiretap

import (
	"bytes"
	"context"
	"errors"
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
	ahead int
	sent  func()
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
	return &conn{Conn: c, dialer: d}, nil
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
	d.dials, d.ahead = 0, 0
}

// Dials is how many connections were opened.
func (d *Dialer) Dials() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dials
}

// WhenSent has f called when a command was sent ahead.
func (d *Dialer) WhenSent(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sent = f
}

// Ahead is how many commands were sent ahead.
func (d *Dialer) Ahead() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ahead
}

func (d *Dialer) wasSent() {
	d.mu.Lock()
	d.ahead++
	sent := d.sent
	d.mu.Unlock()
	if sent != nil {
		sent()
	}
}

type conn struct {
	transport.Conn
	dialer *Dialer
	sent   []byte
}

func (c *conn) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	ctx, cancel := bounded(ctx, command)
	defer cancel()
	return c.dialer.Carry(ctx, command, func() ([]byte, error) { return c.Conn.Transmit(ctx, command) })
}

// Send is not tapped: the command and its response are when that is received.
func (c *conn) Send(command []byte) error {
	sender, ok := c.Conn.(transport.Sender)
	if !ok {
		return errors.ErrUnsupported
	}
	err := sender.Send(command)
	if err == nil {
		c.sent = bytes.Clone(command)
		c.dialer.wasSent()
	}
	return err
}

func (c *conn) Receive(ctx context.Context) ([]byte, error) {
	ctx, cancel := bounded(ctx, c.sent)
	defer cancel()
	received := false
	receive := func() ([]byte, error) {
		received = true
		return c.Conn.(transport.Sender).Receive(ctx)
	}
	response, err := c.dialer.Carry(ctx, c.sent, receive)
	if err == nil && !received { // a fault's answer stands for the TPM's, which comes all the same
		_, err = receive()
	}
	return response, err
}

// bounded has what waits in a fault not wait for ever.
func bounded(ctx context.Context, command []byte) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, transport.CommandTimeout(command))
}
