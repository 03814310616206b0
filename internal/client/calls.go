package client

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/internal/wire"
)

// Slot is a token of the server's.
type Slot struct {
	ID                                 uint64
	Label, Manufacturer, Model, Serial string
	Initialized, LoginRequired         bool
}

// Flags of CK_TOKEN_INFO (PKCS #11 v3.1, section 3.2).
const (
	flagLoginRequired    = 0x4
	flagTokenInitialized = 0x400
)

// Slots are the server's tokens, in its order.
func (c *Client) Slots(ctx context.Context) (slots []Slot, err error) {
	err = c.do(ctx, func(n *conn) error {
		slots = nil
		var ids []uint64
		err := n.call(ctx, callGetSlotList, func(w *wire.Writer) { w.Bool(true) }, func(rv RV, r *wire.Reader) {
			if rv == rvOK {
				ids = numbers(r)
			}
		})
		for i := 0; err == nil && i < len(ids); i++ {
			s := Slot{ID: ids[i]}
			err = n.call(ctx, callGetTokenInfo, func(w *wire.Writer) { w.Uint64(s.ID) }, s.read)
			slots = append(slots, s)
		}
		return err
	})
	return slots, err
}

// read takes CK_TOKEN_INFO.
func (s *Slot) read(rv RV, r *wire.Reader) {
	if rv != rvOK {
		return
	}
	text := func(size int) string { return strings.TrimRight(string(r.Fixed(size)), " ") }
	s.Label, s.Manufacturer, s.Model, s.Serial = text(32), text(32), text(16), text(16)
	flags := r.Uint64()
	s.Initialized, s.LoginRequired = flags&flagTokenInitialized != 0, flags&flagLoginRequired != 0
	r.Fixed(10*8 + 2 + 2 + 16) // limits, versions and time
}

// Attributes are an object's, by their type. One that it does not have, or does not tell, is missing.
type Attributes map[uint64][]byte

// Object is an object of a token.
type Object struct {
	Handle     uint64 // the same for every client and after a restart
	Attributes Attributes
}

// Objects are the objects of a token that match a template, with some of their attributes.
func (c *Client) Objects(ctx context.Context, slot uint64, template Attributes, wanted ...uint64) (objects []Object, err error) {
	err = c.inSession(ctx, slot, func(n *conn, session uint64) error {
		objects = nil
		handles, err := n.find(ctx, session, template)
		if err != nil {
			return err
		}
		for _, h := range handles {
			o := Object{Handle: h}
			if o.Attributes, err = n.attributes(ctx, session, h, wanted); errors.Is(err, RVObjectHandleInvalid) {
				continue // it was deleted since
			} else if err != nil {
				return err
			}
			objects = append(objects, o)
		}
		return nil
	})
	return objects, err
}

// found is how many handles one C_FindObjects asks for.
const found = 1024

func (n *conn) find(ctx context.Context, session uint64, template Attributes) (handles []uint64, err error) {
	err = n.call(ctx, callFindObjectsInit, func(w *wire.Writer) {
		w.Uint64(session)
		w.Uint64(uint64(len(template)))
		for kind, value := range template {
			w.Uint64(kind)
			w.Bytes(value)
		}
	}, nil)
	for more := err == nil; more; {
		var some []uint64
		err = n.call(ctx, callFindObjects, func(w *wire.Writer) { w.Uint64(session); w.Uint64(found) }, func(rv RV, r *wire.Reader) {
			if rv == rvOK {
				some = numbers(r)
			}
		})
		handles = append(handles, some...)
		more = err == nil && len(some) == found
	}
	if err != nil {
		return nil, err
	}
	return handles, n.call(ctx, callFindObjectsFinal, func(w *wire.Writer) { w.Uint64(session) }, nil)
}

// attributeRoom is the most bytes of one attribute.
const attributeRoom = 64 << 10

func (n *conn) attributes(ctx context.Context, session, object uint64, wanted []uint64) (Attributes, error) {
	have := Attributes{}
	err := n.call(ctx, callGetAttributeValue, func(w *wire.Writer) {
		w.Uint64(session)
		w.Uint64(object)
		w.Uint64(uint64(len(wanted)))
		for _, kind := range wanted {
			w.Uint64(kind)
			w.Bool(false)
			w.Uint64(attributeRoom)
		}
	}, func(rv RV, r *wire.Reader) {
		if rv != rvOK && rv != rvAttributeTypeInvalid && rv != rvAttributeSensitive {
			return
		}
		if r.Count(17) != len(wanted) {
			r.Fail()
		}
		for _, kind := range wanted {
			unavailable, _, value := r.Bool(), r.Uint64(), r.Bytes()
			if !unavailable && r.Err() == nil {
				have[kind] = append([]byte{}, value...)
			}
		}
	})
	if errors.Is(err, rvAttributeTypeInvalid) || errors.Is(err, rvAttributeSensitive) {
		err = nil
	}
	return have, err
}

func numbers(r *wire.Reader) []uint64 {
	list := make([]uint64, r.Count(8))
	for i := range list {
		list[i] = r.Uint64()
	}
	return list
}

// logIn is C_Login of a token's user. A session stays open afterwards: the last one that is closed logs out.
func (n *conn) logIn(ctx context.Context, l *login) error {
	session, err := n.open(ctx, l.slot)
	if err != nil {
		return err
	}
	err = n.givePIN(ctx, session, user, l.pin)
	if errors.Is(err, RVUserAlreadyLoggedIn) {
		return nil
	}
	return err
}

func (n *conn) givePIN(ctx context.Context, session, who uint64, pin *secret.Bytes) error {
	return n.call(ctx, callLogin, func(w *wire.Writer) {
		w.Uint64(session)
		w.Uint64(who)
		w.Bytes(pin.Bytes())
	}, nil)
}

func (n *conn) open(ctx context.Context, slot uint64) (session uint64, err error) {
	err = n.call(ctx, callOpenSession, func(w *wire.Writer) { w.Uint64(slot); w.Uint64(serialSession) }, func(rv RV, r *wire.Reader) {
		if rv == rvOK {
			session = r.Uint64()
		}
	})
	if err != nil {
		return 0, fmt.Errorf("C_OpenSession: %w", err)
	}
	return session, nil
}
