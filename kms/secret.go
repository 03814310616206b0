package kms

import (
	"crypto/aes"
	"crypto/cipher"
	"fmt"
	"log/slog"
	"runtime"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
)

// Secret is a plaintext in locked memory that is wiped, at the latest when the
// garbage collector finds it forgotten. It never prints. Reading is safe for
// concurrent use; Wipe must not run while another goroutine reads.
type Secret struct {
	value  *secret.Bytes
	reason error // see Offline
}

// Offline is why KMS could not be asked, of a secret that is a copy kept in this
// machine (see type Offline); nil for one that KMS gave.
func (s *Secret) Offline() error { return s.reason }

// Bytes gives the secret itself: valid until Wipe and as long as the Secret is
// kept, not to be appended to. Copies of it are the caller's to wipe.
func (s *Secret) Bytes() []byte { return s.value.Bytes() }

// Len is the length in bytes; 0 after Wipe.
func (s *Secret) Len() int { return s.value.Len() }

// Wipe overwrites the secret. It may be called more than once.
func (s *Secret) Wipe() { s.value.Wipe() }

// Take gives the locked memory itself away: the Secret is empty afterwards.
func (s *Secret) Take() *secret.Bytes {
	value := s.value
	s.value = secret.New(0)
	return value
}

// Clone gives an independent copy.
func (s *Secret) Clone() *Secret { return &Secret{s.value.Clone(), s.reason} }

// AEAD is AES-256-GCM under a secret of 32 bytes, with nonces of 12 bytes that
// must never come twice. It keeps the expanded key in memory of its own, which
// Wipe does not reach.
func (s *Secret) AEAD() (cipher.AEAD, error) {
	defer runtime.KeepAlive(s)
	if n := s.Len(); n != dataKeySize {
		return nil, fmt.Errorf("%w: AES-256 takes a key of %d bytes, not %d", ErrInput, dataKeySize, n)
	}
	block, err := aes.NewCipher(s.Bytes())
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// Format writes "***" for every verb.
func (s *Secret) Format(f fmt.State, verb rune) { s.value.Format(f, verb) }

// String is "***".
func (s *Secret) String() string { return s.value.String() }

// GoString is "***".
func (s *Secret) GoString() string { return s.value.GoString() }

// MarshalText is "***".
func (s *Secret) MarshalText() ([]byte, error) { return s.value.MarshalText() }

// LogValue is "***".
func (s *Secret) LogValue() slog.Value { return s.value.LogValue() }
