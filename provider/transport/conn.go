package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// framing is how a socket protocol wraps commands and responses.
type framing interface {
	// frame wraps a command that was checked.
	frame(command []byte) []byte
	// read reads one response into buf (more than maxSize bytes), or fails when
	// it is malformed.
	read(r io.Reader, buf []byte) ([]byte, error)
	// farewell is what the server wants to hear at the end, nil for nothing.
	farewell() []byte
}

// conn is a Conn over a stream socket.
type conn struct {
	framing
	address string
	socket  *socket
	buf     [maxSize + 16]byte // the response, and room to see that more follows
	broken  error              // why the connection cannot be used any more

	patience time.Duration // with a response that was not received yet
}

func (c *conn) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	if err := c.ready(ctx, command); err != nil {
		return nil, err
	}
	return c.exchange(ctx, CommandTimeout(command), func() error { return c.write(command) })
}

func (c *conn) Send(command []byte) error {
	if err := c.ready(context.Background(), command); err != nil {
		return err
	}
	c.patience = CommandTimeout(command)
	err := c.socket.limit(c.patience)
	if err == nil {
		err = c.write(command)
	}
	if err != nil {
		return c.fail(context.Background(), err)
	}
	return nil
}

func (c *conn) Receive(ctx context.Context) ([]byte, error) {
	if c.broken != nil {
		return nil, fmt.Errorf("%s: %w", c.address, c.broken)
	}
	return c.exchange(ctx, c.patience, func() error { return nil })
}

// ready finds out whether a command can be sent now.
func (c *conn) ready(ctx context.Context, command []byte) error {
	if err := checkCommand(command); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", c.address, err)
	}
	if c.broken == nil {
		if err := c.socket.quiet(); err != nil {
			_ = c.fail(ctx, err)
		}
	}
	if c.broken != nil {
		return fmt.Errorf("%s: %w: %w", c.address, ErrBroken, c.broken)
	}
	return nil
}

func (c *conn) write(command []byte) error {
	_, err := c.socket.Write(c.frame(command))
	return err
}

// exchange reads the response to what send sends. Without a deadline in ctx it takes no longer than the timeout.
func (c *conn) exchange(ctx context.Context, timeout time.Duration, send func() error) (response []byte, err error) {
	if _, ok := ctx.Deadline(); ok {
		timeout = 0
	}
	var ended bool
	if err = c.socket.limit(timeout); err == nil {
		ended, err = c.socket.during(ctx, func() error {
			err := send()
			if err == nil {
				response, err = c.read(c.socket, c.buf[:])
			}
			return err
		})
	}
	switch {
	case err != nil:
		return nil, c.fail(ctx, err)
	case ended: // just after the response: that one still counts
		_ = c.fail(ctx, ctx.Err())
	}
	return response, nil
}

// fail breaks the connection, remembers why, and puts the cause into words.
func (c *conn) fail(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = ctx.Err() // the read's error is only that the socket was closed
	}
	c.broken = err
	c.socket.Close()
	return fmt.Errorf("%s: %w", c.address, err)
}

var errClosed = errors.New("it was closed")

func (c *conn) Close() error {
	if c.broken != nil {
		return nil
	}
	c.broken = errClosed
	if bye := c.farewell(); bye != nil {
		_ = c.socket.limit(time.Second)
		_, _ = c.socket.Write(bye) // a server that is gone needs none
	}
	clear(c.buf[:])
	return c.socket.Close()
}
