package keystore

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

// fleetKey is a private key that is known outside, and how often somebody asked for it.
type fleetKey struct {
	*ecdsa.PrivateKey
	asked int
}

func newFleetKey(t testing.TB) *fleetKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return &fleetKey{PrivateKey: key}
}

func (k *fleetKey) private(context.Context) (crypto.PrivateKey, error) {
	k.asked++
	return k.PrivateKey, nil
}

// wanted is the key as "web" at a handle, bound to PCR 7 as it is now.
func (k *fleetKey) wanted() Imported {
	return Imported{
		Spec:   KeySpec{Label: "web", Use: provider.Use{Sign: true}, Handle: 0x81000150, Policy: current(7)},
		Public: k.Public(),
	}
}

// brought fails the test unless EnsureImported has an outcome, and the key signs.
func (k *fleetKey) brought(t testing.TB, token *Token, i Imported, want Outcome) Entry {
	t.Helper()
	e, outcome, err := token.EnsureImported(ctx, i, k.private)
	must(t, err)
	if outcome != want {
		t.Errorf("%s, not %s", outcome, want)
	}
	signs(t, token, e, nil)
	return e
}

// refusedImport fails the test unless EnsureImported refuses, says so, and leaves store and TPM as they were.
func refusedImport(t testing.TB, s *store, token *Token, i Imported, private func(context.Context) (crypto.PrivateKey, error), want error, text string) {
	t.Helper()
	before, handles := s.snapshot(t), handlesOf(t, token)
	if _, outcome, err := token.EnsureImported(ctx, i, private); !errors.Is(err, want) || !strings.Contains(err.Error(), text) {
		t.Errorf("%s, %v; want %v and %q", outcome, err, want, text)
	}
	if after := s.snapshot(t); after != before {
		t.Errorf("the store was changed:\n%s\nbefore:\n%s", after, before)
	}
	if after := handlesOf(t, token); !slices.Equal(after, handles) {
		t.Errorf("handles %v, before %v", after, handles)
	}
}

func handlesOf(t testing.TB, token *Token) []provider.Handle {
	t.Helper()
	handles, err := token.TPM().PersistentHandles(ctx)
	must(t, err)
	return handles
}

func TestAnImportedKeyIsThereAfterEveryBoot(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	s.swtpm.Extend(t, "sha256", 7, []byte("boot"))
	token := s.initialized(t, "", "")
	k := newFleetKey(t)
	i := k.wanted()
	first := k.brought(t, token, i, Created)
	k.brought(t, token, i, Unchanged)

	// The store is lost, and the TPM keeps the key: nobody has to be asked for it again.
	s.empty(t)
	token = s.initialized(t, "", "")
	adopted := k.brought(t, token, i, Adopted)
	k.brought(t, token, i, Unchanged)
	if k.asked != 1 || adopted.Object.Handle != first.Object.Handle {
		t.Errorf("asked %d times, at %v", k.asked, adopted.Object.Handle)
	}
	// Without a handle it is found all the same, and its chain comes with it.
	s.empty(t)
	token = s.initialized(t, "", "")
	i.Spec.Handle, i.Chain = 0, []*x509.Certificate{selfSigned(t, first)}
	if e := k.brought(t, token, i, Adopted); len(e.Certificates) != 1 || k.asked != 1 {
		t.Errorf("%d certificates, asked %d times", len(e.Certificates), k.asked)
	}
	k.brought(t, token, i, Unchanged)
	i.Chain = []*x509.Certificate{selfSigned(t, first)}
	k.brought(t, token, i, Updated)
}

