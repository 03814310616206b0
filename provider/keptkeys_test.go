package provider_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/internal/faulttpm"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// A wrapped key is loaded once and costs then what a persistent one does. Two stay loaded, until the TPM is let go.
func TestAWrappedKeyStaysLoaded(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	const load = tpm2.TPMCCLoad
	one, two, three := b.key(t, signKey, ""), b.key(t, signKey, ""), b.key(t, signKey, "")
	persistent := b.persisted(t, b.key(t, signKey, ""))
	b.Release()
	for i, c := range []struct {
		key  provider.Object
		want []tpm2.TPMCC
	}{
		{one, []tpm2.TPMCC{ccReadPublic, load, ccSign}}, // the SRK's Name is checked
		{one, []tpm2.TPMCC{ccSign}},
		{two, []tpm2.TPMCC{load, ccSign}},
		{one, []tpm2.TPMCC{ccSign}},
		{persistent, []tpm2.TPMCC{ccReadPublic, ccSign}},
		{three, []tpm2.TPMCC{ccFlush, load, ccSign}}, // of the second, which was used longest ago
		{one, []tpm2.TPMCC{ccSign}},
		{two, []tpm2.TPMCC{ccFlush, load, ccSign}},
	} {
		if got := b.codes(t, c.key, provider.Auth{}); !slices.Equal(got, c.want) {
			t.Errorf("signature %d took the commands %x, want %x", i+1, got, c.want)
		}
	}
	b.Release()
	if n := b.machine.Count(t).Transient; n != 0 {
		t.Errorf("%d objects are left", n)
	}
}

// Keys that stay loaded make room for whatever else the TPM is to hold.
func TestKeptKeysMakeRoom(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	one, two := b.key(t, signKey, ""), b.key(t, signKey, "")
	for _, code := range []tpm2.TPMCC{tpm2.TPMCCCreate, tpm2.TPMCCLoad} {
		b.codes(t, one, provider.Auth{})
		b.codes(t, two, provider.Auth{})
		b.wire.Reset()
		b.wire.Inject(at(code, 1, faulttpm.Answer(0x902)))
		three, err := b.CreateKey(t.Context(), signKey, pin("a secret that travels encrypted"))
		if err == nil {
			err = b.Load(t.Context(), three)
		}
		if err != nil {
			t.Errorf("no room at command %x: %v", code, err)
		}
		if n := b.wire.Count(ccFlush); n < 1 {
			t.Errorf("%d objects made room: %x", n, b.wire.Codes())
		}
		b.wire.Inject(at(code, -1, faulttpm.Answer(0x902)))
		if _, err = b.CreateKey(t.Context(), signKey, nil); err == nil {
			err = b.Load(t.Context(), one)
		}
		if !errors.Is(err, provider.ErrNoMemory) {
			t.Errorf("never any room at command %x: %v", code, err)
		}
		b.wire.Inject(nil)
	}
}

// What stays loaded is the key as it was: with another authValue it is another one.
func TestAKeptKeyIsNotTheOneWithANewPIN(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	key := b.key(t, signKey, "12345678")
	b.codes(t, key, provider.Auth{Value: pin("12345678")})
	changed, err := b.ChangeAuth(t.Context(), key, provider.Auth{Value: pin("12345678")}, pin("87654321"))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.trySign(t.Context(), changed, provider.Auth{Value: pin("12345678")}); !errors.Is(err, provider.ErrAuth) {
		t.Errorf("the old PIN: %v", err)
	}
	if err := b.trySign(t.Context(), changed, provider.Auth{Value: pin("87654321")}); err != nil {
		t.Errorf("the new PIN: %v", err)
	}
}
