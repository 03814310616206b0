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
}

func (c *conn) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	if err := checkCommand(command); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", c.address, err)
	}
	if c.broken == nil {
		if err := c.socket.quiet(); err != nil {
			_ = c.fail(ctx, err)
		}
	}
	if c.broken != nil {
		return nil, fmt.Errorf("%s: %w: %w", c.address, ErrBroken, c.broken)
	}

	response, err := c.exchange(ctx, command)
	if err != nil {
		return nil, c.fail(ctx, err)
	}
	return response, nil
}

// exchange sends a command and reads its response.
func (c *conn) exchange(ctx context.Context, command []byte) (response []byte, err error) {
	timeout := CommandTimeout(command)
	if _, ok := ctx.Deadline(); ok {
		timeout = 0
	}
	if err := c.socket.limit(timeout); err != nil {
		return nil, err
	}
	ended, err := c.socket.during(ctx, func() error {
		_, err := c.socket.Write(c.frame(command))
		if err == nil {
			response, err = c.read(c.socket, c.buf[:])
		}
		return err
	})
	if ended && err == nil { // just after the response: that one still counts
		_ = c.fail(ctx, ctx.Err())
	}
	return response, err
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
