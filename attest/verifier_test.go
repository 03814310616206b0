package attest_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tpm2-p11/tpm2-p11/attest"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/nsm"
)

// answerTo is a document that a machine makes for a challenge.
func answerTo(t testing.TB, a *nsm.Authority, challenge []byte) []byte {
	t.Helper()
	d := newDraft(t, a)
	d.Set("nonce", challenge)
	return signed(t, d)
}

func newVerifier(a *nsm.Authority) *attest.Verifier {
	v := attest.NewVerifier(attest.Policy{Roots: []*x509.Certificate{a.Root()}, PCRs: map[int][]byte{4: content().PCRs[4]}}, time.Minute)
	v.SetClock(func() time.Time { return now })
	return v
}

func TestAChallengeIsAnsweredOnce(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	v := newVerifier(a)
	document := answerTo(t, a, v.Challenge())
	c, err := v.Verify(document, content().PublicKey)
	if err != nil || c.Instance() != a.Instance {
		t.Fatalf("%v", err)
	}
	if _, err := v.Verify(document, nil); !errors.Is(err, attest.ErrNonce) {
		t.Errorf("the second time: %v", err)
	}
	if bytes.Equal(v.Challenge(), v.Challenge()) {
		t.Error("two challenges are the same")
	}
}

func TestAmongManyOneAnswerWins(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	v := newVerifier(a)
	document := answerTo(t, a, v.Challenge())
	var won atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if _, err := v.Verify(document, nil); err == nil {
				won.Add(1)
			} else if !errors.Is(err, attest.ErrNonce) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if won.Load() != 1 {
		t.Errorf("%d were accepted", won.Load())
	}
}

func TestAnswersThatAVerifierRefuses(t *testing.T) {
	t.Parallel()
	a, other := newAuthority(t), newAuthority(t)
	v := newVerifier(a)
	expired := v.Challenge()
	bent := bytes.Clone(expired)
	bent[0]++ // to live longer
	for name, c := range map[string]struct {
		document  []byte
		publicKey []byte
		want      error
	}{
		"no document":            {[]byte("x"), nil, attest.ErrMalformed},
		"no nonce":               {answerTo(t, a, nil), nil, attest.ErrNonce},
		"a nonce of its own":     {answerTo(t, a, bytes.Repeat([]byte{1}, 56)), nil, attest.ErrNonce},
		"a longer life":          {answerTo(t, a, bent), nil, attest.ErrNonce},
		"another verifier's":     {answerTo(t, a, newVerifier(a).Challenge()), nil, attest.ErrNonce},
		"another root":           {answerTo(t, other, v.Challenge()), nil, attest.ErrChain},
		"of another public key":  {answerTo(t, a, v.Challenge()), []byte("a peer's key"), attest.ErrPublicKey},
		"of an empty public key": {answerTo(t, a, v.Challenge()), []byte{}, attest.ErrPublicKey},
	} {
		if got, err := v.Verify(c.document, c.publicKey); !errors.Is(err, c.want) || got != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	draft := newDraft(t, a)
	draft.Set("nonce", v.Challenge())
	pcrs := map[uint64][]byte{}
	for i := range uint64(24) {
		pcrs[i] = make([]byte, 48)
	}
	draft.Set("nitrotpm_pcrs", pcrs)
	if _, err := v.Verify(signed(t, draft), nil); !errors.Is(err, attest.ErrPCR) {
		t.Errorf("another image: %v", err)
	}
	if v.Remembered() != 0 {
		t.Errorf("%d refused answers are remembered", v.Remembered())
	}
	document := answerTo(t, a, expired)
	v.SetClock(func() time.Time { return now.Add(time.Minute) })
	if _, err := v.Verify(document, nil); !errors.Is(err, attest.ErrNonce) {
		t.Errorf("expired: %v", err)
	}
}

func TestAVerifiersMemoryIsBounded(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	v := newVerifier(a)
	v.FillUsed(attest.MaxUsed, now.Add(time.Second))
	document := answerTo(t, a, v.Challenge())
	if _, err := v.Verify(document, nil); !errors.Is(err, attest.ErrNonce) {
		t.Errorf("full: %v", err)
	}
	v.SetClock(func() time.Time { return now.Add(2 * time.Second) })
	if _, err := v.Verify(document, nil); err != nil || v.Remembered() != 1 {
		t.Errorf("after they expired: %v, %d remembered", err, v.Remembered())
	}
}

// A peer whose key came out empty is bound to nothing, not even to a document without a key.
func TestAnEmptyKeyIsNobodys(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	v := newVerifier(a)
	d := newDraft(t, a)
	d.Set("public_key", nil)
	d.Set("nonce", v.Challenge())
	if _, err := v.Verify(signed(t, d), []byte{}); !errors.Is(err, attest.ErrPublicKey) {
		t.Errorf("%v", err)
	}
}
