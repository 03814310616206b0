package provider

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

// idleTime is how long a connection is kept that nothing uses.
const idleTime = time.Second

const (
	closeTimeout = 2 * time.Second // bounds what is done to a TPM that nobody waits for any more
	// reclaimTimeout bounds the wait for a TPM to flush in it what a broken connection left: it may still be busy with the very
	// command that was cut off, such as one that looks for RSA primes.
	reclaimTimeout = 10 * time.Second
)

// link is the way to a TPM, which all who share it take one after another.
type link struct {
	dialer  transport.Dialer
	log     *slog.Logger
	verify  Verify
	observe func(command string, code uint32, took time.Duration) // nil unless WithObserver gave one
	direct  transport.Dialer                                      // nil unless WithDirect gave one

	ownerAuth, endorsementAuth *secret.Bytes

	closed   atomic.Bool
	hidesNSM atomic.Bool // the resource manager was seen to refuse NitroTPM's command
	polite   atomic.Bool // TakeTurns was called
	suspect  atomic.Bool // a signature did not verify: what is loaded, and the Names that were read, are not believed any more
	queue    queue
	idle     *time.Timer // lets go of the connection

	// What follows belongs to whoever has the queue's turn.
	conn    *connection
	since   time.Time // when conn was opened
	orphans []orphan  // left loaded when a connection broke
	pid     int       // of the process that made conn and orphans
	tickets tickets
	evicted map[Handle]bool // at which nothing was found where an object should be, and the log says so
}

// given is the auth value of a hierarchy that policies and primary keys take, nil for none.
func (l *link) given(hierarchy Handle) *secret.Bytes {
	switch hierarchy {
	case tpm2.TPMRHOwner:
		return l.ownerAuth
	case tpm2.TPMRHEndorsement:
		return l.endorsementAuth
	}
	return nil
}

// String is the TPM's address.
func (l *link) String() string { return l.dialer.String() }

// connect gives the open connection, or opens one.
func (l *link) connect(ctx context.Context) (*connection, error) {
	if pid := os.Getpid(); pid != l.pid {
		// After a fork the connection and what is loaded through it are the parent's.
		if l.conn != nil {
			l.conn.close()
		}
		l.conn, l.orphans, l.pid = nil, nil, pid
	}
	if l.conn != nil {
		return l.conn, nil
	}
	for {
		c, err := open(ctx, l)
		if err != nil {
			return nil, err
		}
		err = l.reclaim(ctx, c)
		if !c.broken {
			l.conn, l.since = c, time.Now()
			return c, nil
		}
		c.conn.Close()
		if errors.Is(err, ErrBusy) {
			return nil, err
		}
	}
}

// drop closes the connection, and remembers what it leaves loaded in the TPM.
func (l *link) drop() {
	// A resource manager flushes what a closed connection left, and the handle may be another process's then.
	if !l.dialer.Managed() {
		for h := range l.conn.live {
			l.orphans = append(l.orphans, orphan{handle: h})
		}
	}
	l.conn.close()
	l.conn = nil
}

// orphan is a handle that a broken connection left loaded.
type orphan struct {
	handle Handle
	tries  int
}

// reclaim flushes what broken connections left loaded. Nothing is tried a third time: what is behind an address need not
// know the handle any more, and may take it amiss. A TPM that is busy, of which the error tells, was not tried.
func (l *link) reclaim(ctx context.Context, c *connection) (err error) {
	ctx, cancel := context.WithTimeout(ctx, reclaimTimeout)
	defer cancel()
	orphans := l.orphans
	l.orphans = nil
	for _, o := range orphans {
		if !c.broken {
			if err = c.unload(ctx, o.handle); err == nil {
				continue
			}
			if !errors.Is(err, ErrBusy) && !errors.Is(err, context.Canceled) {
				o.tries++
			}
		}
		if o.tries < 2 {
			l.orphans = append(l.orphans, o)
		}
	}
	return err
}

// leave ends a turn. Where the next operation can be prepared and none waits yet, the turn goes on without its caller.
func (l *link) leave() {
	if l.conn == nil || !l.conn.stepsDue() {
		l.depart()
		return
	}
	go func() {
		defer l.depart()
		l.conn.getAhead(context.Background())
		if l.conn.broken {
			l.drop()
		}
	}()
}

// takesTurns tells whether another process waits for the TPM whenever this one has it.
func (l *link) takesTurns() bool { return l.polite.Load() && !l.dialer.Managed() }

// depart hands the turn on, and starts the clock of idleness then: whoever is next does not wait for that.
func (l *link) depart() {
	if l.takesTurns() && l.conn != nil && time.Since(l.since) > turnTime {
		l.letGo(closeTimeout)
	}
	toLetGo := l.conn != nil || len(l.orphans) > 0
	l.queue.leave(l.sendNext)
	if toLetGo && !l.closed.Load() { // Close does it then
		l.idle.Reset(l.idleFor())
	}
}

// idleFor is how long the connection is kept that nothing uses.
func (l *link) idleFor() time.Duration {
	if l.takesTurns() {
		return politeIdleTime
	}
	return idleTime
}

// Close waits for the operations that came before it, flushes what is kept in the TPM and closes the
// connection. Operations that begin later fail with ErrClosed. It may be called more than once.
func (l *link) Close() error {
	l.closed.Store(true)
	if err := l.queue.enter(context.Background(), nil); err != nil {
		return err
	}
	defer l.queue.leave(nil)
	l.idle.Stop()
	if len(l.orphans) > 0 {
		l.letGo(reclaimTimeout) // nobody will come back for them
	} else {
		l.letGo(closeTimeout)
	}
	return nil
}

// Release lets go of the connection now if nothing uses it; the next operation opens it again.
func (l *link) Release() {
	switch {
	case l.closed.Load():
		return
	case !l.queue.tryEnter():
		l.idle.Reset(l.idleFor()) // whoever has the turn may only pass it on, and would not come back to this
		return
	}
	defer l.queue.leave(nil)
	l.letGo(closeTimeout)
}

// letGo flushes what is kept in the TPM and closes the connection.
func (l *link) letGo(timeout time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if l.conn == nil && len(l.orphans) > 0 && l.pid == os.Getpid() {
		if _, err := l.connect(ctx); err != nil {
			l.log.Warn("objects stay loaded in the TPM", "tpm", l.String(), "count", len(l.orphans), "error", err)
			return
		}
	}
	if l.conn == nil {
		return
	}
	if l.pid == os.Getpid() {
		for h := range l.conn.live {
			l.conn.flush(ctx, h)
		}
		_ = l.conn.settle(ctx) // a device would stay open while it works
	} else {
		clear(l.conn.live)
	}
	l.drop()
}
