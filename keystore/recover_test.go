package keystore

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/provider"
)

// Each case is a state that a crash can leave, and what Recover makes of it.
func TestEveryInterruptedStateConverges(t *testing.T) {
	t.Parallel()
	const h = FirstHandle
	persist := func(t *testing.T, token *Token, e Entry) { must(t, token.TPM().Persist(ctx, e.Object, h)) }
	for _, c := range []struct {
		name    string
		state   State
		handle  provider.Handle
		lostPEM bool
		inTPM   bool // the key is at the handle
		other   bool // another object is
		want    string
	}{
		{"creation: before the PEM", Pending, 0, true, false, false, "gone"},
		{"creation: before a handle was chosen", Pending, 0, false, false, false, "wrapped"},
		{"creation: before EvictControl", Pending, h, false, false, false, "persistent"},
		{"creation: after EvictControl", Pending, h, false, true, false, "persistent"},
		{"creation: another tool took the handle", Pending, h, false, false, true, "wrapped"},
		{"creation: the PEM was lost after EvictControl", Pending, h, true, true, false, "linked"},
		{"creation: the PEM was lost before EvictControl", Pending, h, true, false, false, "gone"},
		{"creation: the PEM was lost and the handle taken", Pending, h, true, false, true, "gone"},
		{"eviction: before EvictControl", Evicting, h, false, true, false, "wrapped"},
		{"eviction: after EvictControl", Evicting, h, false, false, false, "wrapped"},
		{"eviction: another object came to the handle", Evicting, h, false, false, true, "wrapped"},
		{"deletion: before EvictControl", Deleting, h, false, true, false, "gone"},
		{"deletion: after EvictControl", Deleting, h, false, false, false, "gone"},
		{"deletion: the PEM is gone already", Deleting, h, true, false, false, "gone"},
		{"deletion: another object came to the handle", Deleting, h, false, false, true, "gone"},
		{"deletion of a wrapped key: before its PEM's", Deleting, 0, false, false, false, "gone"},
		{"deletion of a wrapped key: after its PEM's", Deleting, 0, true, false, false, "gone"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := tpmStore(t)
			token := s.initialized(t, "", "")
			spec := signing("web")
			spec.Wrapped = true
			e := create(t, token, spec)
			spec.Label = "bystander"
			bystander := create(t, token, spec)
			if c.inTPM {
				persist(t, token, e)
			}
			if c.other {
				persist(t, token, bystander)
			}
			side, err := parseSidecar(s.read(t, e.ID+sidecarSuffix))
			must(t, err)
			side.State, side.Handle = c.state, handleText(c.handle)
			s.writeSidecar(t, e.ID, side)
			if c.lostPEM {
				must(t, os.Remove(filepath.Join(s.dir, e.ID+pemSuffix)))
			}

			// Until then, it is used as a wrapped key or not at all.
			if half, err := token.Find(Query{Label: "web"}); err == nil {
				switch err := sign(token, half, nil); {
				case half.State != c.state:
					t.Errorf("before, it is %s", half.State)
				case c.state == Deleting && !errors.Is(err, ErrUnfinished):
					t.Errorf("a key that is being deleted signs: %v", err)
				case c.state != Deleting && err != nil:
					t.Errorf("before: %v", err)
				}
			} else if !c.lostPEM {
				t.Errorf("before: %v", err)
			}

			must(t, token.Recover(ctx))
			if problems, err := token.Problems(); err != nil || len(problems) != 0 {
				t.Errorf("problems: %v, %v", problems, err)
			}
			var at []provider.Handle
			found, err := token.Find(Query{Label: "web"})
			if c.want == "gone" {
				if !errors.Is(err, ErrNotFound) {
					t.Errorf("the key is still there: %v, %v", found, err)
				}
				if left, err := filepath.Glob(filepath.Join(s.dir, e.ID+"*")); err != nil || len(left) != 0 {
					t.Errorf("files left: %v, %v", left, err)
				}
			} else {
				must(t, err)
				if found.State != Ready || !bytes.Equal(found.Object.Public.Name(), e.Object.Public.Name()) ||
					found.Linked() != (c.want == "linked") {
					t.Errorf("%+v", found)
				}
				if c.want != "wrapped" {
					at = append(at, h)
				}
				if (found.Object.Handle == h) != (c.want != "wrapped") {
					t.Errorf("it is at %x", found.Object.Handle)
				}
				signs(t, token, found, nil)
			}
			if c.other {
				at = append(at, h)
			}
			wantHandles(t, token, at...)

			before := s.snapshot(t)
			must(t, token.Recover(ctx))
			if after := s.snapshot(t); after != before {
				t.Errorf("a second recovery wrote:\n%s\nafter\n%s", after, before)
			}
		})
	}
}

