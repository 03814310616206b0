package keystore

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"strings"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

func declared() Declared {
	return Declared{Label: "web", Handle: 0x81000150, Type: provider.P256, Use: provider.Use{Sign: true}}
}

// ensured fails the test unless Ensure has an outcome.
func ensured(t testing.TB, token *Token, d Declared, want Outcome) Entry {
	t.Helper()
	e, outcome, err := token.Ensure(ctx, d)
	must(t, err)
	if outcome != want {
		t.Errorf("%s, not %s", outcome, want)
	}
	return e
}

// compared fails the test unless Compare foresees an outcome.
func compared(t testing.TB, token *Token, d Declared, want Outcome) {
	t.Helper()
	if outcome, err := token.Compare(ctx, d); err != nil || outcome != want {
		t.Errorf("foreseen is %s, %v, not %s", outcome, err, want)
	}
}

// conflicts fails the test unless Ensure refuses and names the difference, as Compare does.
func conflicts(t testing.TB, token *Token, d Declared, difference string) {
	t.Helper()
	if _, outcome, err := token.Ensure(ctx, d); !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), difference) {
		t.Errorf("%s, %v: does not name %q", outcome, err, difference)
	}
	if outcome, err := token.Compare(ctx, d); !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), difference) {
		t.Errorf("compared: %s, %v: does not name %q", outcome, err, difference)
	}
}

func TestADeclaredKeyIsThereAfterEveryBoot(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	s.swtpm.Extend(t, "sha256", 7, []byte("boot"))
	d := declared()
	d.Policy = current(7, 8)
	token := s.open(t)
	if _, _, err := token.Ensure(ctx, d); !errors.Is(err, ErrNotInitialized) {
		t.Errorf("before init: %v", err)
	}
	must(t, token.Init(ctx, InitOptions{Label: "x"}))
	compared(t, token, d, Created)
	first := ensured(t, token, d, Created)
	compared(t, token, d, Unchanged)
	if first.Object.Handle != d.Handle {
		t.Errorf("it is at %x", first.Object.Handle)
	}
	signs(t, token, first, nil)
	before := s.snapshot(t)
	ensured(t, token, d, Unchanged)
	if after := s.snapshot(t); after != before {
		t.Errorf("the second time wrote:\n%s\nafter\n%s", after, before)
	}
	_ = token.TPM().Close()

	// The store is lost, the TPM keeps the key.
	s.empty(t)
	token = s.open(t)
	must(t, token.Init(ctx, InitOptions{Label: "x"}))
	again := ensured(t, token, d, Adopted)
	if !again.Linked() || again.Object.Handle != d.Handle || !again.Policy.Equal(first.Policy) || again.Label != d.Label {
		t.Errorf("%+v", again)
	}
	if string(again.CKAID) != string(first.CKAID) {
		t.Errorf("its CKA_ID was %x and is %x", first.CKAID, again.CKAID)
	}
	signs(t, token, again, nil)
	before = s.snapshot(t)
	ensured(t, token, d, Unchanged)
	if after := s.snapshot(t); after != before {
		t.Error("ensuring an adopted key wrote")
	}
	if n := s.countAfter(t, token); n != 2 {
		t.Errorf("%d objects are persistent: the SRK and one key are expected", n)
	}

	// A bound PCR changes: the store still knows the values at creation, a new store does not.
	s.swtpm.Extend(t, "sha256", 8, []byte("something else"))
	token = s.open(t)
	ensured(t, token, d, Unchanged)
	_ = token.TPM().Close()
	s.empty(t)
	token = s.open(t)
	must(t, token.Init(ctx, InitOptions{Label: "x"}))
	conflicts(t, token, d, "policy digest")
}

// countAfter closes a token's TPM and counts what is persistent in it.
func (s *store) countAfter(t testing.TB, token *Token) int {
	t.Helper()
	_ = token.TPM().Close()
	return s.swtpm.Count(t).Persistent
}

func TestEnsureRefusesWhatIsNotAsDeclared(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	token := s.initialized(t, "", "")
	e := ensured(t, token, declared(), Created)
	change := func(change func(*Declared)) Declared {
		d := declared()
		change(&d)
		return d
	}
	elsewhere := signing("elsewhere")
	others := change(func(d *Declared) { d.Chain = []*x509.Certificate{selfSigned(t, create(t, token, elsewhere))} })
	const why = "is for another public key"
	if _, _, err := token.Ensure(ctx, others); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), why) {
		t.Errorf("another key's certificate: %v", err)
	}
	if _, err := token.Compare(ctx, others); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), why) {
		t.Errorf("another key's certificate, compared: %v", err)
	}
	cases := func(token *Token) {
		conflicts(t, token, change(func(d *Declared) { d.Type = provider.RSA2048 }), "type is p256, declared is rsa2048")
		conflicts(t, token, change(func(d *Declared) { d.Use = provider.Use{Sign: true, Decrypt: true} }), "use is sign, declared is sign,decrypt")
		conflicts(t, token, change(func(d *Declared) { d.Policy = current(8) }), "no policy, one is declared")
		conflicts(t, token, change(func(d *Declared) { d.Type, d.Use = provider.P384, provider.Use{Decrypt: true} }), "; its use")
	}
	cases(token)
	conflicts(t, token, change(func(d *Declared) { d.Handle = 0x81000160 }), "handle is 0x81000150, declared is 0x81000160")
	conflicts(t, token, change(func(d *Declared) { d.Label = "another" }), `"web"`)
	conflicts(t, token, change(func(d *Declared) { d.Handle = FirstHandle }), "another object")
	if _, _, err := token.Ensure(ctx, change(func(d *Declared) { d.Handle = 0 })); !errors.Is(err, ErrInvalid) {
		t.Errorf("no handle: %v", err)
	}
	create(t, token, func() KeySpec { s := signing("web"); s.Wrapped = true; return s }())
	if _, _, err := token.Ensure(ctx, declared()); !errors.Is(err, ErrAmbiguous) {
		t.Errorf("two keys with the label: %v", err)
	}
	_ = token.TPM().Close()

	s.empty(t)
	token = s.initialized(t, "", "")
	cases(token)
	if len(labels(t, token)) != 0 {
		t.Error("a refused key was adopted")
	}
	adopted := ensured(t, token, declared(), Adopted)
	must(t, token.TPM().Evict(ctx, declared().Handle, e.Object.Public.Name()))
	conflicts(t, token, declared(), "gone from 0x81000150")
	must(t, token.Delete(ctx, adopted, false))
	ensured(t, token, declared(), Created)
}

