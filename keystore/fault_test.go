package keystore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-tpm/tpm2"
	gotpm "github.com/google/go-tpm/tpm2/transport"

	"github.com/tpm2-p11/tpm2-p11/provider"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

const evictControl = 0x120 // TPM_CC_EvictControl

// dyingTPM is a TPM whose connection breaks for good at the first EvictControl, or at another command.
type dyingTPM struct {
	transport.Dialer
	at         func(command []byte) bool // nil: EvictControl
	afterwards bool                      // the command is carried out, and only its response lost
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
	due := binary.BigEndian.Uint32(command[6:]) == evictControl
	if c.tpm.at != nil {
		due = c.tpm.at(command)
	}
	if !due {
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

// watchedTPM calls look before each command.
type watchedTPM struct {
	transport.Dialer
	look func()
}

func (w *watchedTPM) Dial(ctx context.Context) (transport.Conn, error) {
	conn, err := w.Dialer.Dial(ctx)
	return watchedConn{conn, w}, err
}

type watchedConn struct {
	transport.Conn
	tpm *watchedTPM
}

func (c watchedConn) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	c.tpm.look()
	return c.Conn.Transmit(ctx, command)
}

// Whatever moment a crash picks, the store says that the key shall be persistent, and where.
func TestAKeyOnItsWayKnowsItsHandle(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	_ = s.initialized(t, "", "").TPM().Close()
	dialer, err := transport.Parse(s.address)
	must(t, err)
	seen := 0
	tpm := provider.New(&watchedTPM{dialer, func() {
		names, err := filepath.Glob(filepath.Join(s.dir, "*"+sidecarSuffix))
		must(t, err)
		for _, name := range names {
			if filepath.Base(name) == anchorFile {
				continue
			}
			side, err := parseSidecar(s.read(t, filepath.Base(name)))
			must(t, err)
			if seen++; side.State == Pending && side.Handle != handleText(FirstHandle) {
				t.Errorf("a pending key is to go to %v", side.Handle)
			}
		}
	}})
	defer tpm.Close()
	token, err := Open(Options{Dir: s.dir, TPM: tpm})
	must(t, err)
	create(t, token, signing("web"))
	if seen == 0 {
		t.Error("the key was never on its way")
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

// A key is planned for one token, and another process makes the token anew before it is stored.
func TestAKeyForATokenThatWasMadeAnewMeanwhileIsNotStored(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	first := s.initialized(t, "", "")
	serial := first.Serial()
	_ = first.TPM().Close()
	dialer, err := transport.Parse(s.address)
	must(t, err)
	tpm := provider.New(&watchedTPM{dialer, func() {
		anew := bytes.Replace(s.read(t, anchorFile), []byte(serial), []byte("0123456789abcdef"), 1)
		must(t, os.WriteFile(filepath.Join(s.dir, anchorFile), anew, 0o600))
	}})
	t.Cleanup(func() { _ = tpm.Close() })
	token, err := Open(Options{Dir: s.dir, TPM: tpm})
	must(t, err)
	for _, wrapped := range []bool{true, false} {
		must(t, os.WriteFile(filepath.Join(s.dir, anchorFile), bytes.Replace(s.read(t, anchorFile), []byte("0123456789abcdef"), []byte(serial), 1), 0o600))
		spec := signing("web")
		spec.Wrapped = wrapped
		if _, err := token.CreateKey(ctx, spec); !errors.Is(err, ErrInitialized) || !strings.Contains(err.Error(), "anew") {
			t.Errorf("the error is %v", err)
		}
		if got := labels(t, token); len(got) != 0 {
			t.Errorf("keys: %v", got)
		}
	}
	wantHandles(t, token)
}

// Somebody gave the owner hierarchy an authorisation that this program was not told.
func TestAKeyThatTheTPMDoesNotLetGoStaysAsItIs(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	token := s.initialized(t, "", "")
	e := create(t, token, signing("web"))
	s.swtpm.Use(t, func(tpm gotpm.TPM) error {
		_, err := tpm2.HierarchyChangeAuth{AuthHandle: tpm2.TPMRHOwner, NewAuth: tpm2.TPM2BAuth{Buffer: []byte("owner's word")}}.Execute(tpm)
		return err
	})
	for name, change := range map[string]func() error{
		"evict":  func() error { _, err := token.Evict(ctx, e); return err },
		"delete": func() error { return token.Delete(ctx, e, false) },
	} {
		if err := change(); !errors.Is(err, provider.ErrHierarchyAuth) || errors.Is(err, ErrUnfinished) {
			t.Errorf("%s: the error is %v", name, err)
		}
		now, err := token.Find(Query{Label: "web"})
		must(t, err)
		if now.State != Ready || now.Object.Handle != FirstHandle {
			t.Errorf("after a refused %s: %+v", name, now)
		}
		signs(t, token, now, nil)
		must(t, token.Recover(ctx)) // there is nothing to finish
	}

	// A deletion that was killed on the way can be given up likewise.
	side, err := parseSidecar(s.read(t, e.ID+sidecarSuffix))
	must(t, err)
	side.State = Deleting
	s.writeSidecar(t, e.ID, side)
	if err := token.Delete(ctx, e, false); !errors.Is(err, provider.ErrHierarchyAuth) {
		t.Errorf("the error is %v", err)
	}
	now, err := token.Find(Query{Label: "web"})
	must(t, err)
	signs(t, token, now, nil)
	wantHandles(t, token, FirstHandle)

	s.swtpm.Use(t, func(tpm gotpm.TPM) error {
		_, err := tpm2.HierarchyChangeAuth{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth([]byte("owner's word"))}}.Execute(tpm)
		return err
	})
	must(t, token.Delete(ctx, now, false))
	wantHandles(t, token)
}

func TestAKeyWhoseTPMDiesOnTheWayFromItsHandleIsFinishedLater(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Token, Entry) error{
		"evict":  func(token *Token, e Entry) error { _, err := token.Evict(ctx, e); return err },
		"delete": func(token *Token, e Entry) error { return token.Delete(ctx, e, false) },
	} {
		for _, afterwards := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := tpmStore(t)
				token := s.initialized(t, "", "")
				e := create(t, token, signing("web"))
				_ = token.TPM().Close()
				dialer, err := transport.Parse(s.address)
				must(t, err)
				tpm := provider.New(&dyingTPM{Dialer: dialer, afterwards: afterwards})
				token, err = Open(Options{Dir: s.dir, TPM: tpm})
				must(t, err)
				if err := change(token, e); !errors.Is(err, ErrUnfinished) || !errors.Is(err, provider.ErrUnavailable) {
					t.Errorf("the error is %v", err)
				}
				_ = tpm.Close()

				s.swtpm.Restart(t)
				token = s.open(t)
				must(t, token.Recover(ctx))
				wantHandles(t, token)
				if got := labels(t, token); len(got) != map[string]int{"evict": 1}[name] {
					t.Errorf("keys: %v", got)
				}
			})
		}
	}
}