func TestAKeyThatCannotBeReadIsNotRemoved(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]provider.Handle{"without a handle": 0, "on its way to a handle": FirstHandle} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := tpmStore(t)
			token := s.initialized(t, "", "")
			spec := signing("web")
			spec.Wrapped = true
			e := create(t, token, spec)
			side, err := parseSidecar(s.read(t, e.ID+sidecarSuffix))
			must(t, err)
			side.State, side.Handle = Pending, handleText(h)
			s.writeSidecar(t, e.ID, side)
			whole := s.read(t, e.ID+pemSuffix)
			s.write(t, e.ID+pemSuffix, whole[:100])
			if err := token.Recover(ctx); !errors.Is(err, ErrCorrupt) {
				t.Errorf("the error is %v", err)
			}
			if left := s.read(t, e.ID+pemSuffix); len(left) != 100 {
				t.Errorf("the PEM is now %q", left)
			}
			s.write(t, e.ID+pemSuffix, whole)
			must(t, token.Recover(ctx))
			e, err = token.Find(Query{Label: "web"})
			must(t, err)
			signs(t, token, e, nil)
		})
	}
}

func TestAChangeFinishesWhatWasInterruptedBefore(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	token := s.initialized(t, "", "")
	spec := signing("web")
	spec.Wrapped = true
	e := create(t, token, spec)
	side, err := parseSidecar(s.read(t, e.ID+sidecarSuffix))
	must(t, err)
	side.State, side.Handle = Pending, handleText(FirstHandle)
	s.writeSidecar(t, e.ID, side)
	// The new key does not take the other one's handle.
	other := create(t, token, signing("mail"))
	if other.Object.Handle != FirstHandle+1 {
		t.Errorf("it is at %x", other.Object.Handle)
	}
	e, err = token.Find(Query{Label: "web"})
	must(t, err)
	if e.State != Ready || e.Object.Handle != FirstHandle {
		t.Errorf("%+v", e)
	}
}

func TestAHandleThatTheStoreClaimsIsNotGivenAway(t *testing.T) {
	t.Parallel()
	token := tpmStore(t).initialized(t, "", "")
	e := create(t, token, signing("web"))
	must(t, token.TPM().Evict(ctx, e.Object.Handle, e.Object.Public.Name()))
	if other := create(t, token, signing("mail")); other.Object.Handle != FirstHandle+1 {
		t.Errorf("it is at %x", other.Object.Handle)
	}
}

func TestATPMThatGoesAwayLeavesNoHalfKey(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	token := s.initialized(t, "", "")
	spec := signing("web")
	spec.Wrapped = true
	e := create(t, token, spec)
	_ = token.TPM().Close()
	if _, err := token.Persist(ctx, e, 0); !errors.Is(err, provider.ErrClosed) {
		t.Errorf("the error is %v", err)
	}
	if _, err := token.CreateKey(ctx, signing("mail")); !errors.Is(err, provider.ErrClosed) {
		t.Errorf("the error is %v", err)
	}
	token = s.open(t)
	must(t, token.Recover(ctx))
	wantHandles(t, token)
	e, err := token.Find(Query{})
	must(t, err)
	if e.Label != "web" || e.State != Ready || e.Object.Handle != 0 {
		t.Errorf("%+v", e)
	}
}

// A key that cannot be finished can be given up.
func TestAKeyThatCannotBeFinishedIsDeleted(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	token := s.initialized(t, "", "")
	for _, state := range []State{Pending, Evicting} {
		public := s.softKey(t, "0011", "web") // no TPM loads it
		side := sideOf(t, public, "web")
		side.State, side.Handle = state, handleText(FirstHandle)
		s.writeSidecar(t, "0011", side)
		e, err := token.Find(Query{Label: "web"})
		must(t, err)
		if err := token.Recover(ctx); (err == nil) != (state == Evicting) {
			t.Errorf("%s: recovering: %v", state, err)
		}
		if err := token.Delete(ctx, e, false); err != nil {
			t.Errorf("%s: %v", state, err)
		}
		if got := labels(t, token); len(got) != 0 {
			t.Errorf("%s: keys: %v", state, got)
		}
	}
}
