package provider_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/internal/faulttpm"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// at has the fault meet the next n commands of a code, all for n < 0.
func at(code tpm2.TPMCC, n int, f faulttpm.Fault) faulttpm.Fault {
	return faulttpm.When{Code: code, Times: max(n, 0)}.Do(f)
}

func TestCommandsAreSentAgainWhenTheTPMAsksForIt(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	key := b.key(t, signKey, "value")
	auth := provider.Auth{Value: pin("value")}
	for _, rc := range []uint32{0x922, 0x908, 0x90A, 0x920} {
		b.wire.Reset()
		b.wire.Inject(at(tpm2.TPMCCSign, 5, faulttpm.Answer(rc)))
		if err := b.trySign(t.Context(), key, auth); err != nil {
			t.Errorf("%x five times: %v", rc, err)
		}
		if n := b.wire.Count(tpm2.TPMCCSign); n != 6 {
			t.Errorf("%x: %d commands", rc, n)
		}
		ctx, cancel := context.WithCancel(t.Context())
		patience := 3
		b.wire.Inject(at(tpm2.TPMCCSign, -1, func(context.Context, []byte, func() ([]byte, error)) ([]byte, error) {
			if patience--; patience == 0 {
				cancel()
			}
			return faulttpm.ResponseCode(rc), nil
		}))
		if err := b.trySign(ctx, key, auth); !errors.Is(err, provider.ErrBusy) {
			t.Errorf("%x until patience ends: %v", rc, err)
		}
	}
	b.wire.Inject(nil)
	if err := b.trySign(t.Context(), key, auth); err != nil {
		t.Errorf("after that: %v", err)
	}
}

