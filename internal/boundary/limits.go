package boundary

import "github.com/tpm2-p11/tpm2-p11/internal/wire"

const (
	// PartSize is the most bytes of a long buffer that go into one call.
	PartSize = wire.MaxMessage / 2
	// MaxFound is the most handles that one C_FindObjects asks for: what fits into a response.
	MaxFound = (wire.MaxMessage - 16) / 8

	// Resume is the number of a request that is no function of Cryptoki's. After a connection was lost it initialises the other side of
	// a new one, and opens there the sessions that the application has: InitializeArgs, u64 count, each u64 handle, u64 slot, u64 flags.
	Resume = 1 << 31

	// Refused is another such number. It tells of a call that the C side answered itself, since it had no place in a message or a pointer
	// was NULL: the operation that the call was a step of is over, as after every failed call. u32 number of the function, u64 session.
	Refused = 1<<31 + 1
)
