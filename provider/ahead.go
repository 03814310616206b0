package provider

import (
	"bytes"
	"context"
	"os"

	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

// ahead is a command that is sent before the turn of the operation that it belongs to: that one's first, so that the TPM works while its
// thread wakes up, or the step of its policy. A first one uses a persistent object by an empty password alone: nothing in it depends on the
// commands before it, and nothing but its response comes of it. What comes of a step is told.
type ahead struct {
	object entity
	bytes  []byte
	then   func(response []byte) // is told the response if another command comes before the operation's; nil for nobody
}

// sendAhead sends the command of whoever has the next turn, if it would send that one anyway.
func (l *link) sendAhead(next *ahead) {
	c := l.conn
	switch {
	case c == nil || c.broken || c.sent != nil || l.pid != os.Getpid(): // nowhere to send it
	case l.closed.Load() || l.suspect.Load(): // something else comes first
	case !bytes.Equal(c.names[next.object.handle].name, next.object.name): // its Name comes first
	default:
		if s, ok := c.conn.(transport.Sender); ok && s.Send(next.bytes) == nil {
			c.sent = next
		}
	}
}

// exchange sends a command, unless it was sent ahead, and gives its response. The response to another one that was sent ahead, whose
// operation was given up before its turn or is yet to come, is received before.
func (c *connection) exchange(ctx context.Context, cmd []byte) ([]byte, error) {
	sent := c.sent
	if sent == nil {
		return c.conn.Transmit(ctx, cmd)
	}
	c.sent = nil
	response, err := c.conn.(transport.Sender).Receive(ctx)
	if err != nil || bytes.Equal(sent.bytes, cmd) {
		return response, err
	}
	if sent.then != nil {
		sent.then(response)
	}
	return c.conn.Transmit(ctx, cmd)
}
