package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
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
	socket  net.Conn
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
		if err := c.checkQuiet(); err != nil {
			_ = c.fail(ctx, err)
		}
	}
	if c.broken != nil {
		return nil, fmt.Errorf("%s: %w: %w", c.address, ErrBroken, c.broken)
	}

	ctx, cancel := withDeadline(ctx, CommandTimeout(command))
	defer cancel()
	// Closing is the one way to wake a blocked read that cannot be undone by a
	// later deadline; the connection is lost anyway.
	stop := context.AfterFunc(ctx, func() { c.socket.Close() })
	response, err := c.exchange(command)
	if !stop() && err == nil {
		// The end came just after the response: that one still counts.
		_ = c.fail(ctx, ctx.Err())
	}
	if err != nil {
		return nil, c.fail(ctx, err)
	}
	return response, nil
}

func (c *conn) exchange(command []byte) ([]byte, error) {
	if _, err := c.socket.Write(c.frame(command)); err != nil {
		return nil, err
	}
	return c.read(c.socket, c.buf[:])
}

// checkQuiet finds out, before a command is sent, that the TPM has ended the
// connection (the command can go elsewhere then) or has sent what nobody asked
// for (it would be taken for the response).
func (c *conn) checkQuiet() error {
	raw, err := c.socket.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	var n int
	var peekErr error
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		for {
			n, _, peekErr = syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			if !errors.Is(peekErr, syscall.EINTR) {
				return
			}
		}
	})
	switch {
	case err != nil:
		return err
	case errors.Is(peekErr, syscall.EAGAIN):
		return nil
	case peekErr != nil:
		return peekErr
	case n == 0:
		return io.EOF
	}
	return fmt.Errorf("%w: a response without a command", ErrMalformed)
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
		_ = c.socket.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = c.socket.Write(bye) // a server that is gone needs none
	}
	clear(c.buf[:])
	return c.socket.Close()
}
