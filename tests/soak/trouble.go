package main

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/internal/faulttpm"
)

// trouble is what befalls the TPM's commands, at random.
type trouble struct {
	mu     sync.Mutex
	random *rand.Rand
	rate   float64
	faults []faulttpm.Fault
	spoils int // so many of them, in front, change an answer's bytes
	count  atomic.Int64
}

// codes are what a TPM that is busy, full, reset or in the middle of something answers (TPM 2.0 Part 2, section 6.6).
var codes = []uint32{
	0x101, // TPM_RC_FAILURE
	0x100, // TPM_RC_INITIALIZE
	0x128, // TPM_RC_PCR_CHANGED
	0x902, // TPM_RC_OBJECT_MEMORY
	0x903, // TPM_RC_SESSION_MEMORY
	0x905, // TPM_RC_SESSION_HANDLES
	0x908, // TPM_RC_YIELDED
	0x909, // TPM_RC_CANCELED
	0x90A, // TPM_RC_TESTING
	0x910, // TPM_RC_REFERENCE_H0
	0x918, // TPM_RC_REFERENCE_S0
	0x920, // TPM_RC_NV_RATE
	0x922, // TPM_RC_RETRY
}

func newTrouble(rate float64, seed uint64) *trouble {
	t := &trouble{random: rand.New(rand.NewPCG(seed, seed)), rate: rate}
	t.faults = []faulttpm.Fault{faulttpm.Random(seed), faulttpm.Spoil(t.flip), faulttpm.Spoil(t.flip), faulttpm.Spoil(t.flip)}
	t.spoils = len(t.faults)
	t.faults = append(t.faults, faulttpm.Drop, faulttpm.Lose, faulttpm.Delay(100*time.Millisecond), faulttpm.Shorten(12), faulttpm.Shorten(40),
		faulttpm.Oversize(8, false), faulttpm.Oversize(8, true), faulttpm.Oversize(5000, true))
	for _, rc := range codes {
		t.faults = append(t.faults, faulttpm.Answer(rc))
	}
	return t
}

// flip inverts a bit somewhere behind the header.
func (t *trouble) flip(response []byte) []byte {
	if n := len(response) - 10; n > 0 {
		t.mu.Lock()
		defer t.mu.Unlock()
		response[10+t.random.IntN(n)] ^= 1 << t.random.IntN(8)
	}
	return response
}

// fault is a fault, or none, for one command. What TPM2_StartAuthSession answers is not spoilt: nothing authenticates it, and a TPM that is
// told another nonce than it gave calls the PIN wrong, as it would if it were.
func (t *trouble) fault(ctx context.Context, command []byte, send func() ([]byte, error)) ([]byte, error) {
	t.mu.Lock()
	var f faulttpm.Fault
	if t.random.Float64() < t.rate {
		faults := t.faults
		if faulttpm.Code(command) == tpm2.TPMCCStartAuthSession {
			faults = faults[t.spoils:]
		}
		f = faults[t.random.IntN(len(faults))]
	}
	t.mu.Unlock()
	if f == nil {
		return send()
	}
	t.count.Add(1)
	return f(ctx, command, send)
}
