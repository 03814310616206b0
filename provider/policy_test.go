package provider_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/internal/faulttpm"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// boundKey makes a signing key with a policy.
func (b *bench) boundKey(t *testing.T, p policy.Policy, authValue string) provider.Object {
	t.Helper()
	tmpl := signKey
	tmpl.AuthPolicy = digestOf(t, p)
	return b.key(t, tmpl, authValue)
}

func TestAKeyBoundToPCRsStopsSigningWhenOneChanges(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	p := b.bound(t, currentPCRs(0, 7, 16))
	key := b.persisted(t, b.boundKey(t, p, ""))
	auth := provider.Auth{Policy: p, Label: "web"}

	if err := b.trySign(t.Context(), key, auth); err != nil {
		t.Fatal(err)
	}

	before, err := b.ReadPCRs(t.Context(), tpm2.TPMAlgSHA256, []uint{7})
	if err != nil {
		t.Fatal(err)
	}
	b.extend(t, 7)
	err = b.trySign(t.Context(), key, auth)
	var unsatisfied *policy.UnsatisfiedError
	if !errors.Is(err, provider.ErrPolicy) || !errors.As(err, &unsatisfied) {
		t.Fatalf("after PCR 7 changed: %v", err)
	}
	if unsatisfied.PCR != 7 || unsatisfied.Label != "web" || !bytes.Equal(unsatisfied.Want, before[7]) ||
		!strings.HasPrefix(err.Error(), `sign refused by policy "web": sha256 PCR7 is `) {
		t.Errorf("the error does not name the PCR: %v", err)
	}
}

func TestABoundKeyWorksByItsPolicyOnly(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	p := b.bound(t, currentPCRs(7))
	key := b.boundKey(t, p, "value")
	if attrs := key.Public.Attributes(); attrs.UserWithAuth || !attrs.AdminWithPolicy {
		t.Errorf("attributes of a bound key: %+v", attrs)
	}
	for name, auth := range map[string]provider.Auth{
		"the empty password": {},
		"its auth value":     {Value: pin("value")},
		"another policy":     {Policy: b.bound(t, currentPCRs(8))},
		"a longer policy":    {Policy: b.bound(t, currentPCRs(7), policy.PIN{}), Value: pin("value")},
	} {
		if err := b.trySign(t.Context(), key, auth); !errors.Is(err, provider.ErrPolicy) {
			t.Errorf("with %s: %v", name, err)
		}
	}
	if err := b.trySign(t.Context(), key, provider.Auth{Policy: p}); err != nil {
		t.Error(err)
	}
}

func TestAPolicyWithAPIN(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	p := b.bound(t, currentPCRs(7), policy.PIN{})
	key := b.boundKey(t, p, "12345678")
	b.wire.Reset()
	if err := b.trySign(t.Context(), key, provider.Auth{Policy: p, Value: pin("12345678")}); err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []string{"", "87654321"} {
		if err := b.trySign(t.Context(), key, provider.Auth{Policy: p, Value: pin(wrong)}); !errors.Is(err, provider.ErrAuth) {
			t.Errorf("with the PIN %q: %v", wrong, err)
		}
	}
	if b.wire.Saw([]byte("12345678")) {
		t.Error("the PIN went over the wire")
	}
	b.extend(t, 7)
	if err := b.trySign(t.Context(), key, provider.Auth{Policy: p, Value: pin("12345678")}); !errors.Is(err, provider.ErrPolicy) {
		t.Errorf("with the PIN after PCR 7 changed: %v", err)
	}
}

func TestADigestOnlyPolicyNamesItsSelection(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	full := b.bound(t, currentPCRs(7, 8))
	steps, err := full.Steps(tpm2.TPMAlgSHA256)
	if err != nil {
		t.Fatal(err)
	}
	known := currentPCRs(7, 8)
	known.Digest = steps[0].(policy.PCRStep).Digest
	p := policy.Policy{Root: known}
	key := b.boundKey(t, p, "")
	if err := b.trySign(t.Context(), key, provider.Auth{Policy: p}); err != nil {
		t.Fatal(err)
	}
	b.extend(t, 8)
	err = b.trySign(t.Context(), key, provider.Auth{Policy: p})
	if !errors.Is(err, provider.ErrPolicy) || !strings.Contains(err.Error(), "7,8") {
		t.Errorf("after PCR 8 changed: %v", err)
	}
}

