package transport

import (
	"encoding/binary"
	"time"
)

// DialTimeout is how long a client waits for its turn when its context has no
// deadline.
const DialTimeout = 10 * time.Second

// CommandTimeout is how long Transmit waits for a command's response when its
// context has no deadline: 5 minutes for those that may have to find RSA primes
// (TPM2_Create, TPM2_CreatePrimary, TPM2_CreateLoaded), which takes some TPMs
// minutes, and 1 minute for all others.
func CommandTimeout(command []byte) time.Duration {
	const (
		ccCreatePrimary = 0x00000131 // TPM 2.0 Part 2, TPM_CC
		ccCreate        = 0x00000153
		ccCreateLoaded  = 0x00000191
	)
	if len(command) >= headerSize {
		switch binary.BigEndian.Uint32(command[6:]) {
		case ccCreate, ccCreatePrimary, ccCreateLoaded:
			return 5 * time.Minute
		}
	}
	return time.Minute
}
