package serve

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tpm2-p11/tpm2-p11/internal/wire"
	"github.com/tpm2-p11/tpm2-p11/p11"
)

const (
	// patience is how long a client may take over the rest of a frame that it began, and over taking a response.
	patience = 30 * time.Second
	// stopPatience is how long calls in work may take to end when the server stops.
	stopPatience = 10 * time.Second
	// rvGeneralError is what a frame of another version is answered with (CKR_GENERAL_ERROR).
	rvGeneralError = 5
)

// application answers the calls of one client: a *p11.Module.
type application interface {
	Dispatch(request []byte) (response []byte)
	Finalize() error
}

// terms are what a client gets.
type terms struct {
	calls   int      // in work at once; the next is read when one of them ends
	message int      // bytes of one request
	pace    *pace    // nil for none
	metrics *Metrics // nil for none
}

// defaultTerms are those of a host's children, which have its rights.
var defaultTerms = terms{calls: 64, message: wire.MaxMessage}

// client is one connection.
type client struct {
	terms
	conn net.Conn
	app  application
	log  *slog.Logger

	ended   context.Context // by stop, or when the client does not take what it is sent
	end     context.CancelCauseFunc
	working sync.WaitGroup
	places  chan struct{} // one for each call in work
	taken   atomic.Int64  // calls that are not answered
	life    *time.Timer   // until the next sign of life; not stopped when no call is left, as the next one may come at that moment
	writing sync.Mutex    // held for a whole frame, and guards told
	told    bool          // that the client speaks another version
}

func newClient(conn net.Conn, app application, t terms, log *slog.Logger) *client {
	c := &client{terms: t, conn: conn, app: app, log: log, places: make(chan struct{}, t.calls)}
	c.life = time.AfterFunc(wire.LifeEvery, c.showLife)
	c.ended, c.end = context.WithCancelCause(context.Background())
	return c
}

// errStopped ends a client whose calls in work may end.
var errStopped = errors.New("stopped")

// stop takes no more calls.
func (c *client) stop() {
	c.end(errStopped)
	_ = c.conn.SetReadDeadline(time.Now())
}

// serve answers the client until it leaves, breaks the protocol or is stopped, and then ends what it had begun.
func (c *client) serve() {
	defer c.life.Stop()
	defer c.stop()
	err := c.read()
	if errors.Is(context.Cause(c.ended), errStopped) {
		c.awaitCalls(stopPatience)
	} else if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		c.log.Warn("a client was left", "reason", err.Error())
		c.metrics.refused("protocol")
	}
	// Before the wait: it ends the calls that wait for the TPM.
	_ = c.app.Finalize()
	c.working.Wait()
	_ = c.app.Finalize() // of a C_Initialize that was in work
	c.conn.Close()
}

// awaitCalls waits for the calls in work, for a time.
func (c *client) awaitCalls(limit time.Duration) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.working.Wait()
	}()
	select {
	case <-done:
	case <-time.After(limit):
	}
}

// read takes calls until the connection ends or is stopped.
func (c *client) read() error {
	// What sets a deadline must not undo the one that stop sets.
	patient := func(deadline time.Time) {
		_ = c.conn.SetReadDeadline(deadline)
		if c.ended.Err() != nil {
			_ = c.conn.SetReadDeadline(time.Now())
		}
	}
	for c.ended.Err() == nil {
		frame, err := wire.ReadFrame(c.conn, c.message, func() { patient(time.Now().Add(patience)) })
		if err != nil {
			return err
		}
		patient(time.Time{})
		if c.taken.Add(1) == 1 {
			c.life.Reset(wire.LifeEvery)
		}
		// The next one is read when this one has its place and its turn.
		if !c.place() || !c.pace.wait(c.ended) {
			clear(frame.Message)
			break
		}
		c.working.Go(func() {
			defer func() { <-c.places }()
			c.answer(frame)
		})
	}
	return context.Cause(c.ended)
}

// place waits for one of the places of calls in work; false when the client ended, whose calls may hold all of them until then.
func (c *client) place() bool {
	select {
	case c.places <- struct{}{}:
		return true
	case <-c.ended.Done():
		return false
	}
}

// answer does one call. A response that the client does not take ends the connection.
func (c *client) answer(request wire.Frame) {
	var message []byte
	if wire.Spoken(request.Version) {
		function, began := p11.FunctionName(request.Message), time.Now()
		message = c.app.Dispatch(request.Message)
		c.metrics.called(function, p11.ResponseRV(message), time.Since(began))
	} else {
		clear(request.Message)
		message = binary.LittleEndian.AppendUint64(nil, rvGeneralError)
		c.refuseVersion(request.Version)
	}
	defer clear(message)
	c.taken.Add(-1)
	c.write(wire.Frame{Version: wire.Version, ID: request.ID, Message: message})
}

// showLife tells a client that its calls are being worked on, and goes on as long as they are.
func (c *client) showLife() {
	if c.taken.Load() > 0 && c.write(wire.Frame{Version: wire.Version, ID: wire.SignOfLife}) {
		c.life.Reset(wire.LifeEvery)
	}
}

// write sends a frame. A client that does not take it is left.
func (c *client) write(f wire.Frame) bool {
	c.writing.Lock()
	defer c.writing.Unlock()
	_ = c.conn.SetWriteDeadline(time.Now().Add(patience))
	if err := wire.WriteFrame(c.conn, f); err != nil {
		c.end(net.ErrClosed)
		c.conn.Close()
		return false
	}
	return true
}

func (c *client) refuseVersion(version uint32) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if !c.told {
		c.metrics.refused("version")
		c.log.Warn("a client speaks another version of the protocol: restart the program, which has loaded another release of the module",
			"version", version, "spoken", wire.Version)
	}
	c.told = true
}
