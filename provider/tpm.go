package provider

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

// Handle is a TPM handle.
type Handle = tpm2.TPMHandle

// TPM is one TPM, connected when first used and let go after a second of idleness. Safe for concurrent use:
// operations queue, one at a time, in the order they came, or each user's so (ForUser). An operation holds the TPM for its
// whole sequence of commands.
type TPM struct {
	*link
	pinned atomic.Pointer[SRK]
}

// Option changes how a TPM is used.
type Option func(*TPM)

// WithLogger sets where events go; default: nowhere.
func WithLogger(l *slog.Logger) Option { return func(t *TPM) { t.log = l } }

// WithOwnerAuth gives the owner hierarchy's auth value (empty by default). The TPM reads it as long as it lives.
func WithOwnerAuth(auth *secret.Bytes) Option { return func(t *TPM) { t.ownerAuth = auth } }

// WithEndorsementAuth gives the endorsement hierarchy's auth value (empty by default), as WithOwnerAuth does.
func WithEndorsementAuth(auth *secret.Bytes) Option {
	return func(t *TPM) { t.endorsementAuth = auth }
}

// WithObserver has each answer of the TPM told: the command by its name, the response code, and how long it took with all that was
// sent again for it; one that was sent ahead took as long as somebody waited for it. It is called by one goroutine at a time and must not block.
func WithObserver(observe func(command string, code uint32, took time.Duration)) Option {
	return func(t *TPM) { t.observe = observe }
}

// Verify says which signatures are verified in software before they are returned.
type Verify string

// The choices. Any other value is VerifyAll.
const (
	VerifyRSA  Verify = "rsa" // default: a faulty RSA signature can reveal the key, and verifying one is cheap; of each persistent ECDSA key one a second
	VerifyAll  Verify = "all"
	VerifyNone Verify = "none"
)

// WithVerify sets which signatures are verified.
func WithVerify(v Verify) Option { return func(t *TPM) { t.verify = v } }

// New uses the TPM behind a dialer. Nothing is opened yet.
func New(d transport.Dialer, opts ...Option) *TPM {
	t := &TPM{link: &link{dialer: d, log: slog.New(slog.DiscardHandler), verify: VerifyRSA}}
	t.idle = time.AfterFunc(idleTime, t.Release)
	t.idle.Stop() // there is nothing to let go of yet
	for _, o := range opts {
		o(t)
	}
	return t
}

// Share gives the same TPM to another user: queue and connection are the same, the pinned SRK is its own, and none at first.
// Closing one closes all.
func (t *TPM) Share() *TPM { return &TPM{link: t.link} }

// do runs an operation when its turn comes. It runs it once more, from its beginning, when the connection was
// lost or the TPM had been reset under us: operations converge when repeated.
func (t *TPM) do(ctx context.Context, op func(context.Context, *connection) error) error {
	return t.turn(ctx, nil, true, op)
}

// doOnce is do for an operation that must not be repeated when its outcome is unknown.
func (t *TPM) doOnce(ctx context.Context, op func(context.Context, *connection) error) error {
	return t.turn(ctx, nil, false, op)
}

func (t *TPM) turn(ctx context.Context, first func() *earlyCommand, repeatable bool, op func(context.Context, *connection) error) error {
	if t.closed.Load() {
		return ErrClosed
	}
	if err := t.queue.enter(ctx, first); err != nil {
		return fmt.Errorf("wait for the TPM: %w", err)
	}
	defer t.leave()
	if t.closed.Load() {
		return ErrClosed
	}
	err := t.attempt(ctx, op)
	again := isStale(err) || repeatable && errors.Is(err, errLost) && !errors.Is(err, errGuessed)
	if again && ctx.Err() == nil {
		err = t.attempt(ctx, op)
	}
	return err
}

// attempt runs an operation once.
func (t *TPM) attempt(ctx context.Context, op func(context.Context, *connection) error) error {
	if t.suspect.Swap(false) {
		t.letGo(closeTimeout)
	}
	c, err := t.connect(ctx)
	if err != nil {
		return err
	}
	if p := t.pinned.Load(); !p.equal(c.pinned) {
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
		c.makeRoom(ctx, 0)
		clear(c.names)
	case errors.Is(err, ErrIntegrity), errors.Is(err, ErrMalformed):
		t.letGo(closeTimeout)
	}
	return err
}
