package provider_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/internal/faulttpm"
	"github.com/tpm2-p11/tpm2-p11/provider"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

// A command that somebody interrupts while the TPM looks for primes leaves no session behind when its process ends.
func TestAnInterruptedRSAKeyLeavesNothing(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	b.wire.Inject(at(tpm2.TPMCCCreate, 1, func(_ context.Context, _ []byte, send func() ([]byte, error)) ([]byte, error) {
		cancel()
		return send()
	}))
	if _, err := b.CreateKey(ctx, provider.Template{Type: provider.RSA2048, Use: provider.Use{Sign: true}}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if c := b.machine.Count(t); c.Sessions != 0 || c.Transient != 0 {
		t.Errorf("left in the TPM: %+v", c)
	}
}

// An emulator answers nobody else before the interrupted command is done.
func TestWhatAnInterruptedCommandLeftIsFlushedByATPMThatIsBusyForLong(t *testing.T) {
	t.Parallel()
	const session = 0x02000000
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	srk, err := provider.ImportedPublic(&key.PublicKey, provider.Template{Use: provider.Use{Derive: true}})
	if err != nil {
		t.Fatal(err)
	}
	for busyFor, want := range map[time.Duration]int{6 * time.Second: 0, time.Minute: 1} {
		synctest.Test(t, func(t *testing.T) {
			loaded := 0
			var busyUntil time.Time
			s := &script{answer: func(ctx context.Context, cmd []byte) ([]byte, error) {
				select { // another command's turn
				case <-ctx.Done():
					return nil, fmt.Errorf("%w: %w", transport.ErrBusy, ctx.Err())
				case <-time.After(time.Until(busyUntil)):
				}
				switch faulttpm.Code(cmd) {
				case tpm2.TPMCCReadPublic:
					return publicAnswer(srk), nil
				case tpm2.TPMCCStartAuthSession:
					loaded++
					return append([]byte{0x80, 0x01, 0, 0, 0, 48, 0, 0, 0, 0, session >> 24, 0, 0, 0, 0, 32}, make([]byte, 32)...), nil
				case tpm2.TPMCCFlushContext:
					loaded--
					return faulttpm.ResponseCode(0), nil
				}
				<-ctx.Done()
				busyUntil = time.Now().Add(busyFor)
				return nil, ctx.Err()
			}}
			tpm := provider.New(s)
			tpm.UseSRK(provider.SRK{Handle: 0x81000001, Public: srk})
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := tpm.CreateKey(ctx, signKey, nil); err == nil || loaded != 1 {
				t.Fatalf("the command was not cut off: %v, %d sessions", err, loaded)
			}
			start := time.Now()
			_ = tpm.Close()
			if took := time.Since(start); loaded != want || took > 11*time.Second {
				t.Errorf("a TPM that is busy for %v: %d sessions stay loaded, closing took %v", busyFor, loaded, took)
			}
		})
	}
}

// publicAnswer is a TPM's answer to TPM2_ReadPublic.
func publicAnswer(p provider.Public) []byte {
	b := make([]byte, 10)
	for _, field := range [][]byte{p.Marshal(), p.Name(), p.Name()} {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(field))), field...)
	}
	binary.BigEndian.PutUint16(b, 0x8001)
	binary.BigEndian.PutUint32(b[2:], uint32(len(b)))
	return b
}