func TestAnswersThatWereTamperedWith(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	sealed, err := b.Seal(t.Context(), pin("data"), provider.Template{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	macKey, macAuth := b.macKey(t)
	pinKey := b.key(t, signKey, "value")
	rsaKey := b.persisted(t, b.key(t, provider.Template{Type: provider.RSA2048, Use: provider.Use{Sign: true}}, ""))
	digest := sha256.Sum256(nil)
	signRSA := func(tpm *provider.TPM) error {
		_, err := tpm.Sign(t.Context(), rsaKey, provider.Auth{}, provider.RSAPSS, crypto.SHA256, digest[:])
		return err
	}
	for _, tt := range []struct {
		name  string
		code  tpm2.TPMCC
		fault faulttpm.Fault
		try   func() error
	}{
		{"session HMAC", tpm2.TPMCCUnseal, faulttpm.Flip(0), func() error { _, err := b.Unseal(t.Context(), sealed, provider.Auth{}); return err }},
		{"sealed data", tpm2.TPMCCUnseal, faulttpm.Flip(70), func() error { _, err := b.Unseal(t.Context(), sealed, provider.Auth{}); return err }},
		{"MAC", tpm2.TPMCCHMAC, faulttpm.Flip(20), func() error { _, err := b.MAC(t.Context(), macKey, macAuth, []byte("data")); return err }},
		{"signature in a session", tpm2.TPMCCSign, faulttpm.Flip(90), func() error { return b.trySign(t.Context(), pinKey, provider.Auth{Value: pin("value")}) }},
		{"new key", tpm2.TPMCCCreate, faulttpm.Flip(200), func() error { _, err := b.CreateKey(t.Context(), signKey, nil); return err }},
		{"RSA signature without session", tpm2.TPMCCSign, faulttpm.Flip(20), func() error { return signRSA(b.TPM) }},
		{"Name of a loaded object", tpm2.TPMCCLoad, faulttpm.Flip(8), func() error { return b.Load(t.Context(), pinKey) }},
		{"public area", tpm2.TPMCCReadPublic, faulttpm.Flip(80), func() error { _, err := b.ReadPublic(t.Context(), rsaKey.Handle); return err }},
		{"no authorisation in the answer", tpm2.TPMCCUnseal, faulttpm.Spoil(func(r []byte) []byte { r[1] = 1; return r }),
			func() error { _, err := b.Unseal(t.Context(), sealed, provider.Auth{}); return err }},
	} {
		b.wire.Inject(at(tt.code, -1, tt.fault))
		if err := tt.try(); !errors.Is(err, provider.ErrIntegrity) {
			t.Errorf("%s: %v", tt.name, err)
		}
		b.wire.Inject(nil)
		if err := tt.try(); err != nil {
			t.Errorf("%s, afterwards: %v", tt.name, err)
		}
	}
	b.Release()
	t.Run("software verification can be chosen", func(t *testing.T) {
		trusting, wire := b.client(t, provider.WithVerify(provider.VerifyNone))
		wire.Inject(at(tpm2.TPMCCSign, -1, faulttpm.Flip(20)))
		if err := signRSA(trusting); err != nil {
			t.Errorf("verify none: %v", err)
		}
		trusting.Release()
		strict, wire := b.client(t, provider.WithVerify(provider.VerifyAll))
		strict.UseSRK(b.srk)
		plain, err := strict.CreateKey(t.Context(), signKey, nil)
		if err != nil {
			t.Fatal(err)
		}
		wire.Inject(at(tpm2.TPMCCSign, -1, faulttpm.Flip(10)))
		if err := (&bench{TPM: strict}).trySign(t.Context(), plain, provider.Auth{}); !errors.Is(err, provider.ErrIntegrity) {
			t.Errorf("verify all: %v", err)
		}
	})
}

func TestAnswersThatMakeNoSense(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	random := rand.New(rand.NewPCG(1, 2))
	ops := map[tpm2.TPMCC]func() error{
		tpm2.TPMCCGetCapability:    func() error { _, err := b.Properties(t.Context()); return err },
		tpm2.TPMCCPCRRead:          func() error { _, err := b.ReadPCRs(t.Context(), tpm2.TPMAlgSHA256, []uint{7}); return err },
		tpm2.TPMCCReadPublic:       func() error { _, err := b.ReadPublic(t.Context(), b.srk.Handle); return err },
		tpm2.TPMCCGetRandom:        func() error { _, err := b.Random(t.Context(), 16); return err },
		tpm2.TPMCCCreate:           func() error { _, err := b.CreateKey(t.Context(), signKey, nil); return err },
		tpm2.TPMCCStartAuthSession: func() error { b.Release(); _, err := b.CreateKey(t.Context(), signKey, nil); return err },
	}
	for code, try := range ops {
		for cut := range 40 {
			b.wire.Inject(at(code, 1, faulttpm.Spoil(func(r []byte) []byte {
				r = r[:len(r)*cut/40]
				if cut%2 == 1 && len(r) >= 6 { // with a size that fits, too
					binary.BigEndian.PutUint32(r[2:], uint32(len(r)))
				}
				return r
			})))
			// A session or object whose handle does not arrive is lost: only an answer that names it may be cut.
			if code == tpm2.TPMCCStartAuthSession && (cut < 20 || cut%2 == 0) {
				b.wire.Inject(nil)
				continue
			}
			if err := try(); err == nil {
				t.Errorf("command %x: %d/40 of the answer were enough", code, cut)
			}
		}
		if code == tpm2.TPMCCStartAuthSession {
			continue
		}
		for range 100 {
			b.wire.Inject(at(code, 1, faulttpm.Spoil(func(r []byte) []byte {
				for i := 10; i < len(r); i++ {
					r[i] = byte(random.Uint32())
				}
				return r
			})))
			try()
		}
		b.wire.Inject(nil)
		if err := try(); err != nil {
			t.Errorf("command %x, afterwards: %v", code, err)
		}
	}
}

func TestUnknownResponseCodesAreNamed(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.wire.Inject(at(tpm2.TPMCCGetRandom, -1, faulttpm.Answer(0x0B0143)))
	if _, err := b.Random(t.Context(), 1); !errors.Is(err, provider.ErrUnsupported) {
		t.Errorf("a resource manager's refusal: %v", err)
	}
	b.wire.Inject(at(tpm2.TPMCCGetRandom, -1, faulttpm.Answer(0x17F)))
	_, err := b.Random(t.Context(), 1)
	var re *provider.ResponseError
	if !errors.As(err, &re) || re.Code != 0x17F || !strings.Contains(err.Error(), "TPM2_GetRandom") || !strings.Contains(err.Error(), "0x17F") {
		t.Errorf("an unknown code: %v", err)
	}
}

func TestALostConnectionIsOpenedAgain(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	p := b.bound(t, currentPCRs(7), policy.PIN{})
	key := b.boundKey(t, p, "value")
	plain := b.key(t, signKey, "")
	sealed, err := b.Seal(t.Context(), pin("data"), provider.Template{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ops := []struct {
		name string
		code tpm2.TPMCC
		try  func() error
	}{
		{"sign", tpm2.TPMCCSign, func() error { return b.trySign(t.Context(), key, provider.Auth{Policy: p, Value: pin("value")}) }},
		{"policy", tpm2.TPMCCPolicyPCR, func() error { return b.trySign(t.Context(), key, provider.Auth{Policy: p, Value: pin("value")}) }},
		{"unseal", tpm2.TPMCCUnseal, func() error { _, err := b.Unseal(t.Context(), sealed, provider.Auth{}); return err }},
		{"persist", tpm2.TPMCCEvictControl, func() error { return b.Persist(t.Context(), plain, 0x81000100) }},
		{"evict", tpm2.TPMCCEvictControl, func() error { return b.Evict(t.Context(), 0x81000100, plain.Public.Name()) }},
		{"flush", tpm2.TPMCCFlushContext, func() error { return b.Load(t.Context(), plain) }},
	}
	for _, op := range ops {
		for when, fault := range map[string]faulttpm.Fault{"before": faulttpm.Drop, "after": faulttpm.Lose} {
			b.wire.Inject(nil)
			prepared := b.Persist(t.Context(), plain, 0x81000100)
			if op.name == "persist" {
				prepared = b.Evict(t.Context(), 0x81000100, plain.Public.Name())
			}
			if prepared != nil {
				t.Fatal(prepared)
			}
			b.wire.Inject(at(op.code, 1, fault))
			if err := op.try(); err != nil {
				t.Errorf("%s, connection lost %s the command: %v", op.name, when, err)
			}
		}
	}
	b.wire.Inject(at(tpm2.TPMCCSign, -1, faulttpm.Drop))
	if err := b.trySign(t.Context(), plain, provider.Auth{}); !errors.Is(err, provider.ErrUnavailable) {
		t.Errorf("the connection is lost each time: %v", err)
	}
	b.wire.Inject(nil)
	b.Release()
	if c := b.machine.Count(t); c.Sessions != 0 || c.Transient != 0 {
		t.Errorf("left in the TPM: %+v", c)
	}
}

func TestATPMThatRestartsUnderUs(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	key := b.persisted(t, b.key(t, signKey, "value"))
	wrapped := b.key(t, signKey, "value")
	auth := provider.Auth{Value: pin("value")}
	for range 3 {
		for _, o := range []provider.Object{key, wrapped} {
			if err := b.trySign(t.Context(), o, auth); err != nil {
				t.Fatal(err)
			}
		}
		b.machine.Restart(t)
	}
	b.machine.Stop(t)
	if err := b.trySign(t.Context(), key, auth); !errors.Is(err, provider.ErrUnavailable) && !errors.Is(err, provider.ErrBusy) {
		t.Errorf("while the TPM is off: %v", err)
	}
	b.machine.Restart(t)
	if err := b.trySign(t.Context(), key, auth); err != nil {
		t.Errorf("when it is back: %v", err)
	}
}

func TestASessionThatTheTPMForgot(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	key := b.key(t, signKey, "value")
	for _, rc := range []uint32{0x918, 0x910} {
		b.wire.Inject(at(tpm2.TPMCCSign, 1, faulttpm.Answer(rc)))
		if err := b.trySign(t.Context(), key, provider.Auth{Value: pin("value")}); err != nil {
			t.Errorf("%x: %v", rc, err)
		}
	}
	b.wire.Inject(at(tpm2.TPMCCSign, -1, faulttpm.Answer(0x918)))
	b.wire.Reset()
	if err := b.trySign(t.Context(), key, provider.Auth{Value: pin("value")}); err == nil || b.wire.Count(tpm2.TPMCCSign) != 2 {
		t.Errorf("forgotten each time: %v after %d commands", err, b.wire.Count(tpm2.TPMCCSign))
	}
}

func TestACancelledOperationLeavesNothing(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	p := b.bound(t, currentPCRs(7), policy.PIN{})
	key := b.boundKey(t, p, "value")
	for _, code := range []tpm2.TPMCC{
		tpm2.TPMCCLoad, tpm2.TPMCCStartAuthSession, tpm2.TPMCCPolicyPCR, tpm2.TPMCCPolicyAuthValue, tpm2.TPMCCSign,
	} {
		ctx, cancel := context.WithCancel(t.Context())
		b.wire.Inject(at(code, 1, func(_ context.Context, _ []byte, send func() ([]byte, error)) ([]byte, error) {
			cancel()
			return send()
		}))
		if err := b.trySign(ctx, key, provider.Auth{Policy: p, Value: pin("value")}); !errors.Is(err, context.Canceled) && err != nil {
			t.Errorf("cancelled at command %x: %v", code, err)
		}
		b.Release()
		if c := b.machine.Count(t); c.Sessions != 0 || c.Transient != 0 {
			t.Errorf("cancelled at command %x: left in the TPM: %+v", code, c)
		}
	}
	b.wire.Inject(nil)
	done, cancel := context.WithCancel(t.Context())
	cancel()
	b.wire.Reset()
	if err := b.trySign(done, key, provider.Auth{}); !errors.Is(err, context.Canceled) || len(b.wire.Exchanges()) != 0 {
		t.Errorf("cancelled before: %v", err)
	}
}

func TestSequencesOfManyGoroutinesDoNotMix(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	b.TakeTurns() // no policy is executed ahead then, before another's operation
	p := b.bound(t, currentPCRs(7))
	key := b.boundKey(t, p, "")
	wrapped := b.key(t, signKey, "value")
	b.wire.Reset()
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			var err error
			if i%2 == 0 {
				err = b.trySign(t.Context(), key, provider.Auth{Policy: p})
			} else {
				err = b.trySign(t.Context(), wrapped, provider.Auth{Value: pin("value")})
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	codes := b.wire.Codes()
	for i, code := range codes[:len(codes)-1] {
		if code == tpm2.TPMCCPolicyPCR && codes[i+1] != tpm2.TPMCCSign {
			t.Fatalf("commands of two operations are mixed: %x", codes)
		}
	}
}

func TestNoSecretIsLogged(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	b := newStore(t, provider.WithLogger(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))))
	key := b.key(t, signKey, "canary PIN")
	b.trySign(t.Context(), key, provider.Auth{Value: pin("canary PIN")})
	sealed, err := b.Seal(t.Context(), pin("canary data"), provider.Template{}, pin("canary PIN"))
	if err != nil {
		t.Fatal(err)
	}
	b.Unseal(t.Context(), sealed, provider.Auth{Value: pin("canary PIN")})
	if !strings.Contains(log.String(), "TPM2_Unseal") || strings.Contains(log.String(), "canary") {
		t.Errorf("log: %s", log.String())
	}
}
