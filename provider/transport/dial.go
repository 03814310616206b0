package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"
)

// withDeadline bounds ctx by d when it has no deadline of its own.
func withDeadline(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, d)
}

// waitTurn calls open until it gives something else than busy, with growing
// pauses, until ctx ends; then the error is ErrBusy.
func waitTurn[T any](ctx context.Context, busy syscall.Errno, open func() (T, error)) (T, error) {
	const longest = 250 * time.Millisecond
	var refusal error
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, longest) {
		v, err := open()
		switch {
		case errors.Is(err, busy):
			refusal = err
		case refusal != nil && errors.Is(err, context.DeadlineExceeded): // this try came too late
			return v, busyUnlessCancelled(ctx, refusal)
		default:
			return v, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return v, busyUnlessCancelled(ctx, refusal)
		}
	}
}

// busyUnlessCancelled is the error for a ctx that ended while another client
// had the TPM.
func busyUnlessCancelled(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	return fmt.Errorf("%w: %w: %w", ErrBusy, context.DeadlineExceeded, err)
}

// dialSocket connects to a socket. A unix socket whose queue of clients is full
// gives EAGAIN at once, other than a full TCP queue, which waits.
func dialSocket(ctx context.Context, network, target string) (*socket, error) {
	return waitTurn(ctx, syscall.EAGAIN, func() (*socket, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, network, target)
		if err != nil {
			return nil, err
		}
		return newSocket(c)
	})
}

// awaitTurn sends a first command, which changes nothing, on a new connection and waits for
// its response. An emulator serves one client at a time, and lets others connect
// and send long before it listens to them: it would carry out, later, a command
// whose sender has given up meanwhile. So none that matters is sent before the
// first one is answered. The connection is closed if that fails.
func awaitTurn(ctx context.Context, c *conn, command []byte) ([]byte, error) {
	response, err := c.Transmit(ctx, command)
	if err == nil {
		return response, nil
	}
	c.Close()
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("%w, which has to let it go first, or it hangs: %w", ErrBusy, err)
	}
	return nil, err
}
