package keystore

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/provider"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

const evictControl = 0x120 // TPM_CC_EvictControl

// dyingTPM is a TPM whose connection breaks at the first EvictControl, for good.
type dyingTPM struct {
	transport.Dialer
	afterwards bool // the command is carried out, and only its response lost
	dead       atomic.Bool
}

var errDead = errors.New("the connection is lost")

func (d *dyingTPM) Dial(ctx context.Context) (transport.Conn, error) {
	if d.dead.Load() {
		return nil, errDead
	}
	conn, err := d.Dialer.Dial(ctx)
	return &dyingConn{conn, d}, err
}

type dyingConn struct {
	transport.Conn
	tpm *dyingTPM
}

func (c *dyingConn) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	if c.tpm.dead.Load() {
		return nil, errDead
	}
	if binary.BigEndian.Uint32(command[6:]) != evictControl {
		return c.Conn.Transmit(ctx, command)
	}
	c.tpm.dead.Store(true)
	if c.tpm.afterwards {
		if _, err := c.Conn.Transmit(ctx, command); err != nil {
			return nil, err
		}
	}
	return nil, errDead
}

func TestAKeyWhoseTPMDiesOnTheWayToItsHandleIsFinishedLater(t *testing.T) {
	t.Parallel()
	for name, afterwards := range map[string]bool{"before EvictControl": false, "after EvictControl": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := tpmStore(t)
			_ = s.initialized(t, "", "").TPM().Close()
			dialer, err := transport.Parse(s.address)
			must(t, err)
			tpm := provider.New(&dyingTPM{Dialer: dialer, afterwards: afterwards})
			token, err := Open(Options{Dir: s.dir, TPM: tpm})
			must(t, err)
			if _, err := token.CreateKey(ctx, signing("web")); !errors.Is(err, ErrUnfinished) {
				t.Errorf("the error is %v", err)
			}
			_ = tpm.Close()

			// Another power cycle, another process: what the connection left in the TPM is gone.
			s.swtpm.Restart(t)
			token = s.open(t)
			e, err := token.Find(Query{Label: "web"})
			must(t, err)
			if e.State != Pending {
				t.Errorf("it is %s", e.State)
			}
			must(t, token.Recover(ctx))
			e, err = token.Find(Query{Label: "web"})
			must(t, err)
			if e.State != Ready || e.Object.Handle != FirstHandle {
				t.Errorf("%+v", e)
			}
			wantHandles(t, token, FirstHandle)
			signs(t, token, e, nil)
		})
	}
}

func TestAKeyThatHasNoRoomInTheTPMLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	token := tpmStore(t).initialized(t, "", "")
	spec := signing("filler")
	spec.Wrapped = true
	e := create(t, token, spec)
	var err error
	for h := FirstHandle; err == nil; h++ {
		err = token.TPM().Persist(ctx, e.Object, h)
	}
	if !errors.Is(err, provider.ErrNoSpace) {
		t.Fatal(err)
	}
	full := handles(t, token)
	if _, err := token.CreateKey(ctx, signing("web")); !errors.Is(err, provider.ErrNoSpace) {
		t.Errorf("the error is %v", err)
	}
	if _, err := token.Persist(ctx, e, 0x81000300); !errors.Is(err, provider.ErrNoSpace) {
		t.Errorf("the error is %v", err)
	}
	wantHandles(t, token, full...)
	if got := labels(t, token); !slices.Equal(got, []string{"filler"}) {
		t.Errorf("keys: %v", got)
	}
	e, err = token.Find(Query{Label: "filler"})
	must(t, err)
	if e.State != Ready || e.Object.Handle != 0 {
		t.Errorf("%+v", e)
	}
}