func TestEnsureRefusesAPolicyThatIsDecoration(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	token := s.initialized(t, "", "")
	d := declared()
	d.Policy = policy.Policy{Root: policy.PCR{Bank: 0x000B, Values: map[uint][]byte{8: make([]byte, 32)}}}
	foreign := s.tools(t, token)
	foreign.policy(t, "sha256:8")
	foreign.run("tpm2_create", "-Q", "-C", "0x81000001", "-G", "ecc", "-L", "policy", "-u", "k.pub", "-r", "k.priv",
		"-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign")
	foreign.run("tpm2_load", "-Q", "-C", "0x81000001", "-u", "k.pub", "-r", "k.priv", "-c", "k.ctx")
	foreign.run("tpm2_evictcontrol", "-Q", "-c", "k.ctx", "0x81000150")
	foreign.run("tpm2_flushcontext", "-t")
	conflicts(t, token, d, "not enforced")
}

func TestEnsureMendsWhatItCan(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	token := s.initialized(t, "", "")
	spec := signing("web")
	spec.Wrapped = true
	create(t, token, spec)
	e := ensured(t, token, declared(), Updated) // wrapped so far
	wantHandles(t, token, e.Object.Handle)
	must(t, token.TPM().Evict(ctx, e.Object.Handle, e.Object.Public.Name()))
	e = ensured(t, token, declared(), Updated) // lost by the TPM
	wantHandles(t, token, e.Object.Handle)
	signs(t, token, e, nil)

	d := declared()
	d.Chain = []*x509.Certificate{selfSigned(t, e)}
	e = ensured(t, token, d, Updated)
	if len(e.Certificates) != 1 || !e.Certificates[0].Equal(d.Chain[0]) {
		t.Errorf("%v", e.Certificates)
	}
	ensured(t, token, d, Unchanged)
	ensured(t, token, declared(), Unchanged)
}

func TestATokenWithAPINDoesNotAdoptWhatItCannotOpen(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	token := s.initialized(t, "user pin", "so pin")
	d := declared()
	d.Policy = current(8)
	if _, _, err := token.Ensure(ctx, d); !errors.Is(err, ErrLoginNeeded) {
		t.Errorf("without a login: %v", err)
	}
	must(t, token.Login(ctx, User, pin("user pin")))
	e := ensured(t, token, d, Created)
	if !e.Policy.NeedsPIN() {
		t.Errorf("its policy is %v", e.Policy)
	}
	token.Logout()
	ensured(t, token, d, Unchanged)
	_ = token.TPM().Close()
	s.empty(t)
	token = s.initialized(t, "user pin", "so pin")
	conflicts(t, token, d, "lost")
}

// Who can write to a store cannot put a key that needs no PIN in the place of a declared one.
func TestEnsureTakesNoKeyThatDoesWithoutThePIN(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	token := s.initialized(t, "user pin", "so pin")
	must(t, token.Login(ctx, User, pin("user pin")))
	d := declared()
	_, err := token.CreateKey(ctx, KeySpec{Label: d.Label, Type: d.Type, Use: d.Use, Handle: d.Handle, NoPIN: true})
	must(t, err)
	conflicts(t, token, d, "it does without the token's PIN")
}

// A private key that came from a file may still be in it: it is not what a declaration asks for.
func TestEnsureTakesNoKeyThatMayBeKnownOutside(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	token := s.initialized(t, "", "")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	d := declared()
	d.Type, d.Policy = provider.P256, policy.Policy{}
	_, err = token.ImportKey(ctx, key, KeySpec{Label: d.Label, Use: d.Use, Handle: d.Handle})
	must(t, err)
	refused := func() {
		t.Helper()
		for _, attribute := range []string{"fixedTPM", "fixedParent", "sensitiveDataOrigin"} {
			conflicts(t, token, d, attribute+" is clear")
		}
	}
	refused() // though the store calls it what is declared
	_ = token.TPM().Close()
	s.empty(t)
	token = s.initialized(t, "", "")
	refused()
	if len(labels(t, token)) != 0 {
		t.Error("it was adopted")
	}
}