// After an update of the image its PCRs are others, and so is the key: it is fetched anew, and the former one goes.
func TestAnImportedKeyIsReplacedAfterAnUpdate(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	s.swtpm.Extend(t, "sha256", 7, []byte("boot"))
	token := s.initialized(t, "", "")
	k := newFleetKey(t)
	i := k.wanted()
	k.brought(t, token, i, Created)
	count := len(handlesOf(t, token))

	for n, storeLost := range []bool{false, true, true} {
		token.TPM().Release()
		s.swtpm.Extend(t, "sha256", 7, []byte("another image"))
		if storeLost {
			s.empty(t)
			token = s.initialized(t, "", "")
		}
		if n == 2 {
			i.Spec.Handle = 0 // it is known by its public key
		} else {
			refusedImport(t, s, token, i, k.private, ErrConflict, "the same key under another policy")
		}
		i.Replace = true
		k.brought(t, token, i, Created)
		k.brought(t, token, i, Unchanged)
		i.Replace = false
		if now := len(handlesOf(t, token)); now != count {
			t.Errorf("%d handles, there were %d", now, count)
		}
		if list := labels(t, token); len(list) != 1 {
			t.Errorf("keys %v", list)
		}
	}
	// Another key of the same label, as after a renewal.
	renewed := newFleetKey(t)
	i = renewed.wanted()
	i.Spec.Handle = 0
	refusedImport(t, s, token, i, renewed.private, ErrConflict, "it is another key")
	i.Replace = true
	renewed.brought(t, token, i, Created)
	if now := len(handlesOf(t, token)); now != count {
		t.Errorf("%d handles, there were %d", now, count)
	}
}

func TestKeysThatAreNotImported(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	s.swtpm.Extend(t, "sha256", 7, []byte("boot"))
	token := s.initialized(t, "", "")
	k, other := newFleetKey(t), newFleetKey(t)
	i := k.wanted()
	i.Replace = true
	refusedImport(t, s, token, i, other.private, ErrOtherKey, `importing key "web"`)
	broken := errors.New("KMS is out of reach")
	refusedImport(t, s, token, i, func(context.Context) (crypto.PrivateKey, error) { return nil, broken }, broken, "")
	refusedImport(t, s, token, i, func(context.Context) (crypto.PrivateKey, error) { return "a key", nil }, ErrOtherKey, "")

	bad := i
	bad.Spec.Use = provider.Use{Decrypt: true}
	refusedImport(t, s, token, bad, k.private, ErrInvalid, "do not decrypt")
	bad = i
	bad.Public = "a key"
	refusedImport(t, s, token, bad, k.private, provider.ErrUnsupported, "")
	bad = i
	bad.Spec.Label = ""
	refusedImport(t, s, token, bad, k.private, ErrInvalid, "")

	// What was born in the TPM stays, whatever is asked.
	born, err := token.CreateKey(ctx, KeySpec{Label: "web", Type: provider.P256, Use: provider.Use{Sign: true}, Handle: 0x81000160})
	must(t, err)
	bad = i
	bad.Chain = []*x509.Certificate{selfSigned(t, born)}
	refusedImport(t, s, token, bad, k.private, ErrInvalid, "another public key")
	refusedImport(t, s, token, i, k.private, ErrConflict, "would be lost")
	i.Spec.Label, i.Spec.Handle = "mail", 0x81000160
	refusedImport(t, s, token, i, k.private, ErrConflict, "it is the store's key")
	s.empty(t)
	token = s.initialized(t, "", "")
	refusedImport(t, s, token, i, k.private, ErrConflict, "would be lost")

	// One key, one name.
	i.Spec.Handle = 0
	e := k.brought(t, token, i, Created)
	i.Spec.Label = "web"
	refusedImport(t, s, token, i, k.private, ErrExists, e.String())
	i.Spec.Label, i.Spec.Handle = "mail", 0x81000170
	refusedImport(t, s, token, i, k.private, ErrConflict, "it is to be at 0x81000170")
	if k.asked != 1 {
		t.Errorf("asked %d times", k.asked)
	}
}

