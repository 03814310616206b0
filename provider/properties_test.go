package provider_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/internal/faulttpm"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

func TestPropertiesOfATPM(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p, err := b.Properties(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if p.Manufacturer != "IBM" || p.Vendor == "" || p.Firmware == "" || p.Revision[:2] != "1." {
		t.Errorf("who it is: %+v", p)
	}
	if p.InLockout || p.LockoutCounter != 0 || p.MaxAuthFail == 0 || p.LockoutInterval == 0 || p.LockoutRecovery == 0 {
		t.Errorf("lockout: %+v", p)
	}
	if p.OwnerAuthSet || p.LockoutAuthSet || p.PersistentAvailable == 0 {
		t.Errorf("state: %+v", p)
	}
}

func TestSupportedKeyTypes(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for k, want := range map[provider.KeyType]bool{provider.RSA2048: true, provider.P256: true, provider.P384: true, provider.P521: true, provider.RSA4096: false} {
		if got, err := b.Supports(t.Context(), k); err != nil || got != want {
			t.Errorf("%s: %v, %v", k, got, err)
		}
	}
	b.wire.Inject(at(tpm2.TPMCCTestParms, 1, faulttpm.Answer(0x1E6))) // TPM_RC_CURVE
	if got, err := b.Supports(t.Context(), provider.P521); err != nil || got {
		t.Errorf("P-521 with a TPM that lacks it: %v, %v", got, err)
	}
	if _, err := b.Supports(t.Context(), "dsa"); !errors.Is(err, provider.ErrUnsupported) {
		t.Errorf("an unknown key type: %v", err)
	}
	for text, want := range map[string]provider.KeyType{"rsa": provider.RSA2048, "EC": provider.P256, "p384": provider.P384, "rsa3072": provider.RSA3072} {
		if got, err := provider.ParseKeyType(text); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	if _, err := provider.ParseKeyType("rsa1024"); !errors.Is(err, provider.ErrUnsupported) {
		t.Errorf("rsa1024: %v", err)
	}
	for _, k := range provider.KeyTypes() {
		if got, err := provider.ParseKeyType(string(k)); err != nil || got != k {
			t.Errorf("%s: %v, %v", k, got, err)
		}
	}
}

func TestUsesAreRead(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]provider.Use{
		"sign": {Sign: true}, "decrypt": {Decrypt: true}, "sign,decrypt": {Sign: true, Decrypt: true}, "decrypt, sign": {Sign: true, Decrypt: true},
	} {
		if got, err := provider.ParseUse(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "verify", "sign,", "sign;decrypt", "sign,verify"} {
		if got, err := provider.ParseUse(text); err == nil || got != (provider.Use{}) {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

func TestRandomInChunks(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for n, commands := range map[int]int{0: 0, 1: 1, 32: 1, 33: 2, 1000: 32} {
		b.wire.Reset()
		got, err := b.Random(t.Context(), n)
		if err != nil || len(got) != n || b.wire.Count(tpm2.TPMCCGetRandom) != commands {
			t.Errorf("%d bytes: got %d with %d commands, %v", n, len(got), b.wire.Count(tpm2.TPMCCGetRandom), err)
		}
		if n > 100 && bytes.Equal(got[:32], got[32:64]) {
			t.Error("the same chunk twice")
		}
	}
	if _, err := b.Random(t.Context(), -1); err == nil {
		t.Error("a negative count was taken")
	}
}
