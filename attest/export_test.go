package attest

import (
	"time"

	"github.com/tpm2-p11/tpm2-p11/provider"
)

// SetClock gives a verifier another clock.
func (v *Verifier) SetClock(now func() time.Time) { v.now = now }

// MaxUsed is how many answered challenges a verifier remembers.
const MaxUsed = maxUsed

// FillUsed makes a verifier remember that many answered challenges, until a time.
func (v *Verifier) FillUsed(n int, until time.Time) {
	for i := range n {
		v.used[[challengeRandom]byte{byte(i), byte(i >> 8), byte(i >> 16)}] = until
	}
}

// Remembered is how many answered challenges a verifier remembers.
func (v *Verifier) Remembered() int { return len(v.used) }

// AuditDigest is what a TPM states that read a key's public area in an audit session.
func AuditDigest(key provider.Public, qualified provider.Name) []byte {
	return auditDigest(key, qualified)
}
