package provider

import (
	"context"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// randomChunk is what every TPM gives at once: its answer holds a digest of its largest hash at most.
const randomChunk = 32

// Random draws n bytes from the TPM's generator (TPM2_GetRandom, TPM 2.0 Part 3, section 16.1). They travel in the clear:
// who makes keys of them mixes them with the system's own. Each command waits for its turn, so that many bytes hold nobody up.
func (t *TPM) Random(ctx context.Context, n int) ([]byte, error) {
	if n < 0 {
		return nil, fmt.Errorf("random bytes: %w: %d of them", ErrUnsupported, n)
	}
	b := make([]byte, 0, n)
	for len(b) < n {
		err := t.do(ctx, func(ctx context.Context, c *connection) error {
			got, err := c.getRandom(ctx, min(n-len(b), randomChunk))
			b = append(b, got...)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("random bytes: %w", err)
		}
	}
	return b, nil
}

func (c *connection) getRandom(ctx context.Context, n int) ([]byte, error) {
	r, err := c.run(ctx, command{code: tpm2.TPMCCGetRandom, params: put16(nil, uint16(n))})
	if err != nil {
		return nil, err
	}
	b := r.sized()
	if r.err == nil && (len(b) == 0 || len(b) > n) {
		r.fail("TPM2_GetRandom: %d bytes for %d", len(b), n)
	}
	if err := r.end(); err != nil {
		return nil, err
	}
	return b, nil
}
