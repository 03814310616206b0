package tss2

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// MaxSize is the longest text that Decode looks at, in bytes: there is room for a policy as a policy file has it; one
// that grows much by its PCRs' values may not fit.
const MaxSize = 256 << 10

const blockType = "TSS2 PRIVATE KEY"

// Errors that callers tell apart with errors.Is.
var (
	// ErrMalformed is wrapped by every error about bytes that are not what they should be.
	ErrMalformed = errors.New("not a well-formed TPM key")
	// ErrUnsupported is wrapped by errors about well-formed keys of a kind that is not read here.
	ErrUnsupported = errors.New("this kind of TPM key is not supported")
)

// Key is what such a file holds: a loadable key or sealed data.
type Key struct {
	Object    provider.Object // Parent as in the file; Handle 0
	Sealed    bool            // OID sealed data (2.23.133.10.1.5) rather than loadable key (…1.3)
	EmptyAuth bool
	Policy    policy.Policy     // zero when the file has none
	Approved  []policy.Approved // by the policy's signer (authPolicy); of others none is written
}

// PolicyError says why a key's policy cannot be satisfied here: a policy command that is not known, alternatives
// (authPolicy) without a signer, or statements that do not give the key's policy digest. Decode returns it beside a Key that can be
// shown, but not used.
type PolicyError struct{ Reason string }

// Error is the reason.
func (e *PolicyError) Error() string { return "the key's policy cannot be used: " + e.Reason }

// Encode gives the PEM. PolicyPCR is written as the engine writes it: TPML_PCR_SELECTION then the raw digest. A parent of 0
// is written as TPM_RH_OWNER, the SRK. A policy must give the object's policy digest.
func Encode(k Key) ([]byte, error) {
	der, err := k.marshal()
	if err != nil {
		return nil, fmt.Errorf("encoding a TSS2 key: %w", err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: blockType, Bytes: der})
	if len(text) > MaxSize {
		return nil, fmt.Errorf("encoding a TSS2 key: %w: with its policies it has %d bytes, and at most %d are read", ErrUnsupported, len(text), MaxSize)
	}
	return text, nil
}

// Decode reads a PEM. PolicyPCR is read in the engine's form and in the draft's. A policy that cannot be used gives the Key,
// its Policy zero, and a *PolicyError which names the cause. Note: a PEM holds the digest of PCR values, not the values:
// those PCR nodes carry Digest only.
func Decode(text []byte) (Key, error) {
	key, err := decode(text)
	var policyError *PolicyError
	if err != nil && !errors.As(err, &policyError) {
		return Key{}, fmt.Errorf("TSS2 key: %w", err)
	}
	return key, err
}

func decode(text []byte) (Key, error) {
	if len(text) > MaxSize {
		return Key{}, fmt.Errorf("%w: %d bytes are too many", ErrMalformed, len(text))
	}
	block, rest := pem.Decode(text)
	switch {
	case block == nil:
		return Key{}, fmt.Errorf("%w: there is no PEM block", ErrMalformed)
	case block.Type != blockType:
		return Key{}, fmt.Errorf("%w: the PEM block is %q, not %q", ErrMalformed, block.Type, blockType)
	case len(block.Headers) != 0:
		return Key{}, fmt.Errorf("%w: the PEM block has headers", ErrMalformed)
	case len(bytes.TrimSpace(rest)) != 0:
		return Key{}, fmt.Errorf("%w: something follows the PEM block", ErrMalformed)
	}
	return unmarshal(block.Bytes)
}
