package serve

import (
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tpm2-p11/tpm2-p11/internal/wire"
)

const (
	// maxCalls is how many calls of one client are in work at once; the next is read when one of them ends.
	maxCalls = 64
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

// client is one connection.
type client struct {
	conn net.Conn
	app  application
	log  *slog.Logger

	stopping atomic.Bool
	calls    sync.WaitGroup
	places   chan struct{} // one for each call in work
	writing  sync.Mutex    // held for a whole frame, and guards told
	told     bool          // that the client speaks another version
}

func newClient(conn net.Conn, app application, log *slog.Logger) *client {
	return &client{conn: conn, app: app, log: log, places: make(chan struct{}, maxCalls)}
}

// serve answers the client until it leaves, breaks the protocol or is stopped, and then ends what it had begun.
func (c *client) serve() {
	err := c.read()
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && !c.stopping.Load() {
		c.log.Warn("a client was left", "reason", err.Error())
	}
	if c.stopping.Load() {
		c.awaitCalls(stopPatience)
	}
	// Before the wait: it ends the calls that wait for the TPM.
	_ = c.app.Finalize()
	c.calls.Wait()
	_ = c.app.Finalize() // of a C_Initialize that was in work
	c.conn.Close()
}

// stop takes no more calls.
func (c *client) stop() {
	c.stopping.Store(true)
	_ = c.conn.SetReadDeadline(time.Now())
}

// awaitCalls waits for the calls in work, for a time.
func (c *client) awaitCalls(limit time.Duration) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.calls.Wait()
	}()
	select {
	case <-done:
	case <-time.After(limit):
	}
}

// read takes calls until the connection ends.
func (c *client) read() error {
	for !c.stopping.Load() {
		c.places <- struct{}{}
		frame, err := wire.ReadFrame(c.conn, func() { _ = c.conn.SetReadDeadline(time.Now().Add(patience)) })
		if err != nil {
			return err
		}
		if err := c.conn.SetReadDeadline(time.Time{}); err != nil {
			return err
		}
		c.calls.Go(func() {
			defer func() { <-c.places }()
			c.answer(frame)
		})
	}
	return os.ErrDeadlineExceeded
}

// answer does one call. A response that the client does not take ends the connection.
func (c *client) answer(request wire.Frame) {
	var message []byte
	if wire.Spoken(request.Version) {
		message = c.app.Dispatch(request.Message)
	} else {
		clear(request.Message)
		message = binary.LittleEndian.AppendUint64(nil, rvGeneralError)
		c.refuseVersion(request.Version)
	}
	defer clear(message)
	c.writing.Lock()
	defer c.writing.Unlock()
	_ = c.conn.SetWriteDeadline(time.Now().Add(patience))
	if err := wire.WriteFrame(c.conn, wire.Frame{Version: wire.Version, ID: request.ID, Message: message}); err != nil {
		c.conn.Close()
	}
}

func (c *client) refuseVersion(version uint32) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if !c.told {
		c.log.Warn("a client speaks another version of the protocol: restart the program, which has loaded another release of the module",
			"version", version, "spoken", wire.Version)
	}
	c.told = true
}
