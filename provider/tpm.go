package provider

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

// Handle is a TPM handle.
type Handle = tpm2.TPMHandle

// idleTime is how long a connection is kept that nothing uses.
const idleTime = time.Second

// closeTimeout bounds what is done to a TPM that nobody waits for any more.
const closeTimeout = 2 * time.Second

// TPM is one TPM, connected when first used and let go after a second of idleness. Safe for concurrent use:
// operations queue, one at a time, in the order they came. An operation holds the TPM for its whole sequence
// of commands.
type TPM struct {
	dialer    transport.Dialer
	log       *slog.Logger
	ownerAuth *secret.Bytes
	verify    Verify

	pinned atomic.Pointer[SRK]
	closed atomic.Bool
	queue  queue

	// What follows belongs to whoever has the queue's turn.
	conn    *connection
	idle    *time.Timer     // lets go of the connection
	names   map[Handle]Name // persistent handles whose Name was read
	orphans []orphan        // left loaded when a connection broke
	pid     int             // of the process that made conn and orphans
}

// Option changes how a TPM is used.
type Option func(*TPM)

// WithLogger sets where events go; default: nowhere.
func WithLogger(l *slog.Logger) Option { return func(t *TPM) { t.log = l } }

// WithOwnerAuth gives the owner hierarchy's auth value (empty by default). The TPM reads it as long as it lives.
func WithOwnerAuth(auth *secret.Bytes) Option { return func(t *TPM) { t.ownerAuth = auth } }

// Verify says which signatures are verified in software before they are returned.
type Verify string

// The choices. Any other value is VerifyAll.
const (
	VerifyRSA  Verify = "rsa" // default: a faulty RSA signature can reveal the key, and verifying one is cheap
	VerifyAll  Verify = "all"
	VerifyNone Verify = "none"
)

// WithVerify sets which signatures are verified.
func WithVerify(v Verify) Option { return func(t *TPM) { t.verify = v } }

// New uses the TPM behind a dialer. Nothing is opened yet.
func New(d transport.Dialer, opts ...Option) *TPM {
	t := &TPM{
		dialer: d,
		log:    slog.New(slog.DiscardHandler),
		verify: VerifyRSA,
		names:  make(map[Handle]Name),
	}
	for _, o := range opts {
		o(t)
	}
	return t
}

// String is the TPM's address.
func (t *TPM) String() string { return t.dialer.String() }

// Close waits for the operations that came before it, flushes what is kept in the TPM and closes the
// connection. Operations that begin later fail with ErrClosed. It may be called more than once.
func (t *TPM) Close() error {
	t.closed.Store(true)
	if err := t.queue.enter(context.Background()); err != nil {
		return err
	}
	defer t.queue.leave()
	if t.idle != nil {
		t.idle.Stop()
	}
	t.letGo()
	return nil
}

// Release lets go of the connection now if nothing uses it; the next operation opens it again.
func (t *TPM) Release() {
	if !t.queue.tryEnter() {
		return
	}
	defer t.queue.leave()
	t.letGo()
}

// do runs an operation when its turn comes. It runs it once more, from its beginning, when the connection was
// lost or the TPM had been reset under us: operations converge when repeated.
func (t *TPM) do(ctx context.Context, op func(context.Context, *connection) error) error {
	return t.turn(ctx, true, op)
}

// doOnce is do for an operation that must not be repeated when its outcome is unknown.
func (t *TPM) doOnce(ctx context.Context, op func(context.Context, *connection) error) error {
	return t.turn(ctx, false, op)
}

func (t *TPM) turn(ctx context.Context, repeatable bool, op func(context.Context, *connection) error) error {
	if t.closed.Load() {
		return ErrClosed
	}
	if err := t.queue.enter(ctx); err != nil {
		return fmt.Errorf("wait for the TPM: %w", err)
	}
	defer t.leave()
	if t.closed.Load() {
		return ErrClosed
	}
	err := t.attempt(ctx, op)
	if isStale(err) || repeatable && errors.Is(err, errLost) {
		if ctx.Err() == nil {
			err = t.attempt(ctx, op)
		}
	}
	return err
}

// attempt runs an operation once.
func (t *TPM) attempt(ctx context.Context, op func(context.Context, *connection) error) error {
	c, err := t.connect(ctx)
	if err != nil {
		return err
	}
	if p := t.pinned.Load(); p != c.pinned {
		c.forgetSRK()
		c.pinned = p
	}
	err = op(ctx, c)
	switch {
	case c.broken:
		t.drop()
	case isStale(err):
		t.log.Warn("the TPM was reset", "tpm", t.String())
		c.forgetSRK()
	case errors.Is(err, ErrIntegrity), errors.Is(err, ErrMalformed):
		clear(t.names)
		t.letGo()
	}
	return err
}

// connect gives the open connection, or opens one.
func (t *TPM) connect(ctx context.Context) (*connection, error) {
	if pid := os.Getpid(); pid != t.pid {
		// After a fork the connection and what is loaded through it are the parent's.
		if t.conn != nil {
			t.conn.conn.Close()
		}
		t.conn, t.orphans, t.pid = nil, nil, pid
	}
	if t.conn != nil {
		return t.conn, nil
	}
	for {
		c, err := open(ctx, t)
		if err != nil {
			return nil, err
		}
		t.reclaim(ctx, c)
		if !c.broken {
			t.conn = c
			return c, nil
		}
		c.conn.Close()
	}
}

// drop closes the connection, and remembers what it leaves loaded in the TPM.
func (t *TPM) drop() {
	if !t.managed() {
		for h := range t.conn.live {
			t.orphans = append(t.orphans, orphan{handle: h})
		}
	}
	t.conn.conn.Close()
	t.conn = nil
}

// orphan is a handle that a broken connection left loaded.
type orphan struct {
	handle Handle
	tries  int
}

// reclaim flushes what broken connections left loaded. Nothing is tried a third time: what is behind an address need not
// know the handle any more, and may take it amiss.
func (t *TPM) reclaim(ctx context.Context, c *connection) {
	orphans := t.orphans
	t.orphans = nil
	for _, o := range orphans {
		if !c.broken {
			o.tries++
			c.live[o.handle] = struct{}{}
			c.flush(ctx, o.handle)
			if _, left := c.live[o.handle]; !left {
				continue
			}
			delete(c.live, o.handle)
		}
		if o.tries < 2 {
			t.orphans = append(t.orphans, o)
		}
	}
}

// managed tells the kernel's resource manager, which flushes what a closed connection left. The handle may be another
// process's then.
func (t *TPM) managed() bool { return strings.Contains(t.String(), "/tpmrm") }

// leave ends a turn and starts the clock of idleness.
func (t *TPM) leave() {
	switch {
	case t.closed.Load() || t.conn == nil && len(t.orphans) == 0: // Close does it, or there is nothing to do
	case t.idle == nil:
		t.idle = time.AfterFunc(idleTime, t.Release)
	default:
		t.idle.Reset(idleTime)
	}
	t.queue.leave()
}

// letGo flushes what is kept in the TPM and closes the connection.
func (t *TPM) letGo() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if t.conn == nil && len(t.orphans) > 0 && t.pid == os.Getpid() {
		if _, err := t.connect(ctx); err != nil {
			t.log.Warn("objects stay loaded in the TPM", "tpm", t.String(), "count", len(t.orphans), "error", err)
			return
		}
	}
	if t.conn == nil {
		return
	}
	if t.pid == os.Getpid() {
		for h := range t.conn.live {
			t.conn.flush(ctx, h)
		}
	} else {
		clear(t.conn.live)
	}
	t.drop()
}