func TestPCRsThatChangeWhileAPolicyRuns(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	p := b.bound(t, currentPCRs(7))
	key := b.boundKey(t, p, "")
	changed := faulttpm.Answer(0x128)
	for _, code := range []tpm2.TPMCC{tpm2.TPMCCPolicyPCR, tpm2.TPMCCSign} {
		b.wire.Inject(at(code, 3, changed))
		if err := b.trySign(t.Context(), key, provider.Auth{Policy: p}); err != nil {
			t.Errorf("PCRs changed three times at command %x: %v", code, err)
		}
		b.wire.Inject(at(code, -1, changed))
		b.wire.Reset()
		err := b.trySign(t.Context(), key, provider.Auth{Policy: p})
		if !errors.Is(err, provider.ErrPolicy) || !strings.Contains(err.Error(), "PCRs do not come to rest") {
			t.Errorf("PCRs never came to rest at command %x: %v", code, err)
		}
		if n := b.wire.Count(tpm2.TPMCCPolicyPCR); n != 16 {
			t.Errorf("the policy ran %d times", n)
		}
		b.wire.Inject(nil)
	}
	b.wire.Inject(at(tpm2.TPMCCPolicyPCR, -1, faulttpm.Answer(0x1C4)))
	err := b.trySign(t.Context(), key, provider.Auth{Policy: p})
	if !errors.Is(err, provider.ErrPolicy) || !strings.Contains(err.Error(), "sha256:7 are not as approved") {
		t.Errorf("the TPM refuses PCRs that are right when they are read: %v", err)
	}
	// An extended PCR that is not the policy's counts as a change, too.
	b.wire.Inject(func(_ context.Context, cmd []byte, send func() ([]byte, error)) ([]byte, error) {
		if faulttpm.Code(cmd) != tpm2.TPMCCSign {
			return send()
		}
		b.wire.Inject(nil)
		if _, err := b.wire.Aside(extendPCR10); err != nil {
			t.Error(err)
		}
		return send()
	})
	b.wire.Reset()
	if err := b.trySign(t.Context(), key, provider.Auth{Policy: p}); err != nil {
		t.Errorf("PCR 10 was extended between policy and signature: %v", err)
	}
	if n := b.wire.Count(tpm2.TPMCCSign); n != 2 {
		t.Errorf("%d signatures were tried", n)
	}
}

// extendPCR10 is TPM2_PCR_Extend of sha256 PCR 10 by 32 zeros with an empty password.
var extendPCR10 = append([]byte{
	0x80, 0x02, 0, 0, 0, 65, 0, 0, 0x01, 0x82,
	0, 0, 0, 10,
	0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 1, 0, 0,
	0, 0, 0, 1, 0, 0x0b,
}, make([]byte, 32)...)

func TestRepeatedRefusalsLeaveNothing(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	p := b.bound(t, currentPCRs(7))
	key := b.persisted(t, b.boundKey(t, p, ""))
	b.extend(t, 7)
	for range 200 {
		if err := b.trySign(t.Context(), key, provider.Auth{Policy: p}); !errors.Is(err, provider.ErrPolicy) {
			t.Fatal(err)
		}
	}
}

// A policy digest is of the object's name algorithm, and so must the session's be.
func TestAPolicyOfAKeyWhoseNameIsOfAnotherHash(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	for name, p := range map[string]policy.Policy{"PCRs": b.bound(t, currentPCRs(7)), "PCRs and PIN": b.bound(t, currentPCRs(7), policy.PIN{})} {
		digest, err := p.Digest(tpm2.TPMAlgSHA384)
		if err != nil {
			t.Fatal(err)
		}
		area := tpm2.TPMTPublic{
			Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA384,
			ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, SignEncrypt: true, NoDA: true},
			AuthPolicy:       tpm2.TPM2BDigest{Buffer: digest},
			Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
				CurveID: tpm2.TPMECCNistP256, Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgNull}, KDF: tpm2.TPMTKDFScheme{Scheme: tpm2.TPMAlgNull},
				Symmetric: tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull},
			}),
		}
		var key provider.Object
		b.foreign(t, func(g goTPM) {
			made, err := tpm2.Create{
				ParentHandle: tpm2.NamedHandle{Handle: b.srk.Handle, Name: tpm2.TPM2BName{Buffer: b.srk.Public.Name()}},
				InPublic:     tpm2.New2B(area),
				InSensitive:  tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: []byte("12345678")}}},
			}.Execute(g)
			if err != nil {
				t.Fatal(err)
			}
			key.Private = made.OutPrivate.Buffer
			if key.Public, err = provider.ParsePublic(made.OutPublic.Bytes()); err != nil {
				t.Fatal(err)
			}
		})
		if err := b.trySign(t.Context(), key, provider.Auth{Policy: p, Value: pin("12345678")}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A policy session waits for the next use of its kind, and for nothing else: keys of another hash or with a PIN have one of their
// own, a refusal ends it, and whoever lets go of the TPM flushes it.
func TestOnePolicySessionWaits(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	bound, withPIN := b.bound(t, currentPCRs(7)), b.bound(t, currentPCRs(7), policy.PIN{})
	plain, pinned := b.boundKey(t, bound, ""), b.boundKey(t, withPIN, "12345678")
	plainAuth, pinAuth := provider.Auth{Policy: bound}, provider.Auth{Policy: withPIN, Value: pin("12345678")}
	sign := func(key provider.Object, auth provider.Auth, sessions int) {
		t.Helper()
		if codes := b.codes(t, key, auth); count(codes, ccStart) != sessions {
			t.Errorf("it took %d new sessions, want %d: %x", count(codes, ccStart), sessions, codes)
		}
	}
	sign(plain, plainAuth, 1)
	sign(plain, plainAuth, 0)
	sign(pinned, pinAuth, 1)
	sign(pinned, pinAuth, 0)
	sign(plain, plainAuth, 1)
	if err := b.trySign(t.Context(), pinned, provider.Auth{Policy: withPIN, Value: pin("87654321")}); !errors.Is(err, provider.ErrAuth) {
		t.Errorf("a wrong PIN: %v", err)
	}
	sign(pinned, pinAuth, 1)
	b.Release()
	sign(pinned, pinAuth, 1)
	b.extend(t, 7)
	for range 3 {
		if err := b.trySign(t.Context(), pinned, pinAuth); !errors.Is(err, provider.ErrPolicy) {
			t.Errorf("after PCR 7 changed: %v", err)
		}
	}
}
