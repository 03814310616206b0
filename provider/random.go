package provider

import (
	"context"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// randomChunk is what every TPM gives at once: its answer holds a digest of its largest hash at most.
const randomChunk = 32

// Random draws n bytes from the TPM's generator (TPM2_GetRandom, TPM 2.0 Part 3, section 16.1). They travel in the clear:
// who makes keys of them mixes them with the system's own.
func (t *TPM) Random(ctx context.Context, n int) ([]byte, error) {
	if n < 0 {
		return nil, fmt.Errorf("random bytes: %w: %d of them", ErrUnsupported, n)
	}
	b := make([]byte, 0, n)
	err := t.do(ctx, func(ctx context.Context, c *connection) error {
		for len(b) < n {
			want := min(n-len(b), randomChunk)
			r, err := c.run(ctx, command{code: tpm2.TPMCCGetRandom, params: put16(nil, uint16(want))})
			if err != nil {
				return err
			}
			got := r.sized()
			if r.err == nil && (len(got) == 0 || len(got) > want) {
				r.fail("TPM2_GetRandom: %d bytes for %d", len(got), want)
			}
			if err := r.end(); err != nil {
				return err
			}
			b = append(b, got...)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("random bytes: %w", err)
	}
	return b, nil
}