// A token with a PIN cannot adopt a key whose authorisation was lost with its store.
func TestAnImportedKeyBehindAPIN(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	s.swtpm.Extend(t, "sha256", 7, []byte("boot"))
	token := s.initialized(t, "user", "officer")
	k := newFleetKey(t)
	i := k.wanted()
	refusedImport(t, s, token, i, k.private, ErrLoginNeeded, "")
	must(t, token.Login(ctx, User, pin("user")))
	k.brought(t, token, i, Created)
	k.brought(t, token, i, Unchanged)
	s.empty(t)
	token = s.initialized(t, "user", "officer")
	must(t, token.Login(ctx, User, pin("user")))
	refusedImport(t, s, token, i, k.private, ErrConflict, "another policy or authorisation")
	i.Replace = true
	k.brought(t, token, i, Created)
}

func TestAnImportedKeyThatTheTPMLost(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	s.swtpm.Extend(t, "sha256", 7, []byte("boot"))
	token := s.initialized(t, "", "")
	k := newFleetKey(t)
	i := k.wanted()
	e := k.brought(t, token, i, Created)
	must(t, token.TPM().Evict(ctx, e.Object.Handle, e.Object.Public.Name()))
	k.brought(t, token, i, Updated) // of the wrapped form that the store has
	s.empty(t)
	token = s.initialized(t, "", "")
	e = k.brought(t, token, i, Adopted)
	must(t, token.TPM().Evict(ctx, e.Object.Handle, e.Object.Public.Name()))
	k.brought(t, token, i, Created) // of nothing: it is fetched again
	if k.asked != 2 {
		t.Errorf("asked %d times", k.asked)
	}
	i.Spec.Label, i.Spec.Handle, i.Spec.Wrapped = "wrapped", 0, true
	other := newFleetKey(t)
	i.Public = other.Public()
	other.brought(t, token, i, Created)
	other.brought(t, token, i, Unchanged)
	i.Spec.Wrapped = false
	if e := other.brought(t, token, i, Updated); e.Object.Handle == 0 {
		t.Error("it is still wrapped")
	}
}

// The TPM goes at any of the commands that replacing an imported key takes. What the store calls ready is whole then, and the next try
// ends as if nothing had been: one key, which signs, and nothing else in the TPM.
func TestAnImportWhoseTPMIsLostInTheMiddle(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	k := newFleetKey(t)
	i := k.wanted()
	i.Replace = true
	boot := func(image string) {
		s.swtpm.Restart(t)
		s.swtpm.Extend(t, "sha256", 7, []byte(image))
	}
	boot("November")
	token := s.initialized(t, "", "")
	k.brought(t, token, i, Created)
	count := len(handlesOf(t, token))
	_ = token.TPM().Close()
	images := []string{"December", "November"}
	replaced := false
	for round := 0; !replaced; round++ {
		n, image := round/2, images[round%2]
		boot(image)
		dialer, err := transport.Parse(s.address)
		must(t, err)
		left := n
		tpm := provider.New(&dyingTPM{Dialer: dialer, afterwards: round%2 == 1, at: func([]byte) bool { left--; return left < 0 }})
		token, err = Open(Options{Dir: s.dir, TPM: tpm})
		must(t, err)
		_, _, err = token.EnsureImported(ctx, i, k.private)
		replaced = err == nil && left >= 0
		if replaced && n < 10 {
			t.Errorf("it took only %d commands: the test proves nothing", n)
		}
		_ = tpm.Close()

		boot(image)
		token = s.open(t)
		entries, err := token.findAll(Query{Label: "web"})
		must(t, err)
		for _, e := range entries {
			var unsatisfied *policy.UnsatisfiedError
			if err := sign(token, e, nil); e.State == Ready && err != nil && !errors.As(err, &unsatisfied) {
				t.Errorf("lost at command %d: %s: %v", n, e, err)
			}
		}
		e, outcome, err := token.EnsureImported(ctx, i, k.private)
		if err != nil {
			t.Fatalf("after the loss at command %d: %v", n, err)
		}
		signs(t, token, e, nil)
		if now := handlesOf(t, token); len(now) != count {
			t.Errorf("lost at command %d, then %s: handles %x, there were %d", n, outcome, now, count)
		}
		if list := labels(t, token); len(list) != 1 {
			t.Errorf("lost at command %d: keys %v", n, list)
		}
		_ = token.TPM().Close()
	}
}
