package provider_test

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// setClock sets the TPM's clock forward by TPM2_ClockSet, as the owner may.
func (b *bench) setClock(t *testing.T, to uint64) {
	t.Helper()
	cmd := []byte{0x80, 0x02, 0, 0, 0, 35, 0, 0, 0x01, 0x28, 0x40, 0, 0, 1, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0}
	b.foreign(t, func(g goTPM) {
		answer, err := g.Send(binary.BigEndian.AppendUint64(cmd, to))
		if err != nil || binary.BigEndian.Uint32(answer[6:]) != 0 {
			t.Fatalf("TPM2_ClockSet: %x, %v", answer, err)
		}
	})
}

func (b *bench) clock(t *testing.T) policy.ClockInfo {
	t.Helper()
	now, err := b.PolicyState(t.Context()).Clock()
	if err != nil {
		t.Fatal(err)
	}
	return now
}

// A data key cached under `all = [pcr, clock]` opens until its term is over.
func TestSealedDataThatExpires(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	p := b.bound(t, currentPCRs(7), policy.Clock{Within: 24 * time.Hour})
	sealed, err := b.Seal(t.Context(), pin("a data key"), provider.Template{AuthPolicy: digestOf(t, p)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	auth := provider.Auth{Policy: p, Label: "cache"}
	b.wire.Reset()
	data, err := b.Unseal(t.Context(), sealed, auth)
	if err != nil || string(data.Bytes()) != "a data key" {
		t.Fatalf("before the end: %v", err)
	}
	if n := b.wire.Count(tpm2.TPMCCReadClock) + b.wire.Count(tpm2.TPMCCPCRRead); n != 0 {
		t.Errorf("%d commands read what the TPM compares itself", n)
	}
	b.setClock(t, b.clock(t).Clock+uint64((24*time.Hour).Milliseconds()))
	_, err = b.Unseal(t.Context(), sealed, auth)
	var unmet *policy.UnsatisfiedError
	if !errors.Is(err, provider.ErrPolicy) || !errors.As(err, &unmet) {
		t.Fatalf("after the end: %v", err)
	}
	if _, ok := unmet.Node.(policy.Clock); !ok || !strings.HasPrefix(err.Error(), `unseal refused by policy "cache": the TPM's clock is at `) {
		t.Errorf("the error does not name the clock: %v", err)
	}
}

// A key for this boot alone: a restart of the TPM ends it, however little time went by.
func TestAKeyOfOneBoot(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	p := b.bound(t, policy.Clock{Within: time.Hour, ThisBoot: true})
	key := b.boundKey(t, p, "")
	if err := b.trySign(t.Context(), key, provider.Auth{Policy: p}); err != nil {
		t.Fatal(err)
	}
	b.Release()
	b.machine.Restart(t)
	err := b.trySign(t.Context(), key, provider.Auth{Policy: p, Label: "web"})
	if !errors.Is(err, provider.ErrPolicy) || !strings.Contains(err.Error(), `policy "web": this is boot `) {
		t.Errorf("after a restart: %v", err)
	}
}

// Nobody gets past the clock by leaving it out, nor by another end.
func TestAClockCannotBeLeftOut(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	p := b.bound(t, policy.Clock{Before: 1})
	key := b.boundKey(t, p, "")
	for name, auth := range map[string]provider.Auth{
		"its policy":    {Policy: p},
		"no policy":     {},
		"a later end":   {Policy: b.bound(t, policy.Clock{Before: 1 << 40})},
		"another right": {Policy: policy.Policy{Root: policy.PIN{}}},
	} {
		if err := b.trySign(t.Context(), key, auth); !errors.Is(err, provider.ErrPolicy) && !errors.Is(err, provider.ErrAuth) {
			t.Errorf("with %s: %v", name, err)
		}
	}
}
