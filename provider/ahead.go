package provider

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

// earlyCommand is a command that is sent before the turn of the operation that it belongs to: that one's first, so that the TPM works while its
// thread wakes up, or the step of its policy. A first one uses a persistent object by an empty password alone: nothing in it depends on the
// commands before it, and nothing but its response comes of it. What comes of a step is told.
type earlyCommand struct {
	object entity
	bytes  []byte
	then   func(response []byte) // is told the response if another command comes before the operation's; nil for nobody
}

// sendNext sends the command of whoever has the next turn, if it would send that one anyway.
func (l *link) sendNext(next *earlyCommand) {
	c := l.conn
	switch {
	case c == nil || c.broken || l.pid != os.Getpid(): // nowhere to send it
	case l.closed.Load() || l.suspect.Load(): // something else comes first
	case !bytes.Equal(c.names[next.object.handle].name, next.object.name): // its Name comes first
	default:
		c.sendAhead(next)
	}
}

// sendAhead sends a command without waiting for its response, and tells whether it did.
func (c *connection) sendAhead(a *earlyCommand) bool {
	s, can := c.conn.(transport.Sender)
	if !can || c.sent != nil || s.Send(a.bytes) != nil {
		return false
	}
	c.sent = a
	return true
}

// exchange sends a command, unless it was sent ahead, and gives its response.
func (c *connection) exchange(ctx context.Context, cmd []byte) ([]byte, error) {
	if sent := c.sent; sent != nil && bytes.Equal(sent.bytes, cmd) {
		c.sent = nil
		return c.conn.(transport.Sender).Receive(ctx)
	}
	if err := c.settle(ctx); err != nil {
		return nil, fmt.Errorf("%w: %w", transport.ErrBroken, err) // before the command was sent
	}
	return c.conn.Transmit(ctx, cmd)
}

// settle receives the response to what was sent ahead, if anything was, for an operation that was given up before its turn or is yet to
// come.
func (c *connection) settle(ctx context.Context) error {
	sent := c.sent
	if sent == nil {
		return nil
	}
	c.sent = nil
	began := time.Now()
	response, err := c.conn.(transport.Sender).Receive(ctx)
	if err != nil {
		return err
	}
	_, code, _, err := header(response)
	if err != nil {
		return err
	}
	c.answered(ctx, commandName(tpm2.TPMCC(binary.BigEndian.Uint32(sent.bytes[6:]))), code, began)
	if sent.then != nil {
		sent.then(response)
	}
	return nil
}
