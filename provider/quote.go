package provider

import (
	"bytes"
	"context"
	"crypto"
	"fmt"
	"maps"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// statePCRs quotes PCRs together with their values, again while they change in between.
func (c *connection) statePCRs(ctx context.Context, ak *loadedKey, nonce []byte, banks []Bank, e *Evidence) error {
	if len(banks) == 0 {
		return nil
	}
	for range maxPCRReads {
		var values []PCRValues
		for _, b := range banks {
			v, err := c.readPCRs(ctx, b.Hash, b.PCRs)
			if err != nil {
				return err
			}
			values = append(values, PCRValues{b.Hash, v})
		}
		quote, digest, err := c.quote(ctx, ak, nonce, banks)
		if err != nil {
			return err
		}
		if bytes.Equal(digest, PCRDigest(values)) {
			e.Quote, e.PCRs = quote, values
			return nil
		}
	}
	return fmt.Errorf("quote: %w: %w: PCRs do not come to rest", ErrBusy, errPCRMoved)
}

// PCRDigest is the digest that a quote with SHA-256 states of PCR values, bank after bank, PCRs ascending.
func PCRDigest(banks []PCRValues) []byte {
	h := crypto.SHA256.New()
	for _, b := range banks {
		for _, i := range slices.Sorted(maps.Keys(b.Values)) {
			h.Write(b.Values[i])
		}
	}
	return h.Sum(nil)
}

// quote is TPM2_Quote (Part 3, section 18.4). It also gives the digest of PCR values that it states.
func (c *connection) quote(ctx context.Context, ak *loadedKey, nonce []byte, banks []Bank) (Statement, []byte, error) {
	p := append(put2B(nil, nonce), nullScheme...)
	p = put32(p, uint32(len(banks)))
	for _, b := range banks {
		p = putSelection(p, b.Hash, b.PCRs)
	}
	r, err := c.run(ctx, command{
		code:   tpm2.TPMCCQuote,
		in:     []entity{ak.entity()},
		auths:  []authorization{{}},
		params: p,
	})
	if err != nil {
		return Statement{}, nil, err
	}
	s, err := r.statement()
	if err != nil {
		return Statement{}, nil, err
	}
	attest, err := Unmarshal[tpm2.TPMSAttest](s.Attest)
	if err != nil {
		return Statement{}, nil, fmt.Errorf("TPM2_Quote: %w", err)
	}
	info, err := attest.Attested.Quote()
	if err != nil {
		return Statement{}, nil, fmt.Errorf("%w: TPM2_Quote: %w", ErrMalformed, err)
	}
	return s, info.PCRDigest.Buffer, nil
}
