package provider_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

func TestAllPCRsOfABankAreRead(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.machine.Extend(t, "sha256", 7, []byte("event"))
	var all []uint
	for i := range uint(24) {
		all = append(all, i)
	}
	values, err := b.ReadPCRs(t.Context(), tpm2.TPMAlgSHA256, all)
	if err != nil || len(values) != 24 {
		t.Fatalf("%d values, %v", len(values), err)
	}
	for i, v := range values {
		zero := strings.Trim(string(v), "\x00") == ""
		if len(v) != 32 || (i == 7 || i >= 17 && i <= 22) == zero {
			t.Errorf("PCR %d is %x", i, v)
		}
	}
	banks, err := b.Banks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, bank := range banks {
		if len(bank.PCRs) != 24 {
			t.Errorf("bank %x has the PCRs %d", bank.Hash, bank.PCRs)
		}
		if _, err := b.ReadPCRs(t.Context(), bank.Hash, []uint{0, 23}); err != nil {
			t.Error(err)
		}
	}
	if none, err := b.ReadPCRs(t.Context(), tpm2.TPMAlgSHA256, nil); err != nil || len(none) != 0 {
		t.Errorf("no PCRs: %v, %v", none, err)
	}
}

func TestPCRsThatAreNotThere(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, bank := range []tpm2.TPMIAlgHash{tpm2.TPMAlgSHA3256, 0x1234} {
		_, err := b.ReadPCRs(t.Context(), bank, []uint{7})
		if !errors.Is(err, provider.ErrUnsupported) || !strings.Contains(err.Error(), "active are") || !strings.Contains(err.Error(), "sha256") {
			t.Errorf("bank %x: %v", bank, err)
		}
	}
	if _, err := b.ReadPCRs(t.Context(), tpm2.TPMAlgSHA256, []uint{24}); !errors.Is(err, provider.ErrUnsupported) {
		t.Errorf("PCR 24: %v", err)
	}
}

func TestPCRsAreReadFromOneUpdateCounter(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	reads := 0
	b.wire.Inject(func(_ context.Context, cmd []byte, send func() ([]byte, error)) ([]byte, error) {
		if reads++; reads == 2 {
			if _, err := b.wire.Aside(extendPCR10); err != nil {
				t.Error(err)
			}
		}
		return send()
	})
	values, err := b.ReadPCRs(t.Context(), tpm2.TPMAlgSHA256, []uint{10, 0, 1, 2, 3, 4, 5, 6, 7, 8})
	if err != nil || strings.Trim(string(values[10]), "\x00") == "" {
		t.Errorf("PCR 10 is of before the change: %x, %v", values[10], err)
	}
	b.wire.Inject(func(_ context.Context, cmd []byte, send func() ([]byte, error)) ([]byte, error) {
		if _, err := b.wire.Aside(extendPCR10); err != nil {
			t.Error(err)
		}
		return send()
	})
	if _, err := b.ReadPCRs(t.Context(), tpm2.TPMAlgSHA256, []uint{10, 0, 1, 2, 3, 4, 5, 6, 7, 8}); !errors.Is(err, provider.ErrBusy) {
		t.Errorf("PCRs that change all the time: %v", err)
	}
	if n := b.wire.Count(tpm2.TPMCCPCRRead); n > 64 {
		t.Errorf("%d reads", n)
	}
}
