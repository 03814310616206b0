package provider_test

import (
	"context"
	"crypto/elliptic"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/internal/faulttpm"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

const (
	ccReadPublic = tpm2.TPMCCReadPublic
	ccStart      = tpm2.TPMCCStartAuthSession
	ccRestart    = tpm2.TPMCCPolicyRestart
	ccFlush      = tpm2.TPMCCFlushContext
	ccPCRRead    = tpm2.TPMCCPCRRead
	ccPCR        = tpm2.TPMCCPolicyPCR
	ccAuthValue  = tpm2.TPMCCPolicyAuthValue
	ccOr         = tpm2.TPMCCPolicyOR
	ccAuthorize  = tpm2.TPMCCPolicyAuthorize
	ccSign       = tpm2.TPMCCSign
)

// codes are the commands of one signature, and those of the steps of the next one, which are taken when it is done: what stands
// behind the last TPM2_Sign did not keep its caller.
func (b *bench) codes(t *testing.T, key provider.Object, auth provider.Auth) []tpm2.TPMCC {
	t.Helper()
	provider.Rest(b.TPM)
	b.wire.Reset()
	if err := b.trySign(t.Context(), key, auth); err != nil {
		t.Fatal(err)
	}
	provider.Rest(b.TPM)
	return b.wire.Codes()
}

func count(codes []tpm2.TPMCC, code tpm2.TPMCC) (n int) {
	for _, c := range codes {
		if c == code {
			n++
		}
	}
	return n
}

// From its third use in a row on, a key with a policy costs its caller one command, as a key without one does.
func TestAPolicyIsExecutedAheadOfItsNextUse(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	ci := ecBuilder(t, elliptic.P256())
	pcrs, withPIN := b.bound(t, currentPCRs(0, 7)), b.bound(t, currentPCRs(7), policy.PIN{})
	images := policy.Policy{Root: policy.Any{elsewhere().Root, pcrs.Root}}
	for _, c := range []struct {
		name                 string
		policy               policy.Policy
		value                string
		auth                 provider.Auth
		first, second, third []tpm2.TPMCC
	}{
		{
			"PCRs", pcrs, "", provider.Auth{},
			[]tpm2.TPMCC{ccReadPublic, ccStart, ccPCR, ccSign},
			[]tpm2.TPMCC{ccPCR, ccSign, ccPCR},
			[]tpm2.TPMCC{ccSign, ccPCR},
		},
		{
			"PCRs and PIN", withPIN, "12345678", provider.Auth{Value: pin("12345678")},
			[]tpm2.TPMCC{ccReadPublic, ccReadPublic, ccStart, ccPCR, ccAuthValue, ccSign},
			[]tpm2.TPMCC{ccPCR, ccAuthValue, ccSign, ccPCR, ccAuthValue},
			[]tpm2.TPMCC{ccSign, ccPCR, ccAuthValue},
		},
		{
			"one of two images", images, "", provider.Auth{},
			[]tpm2.TPMCC{ccReadPublic, ccPCRRead, ccStart, ccPCR, ccOr, ccSign},
			[]tpm2.TPMCC{ccPCR, ccOr, ccSign, ccPCR, ccOr},
			[]tpm2.TPMCC{ccSign, ccPCR, ccOr},
		},
		{
			"an approved image", ci.root(), "", provider.Auth{Approved: listed(ci.approve(t, "today", pcrs))},
			[]tpm2.TPMCC{ccReadPublic, ccPCRRead, ccStart, ccPCR, tpm2.TPMCCLoadExternal, tpm2.TPMCCVerifySignature, ccFlush, ccAuthorize, ccSign},
			[]tpm2.TPMCC{ccPCR, ccAuthorize, ccSign, ccPCR, ccAuthorize},
			[]tpm2.TPMCC{ccSign, ccPCR, ccAuthorize},
		},
	} {
		key := b.persisted(t, b.boundKey(t, c.policy, c.value))
		c.auth.Policy = c.policy
		b.Release()
		for i, want := range [][]tpm2.TPMCC{c.first, c.second, c.third, c.third} {
			if got := b.codes(t, key, c.auth); !slices.Equal(got, want) {
				t.Errorf("%s: signature %d took the commands %x, want %x", c.name, i+1, got, want)
			}
		}
	}
}

// What was executed ahead serves the same steps only, for whatever key has them.
func TestWhatWasExecutedAheadServesNothingElse(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	p, other, withPIN := b.bound(t, currentPCRs(7)), b.bound(t, currentPCRs(8)), b.bound(t, currentPCRs(7), policy.PIN{})
	key, same, another, pinned := b.boundKey(t, p, ""), b.boundKey(t, p, ""), b.boundKey(t, other, ""), b.boundKey(t, withPIN, "12345678")
	for _, k := range []*provider.Object{&key, &same, &another, &pinned} {
		*k = b.persisted(t, *k)
	}
	auth, otherAuth := provider.Auth{Policy: p}, provider.Auth{Policy: other}
	right, wrong := provider.Auth{Policy: withPIN, Value: pin("12345678")}, provider.Auth{Policy: withPIN, Value: pin("87654321")}
	ready := func(key provider.Object, auth provider.Auth) {
		t.Helper()
		for range 2 {
			b.codes(t, key, auth)
		}
		if got, want := b.codes(t, key, auth)[0], ccSign; got != want {
			t.Fatalf("nothing was executed ahead: %x", got)
		}
	}
	for _, k := range []provider.Object{same, another, pinned} {
		auth := map[bool]provider.Auth{true: right, false: otherAuth}[k.Handle == pinned.Handle]
		if k.Handle == same.Handle {
			auth = provider.Auth{Policy: p}
		}
		b.codes(t, k, auth) // its Name is known
	}

	ready(key, auth)
	if got, want := b.codes(t, same, auth), []tpm2.TPMCC{ccSign, ccPCR}; !slices.Equal(got, want) {
		t.Errorf("a key with the same policy took the commands %x, want %x", got, want)
	}
	if got, want := b.codes(t, another, otherAuth), []tpm2.TPMCC{ccRestart, ccPCR, ccSign}; !slices.Equal(got, want) {
		t.Errorf("a key with another policy took the commands %x, want %x", got, want)
	}
	ready(key, auth)
	if err := b.trySign(t.Context(), another, auth); !errors.Is(err, provider.ErrPolicy) {
		t.Errorf("another key signed by a policy that is not its own: %v", err)
	}
	ready(pinned, right)
	if err := b.trySign(t.Context(), pinned, wrong); !errors.Is(err, provider.ErrAuth) {
		t.Errorf("a wrong PIN, when the policy was executed with the right one: %v", err)
	}
	ready(pinned, right)
	if err := b.trySign(t.Context(), pinned, provider.Auth{Policy: withPIN}); !errors.Is(err, provider.ErrAuth) && !errors.Is(err, provider.ErrPolicy) {
		t.Errorf("no PIN, when the policy was executed with one: %v", err)
	}
}

// An approval that is withdrawn does not live on in what was executed ahead, and what an index, a clock or an authValue decides is asked each time.
func TestWhatMayBeRevokedIsNotExecutedAhead(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	ci := ecBuilder(t, elliptic.P256())
	key := b.persisted(t, b.boundKey(t, ci.root(), ""))
	approved := []policy.Approved{ci.approve(t, "today", b.bound(t, currentPCRs(7)))}
	auth := provider.Auth{Policy: ci.root(), Approved: func() ([]policy.Approved, error) { return approved, nil }}
	for range 3 {
		b.codes(t, key, auth)
	}
	approved = nil
	b.wire.Reset()
	if err := b.trySign(t.Context(), key, auth); !errors.Is(err, provider.ErrPolicy) || b.wire.Count(ccSign) != 0 {
		t.Errorf("after the approval was withdrawn: %v, commands %x", err, b.wire.Codes())
	}

	for name, p := range map[string]policy.Policy{
		"a term":              b.bound(t, currentPCRs(7), policy.Clock{Before: 1 << 50}),
		"the owner's consent": b.bound(t, currentPCRs(7), policy.Secret{Hierarchy: tpm2.TPMRHOwner}),
	} {
		key, auth := b.persisted(t, b.boundKey(t, p, "")), provider.Auth{Policy: p}
		b.codes(t, key, auth)
		for range 3 {
			if got := b.codes(t, key, auth); len(got) != 3 || got[2] != ccSign {
				t.Errorf("%s: a signature took the commands %x", name, got)
			}
		}
	}
}

// An extended PCR, the policy's or not, costs what was executed ahead; where they are extended all the time nothing is.
func TestAPCRThatChangesAfterAPolicyWasExecutedAhead(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	p := b.bound(t, currentPCRs(7))
	key, auth := b.persisted(t, b.boundKey(t, p, "")), provider.Auth{Policy: p, Label: "web"}
	for range 3 {
		b.codes(t, key, auth)
	}
	if _, err := b.wire.Aside(extendPCR10); err != nil {
		t.Fatal(err)
	}
	if got, want := b.codes(t, key, auth), []tpm2.TPMCC{ccSign, ccRestart, ccPCR, ccSign}; !slices.Equal(got, want) {
		t.Errorf("after another PCR changed: %x, want %x", got, want)
	}
	for range 15 {
		if got, want := b.codes(t, key, auth), []tpm2.TPMCC{ccPCR, ccSign}; !slices.Equal(got, want) {
			t.Fatalf("soon after a PCR changed: %x, want %x", got, want)
		}
	}
	if got, want := b.codes(t, key, auth), []tpm2.TPMCC{ccPCR, ccSign, ccPCR}; !slices.Equal(got, want) {
		t.Errorf("long after a PCR changed: %x, want %x", got, want)
	}

	extendPCR7 := slices.Clone(extendPCR10)
	extendPCR7[13] = 7
	if _, err := b.wire.Aside(extendPCR7); err != nil {
		t.Fatal(err)
	}
	if err := b.trySign(t.Context(), key, auth); !errors.Is(err, provider.ErrPolicy) || !strings.Contains(err.Error(), "sha256 PCR7 is ") {
		t.Errorf("after the policy's PCR changed: %v", err)
	}
}

// A TPM does not count changes of PCRs 16 and 21 to 23: such a PCR is asked at each use, so that extending it shuts a key at once.
func TestPCRsWhoseChangesTheTPMDoesNotCount(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	for _, pcr := range []uint{16, 23} {
		p := b.bound(t, currentPCRs(7, pcr))
		key, auth := b.persisted(t, b.boundKey(t, p, "")), provider.Auth{Policy: p, Label: "web"}
		for range 4 {
			b.codes(t, key, auth)
		}
		extend := slices.Clone(extendPCR10)
		extend[13] = byte(pcr)
		if _, err := b.wire.Aside(extend); err != nil {
			t.Fatal(err)
		}
		if err := b.trySign(t.Context(), key, auth); !errors.Is(err, provider.ErrPolicy) {
			t.Errorf("after PCR%d was extended: %v", pcr, err)
		}
	}
}

// noticed is a context that tells when somebody begins to wait for its end.
type noticed struct {
	context.Context
	once  sync.Once
	waits chan struct{}
}

func (n *noticed) Done() <-chan struct{} {
	n.once.Do(func() { close(n.waits) })
	return n.Context.Done()
}

// Nobody waits for what is executed ahead: it is left out while others wait for the TPM, within this process or in another one.
func TestNothingIsExecutedAheadWhileOthersWait(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	p := b.bound(t, currentPCRs(7))
	key, auth := b.persisted(t, b.boundKey(t, p, "")), provider.Auth{Policy: p}
	plain := b.persisted(t, b.key(t, signKey, ""))
	for range 3 {
		b.codes(t, key, auth)
	}
	b.codes(t, plain, provider.Auth{})

	next := &noticed{Context: t.Context(), waits: make(chan struct{})}
	done := make(chan error, 1)
	b.wire.Reset()
	b.wire.Inject(faulttpm.Once(ccSign).Do(func(_ context.Context, _ []byte, send func() ([]byte, error)) ([]byte, error) {
		go func() { done <- b.trySign(next, plain, provider.Auth{}) }()
		<-next.waits
		return send()
	}))
	err := b.trySign(t.Context(), key, auth)
	if err := errors.Join(err, <-done); err != nil {
		t.Fatal(err)
	}
	provider.Rest(b.TPM)
	if got, want := b.wire.Codes(), []tpm2.TPMCC{ccSign, ccSign}; !slices.Equal(got[:2], want) {
		t.Errorf("two signatures took the commands %x, want %x first", got, want)
	}
	b.wire.Inject(nil)

	b.codes(t, key, auth)
	b.TakeTurns()
	for range 3 {
		// The TPM is let go soon then, its sessions are flushed.
		if got := b.codes(t, key, auth); count(got[slices.Index(got, ccSign):], ccPCR) > 0 {
			t.Errorf("with another process that waits: %x", got)
		}
	}
}

// A TPM that is lost, reset or closed while a policy is executed ahead is as at any other time.
func TestATPMThatIsLostWhileAPolicyIsExecutedAhead(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	p := b.bound(t, currentPCRs(7))
	key, auth := b.persisted(t, b.boundKey(t, p, "")), provider.Auth{Policy: p}
	for name, fault := range map[string]faulttpm.Fault{
		"lost": faulttpm.Drop, "reset": faulttpm.Answer(0x918), "without memory": faulttpm.Answer(0x903), "garbled": faulttpm.Random(1),
	} {
		for range 2 {
			b.codes(t, key, auth)
		}
		b.wire.Inject(faulttpm.Once(ccPCR).Do(fault))
		b.codes(t, key, auth)
		b.wire.Inject(nil)
		b.codes(t, key, auth)
		if c := b.countSessions(t); c != 0 {
			t.Errorf("%s: %d sessions are left", name, c)
		}
	}
	for range 3 {
		b.codes(t, key, auth)
	}
	b.machine.Restart(t)
	if err := b.trySign(t.Context(), key, auth); err != nil {
		t.Errorf("after the TPM lost its power: %v", err)
	}
}

// A policy's only step is sent without waiting for the response, which whoever uses the TPM next receives.
func TestAPolicysOnlyStepIsSentAndReceivedByWhoComesNext(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	p := b.bound(t, currentPCRs(7))
	key, auth := b.persisted(t, b.boundKey(t, p, "")), provider.Auth{Policy: p}
	plain := b.persisted(t, b.key(t, signKey, ""))
	signs := func(key provider.Object, auth provider.Auth, want ...tpm2.TPMCC) {
		t.Helper()
		b.wire.Reset()
		if err := b.trySign(t.Context(), key, auth); err != nil {
			t.Error(err)
		}
		if got := b.wire.Codes(); !slices.Equal(got, want) {
			t.Errorf("the commands were %x, want %x", got, want)
		}
	}
	signs(plain, provider.Auth{}, ccReadPublic, ccSign)
	signs(key, auth, ccReadPublic, ccStart, ccPCR, ccSign)
	for range 3 {
		sent := b.wire.Ahead()
		if err := b.trySign(t.Context(), key, auth); err != nil {
			t.Fatal(err)
		}
		if b.wire.Ahead() != sent+1 {
			t.Error("nothing was sent for the next signature")
		}
	}
	signs(key, auth, ccPCR, ccSign)
	signs(plain, provider.Auth{}, ccPCR, ccSign)
	signs(key, auth, ccSign)
	given, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.trySign(given, key, auth); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	signs(key, auth, ccPCR, ccSign)

	// Where the TPM refuses it, or is lost, the next use has its steps before it; also when somebody else learns of that.
	for name, fault := range map[string]faulttpm.Fault{
		"lost": faulttpm.Drop, "reset": faulttpm.Answer(0x918), "without memory": faulttpm.Answer(0x903), "garbled": faulttpm.Random(1),
	} {
		for _, next := range []provider.Object{key, plain} {
			for range 3 {
				b.codes(t, key, auth)
			}
			if err := b.trySign(t.Context(), key, auth); err != nil {
				t.Fatal(err)
			}
			b.wire.Inject(faulttpm.Once(ccPCR).Do(fault))
			use := map[bool]provider.Auth{true: auth}[next.Handle == key.Handle]
			if err := b.trySign(t.Context(), next, use); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			b.wire.Inject(nil)
			if err := b.trySign(t.Context(), key, auth); err != nil {
				t.Errorf("%s, afterwards: %v", name, err)
			}
			if n := b.countSessions(t); n != 0 {
				t.Errorf("%s: %d sessions are left", name, n)
			}
		}
	}
}

// countSessions lets go of the TPM and counts what is in it.
func (b *bench) countSessions(t *testing.T) int {
	t.Helper()
	provider.Rest(b.TPM)
	b.Release()
	return b.machine.Count(t).Sessions
}
