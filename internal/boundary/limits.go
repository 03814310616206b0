package boundary

import "github.com/tpm2-p11/tpm2-p11/internal/wire"

const (
	// PartSize is the most bytes of a long buffer that go into one call.
	PartSize = wire.MaxMessage / 2
	// MaxFound is the most handles that one C_FindObjects asks for: what fits into a response.
	MaxFound = (wire.MaxMessage - 16) / 8
)
