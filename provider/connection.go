package provider

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

const (
	loadTimeout    = 15 * time.Second // a command that no caller cuts off
	primaryTimeout = time.Minute      // TPM2_CreatePrimary, which none cuts off either; RSA takes seconds in hardware
	resendTimeout  = 5 * time.Second  // how long a TPM may ask for patience
	firstPause     = time.Millisecond
	longestPause   = 250 * time.Millisecond
)

// errLost marks an error of a connection that ended under us.
var errLost = fmt.Errorf("%w: connection lost", ErrUnavailable)

// connection is an open connection, with what is kept loaded in the TPM through it.
type connection struct {
	tpm    *link
	conn   transport.Conn
	broken bool                 // nothing can be sent any more
	frame  []byte               // the command that is sent, and room for the next one
	live   map[Handle]struct{}  // sessions and transient objects that are loaded
	names  map[Handle]shownName // of persistent objects

	pinned  *SRK       // the pinned SRK that what follows belongs to
	found   *SRK       // without a pinned one, what was found in its place
	srk     *loadedKey // checked on this connection
	session *session   // salted HMAC session, reused
	policy  *policySession
	kept    []keptKey     // wrapped keys, the one that was used last at the end
	resting int           // uses of policies until one's steps are taken ahead again
	sent    *earlyCommand // a command whose response was not read yet
}

// shownName is the Name of the object at a persistent handle, and when the TPM last showed it.
type shownName struct {
	name Name
	at   time.Time
}

// open opens a connection. Dialers name the address in their errors.
func open(ctx context.Context, l *link) (*connection, error) {
	conn, err := l.dialer.Dial(ctx)
	switch {
	case err == nil:
		return &connection{tpm: l, conn: conn, live: make(map[Handle]struct{}), names: make(map[Handle]shownName)}, nil
	case errors.Is(err, context.Canceled):
		return nil, fmt.Errorf("open the TPM: %w", err)
	case errors.Is(err, context.DeadlineExceeded):
		return nil, fmt.Errorf("%w: %w", ErrBusy, err)
	}
	return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// close closes the connection and forgets its session's key.
func (c *connection) close() {
	if c.session != nil {
		c.session.wipe()
	}
	if c.policy != nil {
		c.policy.wipe()
	}
	c.conn.Close()
}

// transmit sends a command, again for as long as the TPM asks for it, and returns the response.
//
// With patience it is not cut off by ctx, but by that time: what a command loaded, say, would be lost, and the TPM's
// memory with it.
func (c *connection) transmit(ctx context.Context, name string, cmd []byte, patience time.Duration) ([]byte, error) {
	if c.broken {
		return nil, errLost
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	send := ctx // without a deadline the transport has one
	if patience > 0 {
		var cancel context.CancelFunc
		send, cancel = context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
	}
	began := time.Now()
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		raw, err := c.exchange(send, cmd)
		if err != nil {
			c.broken = true
			return nil, lostError(send, name, err)
		}
		_, code, _, err := header(raw)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		c.answered(ctx, name, code, began)
		if !isResend(code) {
			return raw, nil
		}
		busy := &ResponseError{Command: name, Code: code}
		if time.Since(began)+pause > resendTimeout {
			return nil, fmt.Errorf("no other answer in %v: %w", resendTimeout, busy)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("%w: %w", busy, err)
		}
	}
}

// answered tells who listens of an answer.
func (c *connection) answered(ctx context.Context, name string, code uint32, began time.Time) {
	c.tpm.log.LogAttrs(ctx, slog.LevelDebug, "TPM command",
		slog.String("command", name), slog.Uint64("code", uint64(code)), slog.Duration("took", time.Since(began)))
	if c.tpm.observe != nil {
		c.tpm.observe(name, code, time.Since(began))
	}
}

// lostError says why a connection broke: another client's turn, the caller's context, a TPM that does not answer or answers nonsense,
// or its end.
func lostError(ctx context.Context, name string, err error) error {
	switch ended := ctx.Err(); {
	case errors.Is(err, transport.ErrBusy):
		return fmt.Errorf("%w: %w", ErrBusy, err)
	case errors.Is(ended, context.Canceled):
		return fmt.Errorf("%s: %w", name, ended)
	case ended != nil, errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %s: no answer: %w", ErrUnavailable, name, context.DeadlineExceeded)
	case errors.Is(err, transport.ErrMalformed) && !errors.Is(err, transport.ErrBroken) && !errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: %s: %w", ErrMalformed, name, err) // and not one that the connection's end cut off
	}
	return fmt.Errorf("%w: %s: %w", errLost, name, err)
}

// flush unloads a session or a transient object, whatever became of the operation it belonged to.
func (c *connection) flush(ctx context.Context, h Handle) {
	if c.broken {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if err := c.unload(ctx, h); err == nil {
		delete(c.live, h)
	}
}

// unload is TPM2_FlushContext (Part 3, section 28.4) of what may be gone already.
func (c *connection) unload(ctx context.Context, h Handle) error {
	// The handle is a parameter here, not in the handle area.
	_, err := c.run(ctx, command{code: tpm2.TPMCCFlushContext, params: put32(nil, uint32(h))})
	if err == nil || isCode(err, tpm2.TPMRCHandle) {
		return nil
	}
	c.tpm.log.Debug("flush", "handle", fmt.Sprintf("0x%08X", uint32(h)), "error", err)
	return err
}
