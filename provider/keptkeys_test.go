package provider_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"math/big"
	"slices"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/internal/faulttpm"
	"github.com/tpm2-p11/tpm2-p11/provider"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
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

// A TPM that is reset while its connection stays, as by a machine's hibernation, gives the handle of a key that was loaded to the next
// one: a signature of the first key is never the second one's.
func TestAResetTPMGivesAKeptKeysHandleToAnother(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	one, two := b.key(t, signKey, ""), b.key(t, signKey, "")
	b.Release()
	address, err := transport.Parse(b.machine.Address())
	if err != nil {
		t.Fatal(err)
	}
	wire := &sharedWire{Dialer: address}
	tpm := provider.New(wire)
	defer tpm.Close()
	tpm.UseSRK(b.srk)
	signs := func(key provider.Object) {
		t.Helper()
		digest := sha256.Sum256([]byte("a message"))
		signature, err := tpm.Sign(t.Context(), key, provider.Auth{}, provider.ECDSA, crypto.SHA256, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		public, err := key.Public.Key()
		if err != nil {
			t.Fatal(err)
		}
		r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
		if !ecdsa.Verify(public.(*ecdsa.PublicKey), digest[:], r, s) {
			t.Error("the signature is another key's")
		}
	}
	signs(one)
	for h := tpm2.TPMHandle(0x80000000); h < 0x80000003; h++ { // as a reset does, whichever has the key
		_, _ = tpm2.FlushContext{FlushHandle: h}.Execute(goTPM{wire.conn})
	}
	signs(two)
	signs(one)
}

// sharedWire gives its connection to the test too.
type sharedWire struct {
	transport.Dialer
	conn transport.Conn
}

func (w *sharedWire) Dial(ctx context.Context) (conn transport.Conn, err error) {
	w.conn, err = w.Dialer.Dial(ctx)
	return w.conn, err
}
