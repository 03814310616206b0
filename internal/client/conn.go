package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/tpm2-p11/tpm2-p11/internal/wire"
)

// writePatience is how long a server may take over reading a request.
const writePatience = 10 * time.Second

// conn is one connection. Calls of several goroutines pass each other on it.
type conn struct {
	net  net.Conn
	ends sync.WaitGroup // of what runs besides its callers

	writing sync.Mutex // held for a whole frame

	mu       sync.Mutex // guards what follows
	waiting  map[uint64]chan []byte
	lastID   uint64
	sessions map[uint64][]uint64 // of each slot, that are open and that nobody uses
	err      error               // why it ended
}

func newConn(n net.Conn) *conn {
	c := &conn{net: n, waiting: make(map[uint64]chan []byte), sessions: make(map[uint64][]uint64)}
	c.ends.Go(c.read)
	return c
}

// read gives responses to whom they belong, until the connection ends.
func (c *conn) read() {
	for {
		frame, err := wire.ReadFrame(c.net, wire.MaxMessage, nil)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			c.end(fmt.Errorf("%w: it has been silent for %v: it hangs, or was stopped", ErrUnreachable, wire.Silence))
			return
		case err != nil:
			c.end(fmt.Errorf("%w: %w", errLost, err))
			return
		case !wire.Spoken(frame.Version):
			c.end(fmt.Errorf("%w: it speaks version %d of the protocol, and %d is spoken here: update the older of the two", ErrUnreachable, frame.Version, wire.Version))
			return
		}
		c.mu.Lock()
		answer, asked := c.waiting[frame.ID]
		delete(c.waiting, frame.ID)
		known := frame.ID <= c.lastID // its asker has gone; or it is a sign of life
		c.listen()
		c.mu.Unlock()
		switch {
		case asked:
			answer <- frame.Message
		case !known:
			c.end(fmt.Errorf("%w: an answer to nothing", errLost))
			return
		default:
			clear(frame.Message)
		}
	}
}

// listen gives the server Silence for its next frame, if anybody waits for one; mu is held.
func (c *conn) listen() {
	var deadline time.Time
	if len(c.waiting) > 0 {
		deadline = time.Now().Add(wire.Silence)
	}
	_ = c.net.SetReadDeadline(deadline) // fails when the connection has ended, which is noticed
}

// end ends the connection for everybody.
func (c *conn) end(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = why
	c.net.Close()
	for id, answer := range c.waiting {
		close(answer)
		delete(c.waiting, id)
	}
}

// close ends the connection and waits for what runs besides its callers.
func (c *conn) close() {
	c.end(ErrClosed)
	c.ends.Wait()
}

func (c *conn) ended() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// exchange sends a request, which it wipes, and gives the response.
func (c *conn) exchange(ctx context.Context, request []byte) ([]byte, error) {
	defer clear(request)
	answer := make(chan []byte, 1)
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return nil, c.err
	}
	c.lastID++
	id := c.lastID
	c.waiting[id] = answer
	if len(c.waiting) == 1 {
		c.listen()
	}
	c.mu.Unlock()

	if err := c.write(wire.Frame{Version: wire.Version, ID: id, Message: request}); err != nil {
		c.end(fmt.Errorf("%w: %w", errLost, err))
	}
	select {
	case response, ok := <-answer:
		if !ok {
			return nil, c.ended()
		}
		return response, nil
	case <-ctx.Done():
		c.mu.Lock()
		delete(c.waiting, id)
		if len(c.waiting) == 0 {
			c.listen()
		}
		c.mu.Unlock()
		return nil, ctx.Err()
	}
}

func (c *conn) write(f wire.Frame) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.net.SetWriteDeadline(time.Now().Add(writePatience)); err != nil {
		return err
	}
	return wire.WriteFrame(c.net, f)
}

// call does one call: put writes the arguments, get reads the outputs. An RV is what it was answered with.
func (c *conn) call(ctx context.Context, number uint32, put func(*wire.Writer), get func(RV, *wire.Reader)) error {
	var w wire.Writer
	w.Uint32(number)
	put(&w)
	request, err := w.Message()
	if err != nil {
		return err
	}
	response, err := c.exchange(ctx, request)
	if err != nil {
		return err
	}
	defer clear(response)
	r := wire.NewReader(response)
	rv := RV(r.Uint64())
	if get != nil && r.Err() == nil {
		get(rv, r)
	}
	if r.Err() != nil || rv == rvOK && r.End() != nil {
		c.end(fmt.Errorf("%w: %w", errLost, wire.ErrMalformed))
		return c.ended()
	}
	if rv != rvOK {
		return rv
	}
	return nil
}
