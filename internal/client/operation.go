package client

import (
	"context"
	"errors"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/internal/wire"
)

// Operation is something that a private key does with one input.
type Operation struct {
	Decrypt   bool   // rather than sign
	Mechanism uint64 // CKM_
	Parameter []byte // as package p11 reads it: its fields in order
	Input     []byte
}

// outputRoom is the most bytes that an operation gives.
const outputRoom = 4096

// Use does an operation with a key. ownPIN is the PIN of a key that asks for one at each use, else nil. The session that an operation
// was in when ctx ended is closed.
func (c *Client) Use(ctx context.Context, slot, key uint64, o Operation, ownPIN *secret.Bytes) (out []byte, err error) {
	begin, end := uint32(callSignInit), uint32(callSign)
	if o.Decrypt {
		begin, end = callDecryptInit, callDecrypt
	}
	err = c.inSession(ctx, slot, func(n *conn, session uint64) error {
		err := n.call(ctx, begin, func(w *wire.Writer) {
			w.Uint64(session)
			w.Uint64(o.Mechanism)
			w.Bytes(o.Parameter)
			w.Uint64(key)
		}, nil)
		if err == nil && ownPIN != nil {
			err = n.givePIN(ctx, session, contextSpecific, ownPIN)
		}
		if err != nil {
			return err
		}
		err = n.call(ctx, end, func(w *wire.Writer) {
			w.Uint64(session)
			w.Bytes(o.Input)
			w.Bool(false)
			w.Uint64(outputRoom)
		}, func(rv RV, r *wire.Reader) {
			if rv == rvOK {
				length := r.Uint64()
				if out = append([]byte{}, r.Bytes()...); length != uint64(len(out)) {
					r.Fail()
				}
			}
		})
		if ownPIN != nil {
			err = once(err)
		}
		return err
	})
	return out, err
}

// inSession runs something in a session that nobody else uses meanwhile, as do does.
func (c *Client) inSession(ctx context.Context, slot uint64, run func(n *conn, session uint64) error) error {
	return c.do(ctx, func(n *conn) error {
		session, ok := n.free(slot)
		if !ok {
			var err error
			if session, err = n.open(ctx, slot); err != nil {
				return err
			}
		}
		err := run(n, session)
		var rv RV
		switch {
		case err == nil, errors.As(err, &rv) && rv != RVSessionHandleInvalid:
			n.mu.Lock()
			n.sessions[slot] = append(n.sessions[slot], session)
			n.mu.Unlock()
		case ctx.Err() != nil:
			n.abandon(session)
		}
		return err
	})
}

// free takes a session of a slot's that nobody uses.
func (n *conn) free(slot uint64) (session uint64, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	last := len(n.sessions[slot]) - 1
	if last < 0 {
		return 0, false
	}
	session = n.sessions[slot][last]
	n.sessions[slot] = n.sessions[slot][:last]
	return session, true
}

// abandon closes a session in which something may still be going on.
func (n *conn) abandon(session uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err != nil {
		return
	}
	n.ends.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), greeting)
		defer cancel()
		_ = n.call(ctx, callCloseSession, func(w *wire.Writer) { w.Uint64(session) }, nil)
	})
}
