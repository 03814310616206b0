package attest

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sync"
	"time"
)

// DefaultLifetime is how long a Verifier's challenge can be answered.
const DefaultLifetime = time.Minute

// maxUsed bounds how many answered challenges a Verifier remembers.
const maxUsed = 1 << 16

// Verifier demands documents that were made for it: each answers a challenge
// of its own, in time, and once. Safe for concurrent use.
//
// A challenge carries its expiry and a MAC over it, so that nothing is
// remembered about those that nobody answered: asking for challenges costs a
// server no memory. Only what a good document has answered is remembered, until
// it expires.
type Verifier struct {
	policy   Policy
	lifetime time.Duration
	now      func() time.Time
	key      [sha256.Size]byte

	mu   sync.Mutex
	used map[[challengeRandom]byte]time.Time // until when
}

// NewVerifier demands what p asks for; its Nonce and Now are not used.
// Challenges expire after lifetime, 0 for DefaultLifetime. Other processes do
// not know its challenges.
func NewVerifier(p Policy, lifetime time.Duration) *Verifier {
	if lifetime == 0 {
		lifetime = DefaultLifetime
	}
	v := &Verifier{policy: p, lifetime: lifetime, now: time.Now, used: make(map[[challengeRandom]byte]time.Time)}
	rand.Read(v.key[:])
	return v
}

// A challenge is its expiry (Unix time in milliseconds, 8 bytes), random bytes
// that make it unique, and the MAC of both.
const (
	challengeTime   = 8
	challengeRandom = 16
	challengeSize   = challengeTime + challengeRandom + sha256.Size
)

// Challenge gives a nonce for a peer's document, 56 bytes.
func (v *Verifier) Challenge() []byte {
	c := make([]byte, challengeTime+challengeRandom, challengeSize)
	binary.BigEndian.PutUint64(c, uint64(v.now().Add(v.lifetime).UnixMilli()))
	rand.Read(c[challengeTime:])
	return v.mac(c)
}

// Verify is the function of that name under the verifier's policy, for a
// document whose nonce is one of the verifier's challenges. One that is
// unknown, expired or answered before is ErrNonce. publicKey, if it is not nil,
// must be the document's: for a peer in TLS, whose key the document is to
// vouch for, the RawSubjectPublicKeyInfo of its certificate. An empty one is
// nobody's key, and refused.
func (v *Verifier) Verify(document, publicKey []byte) (*Claims, error) {
	if publicKey != nil && len(publicKey) == 0 {
		return nil, fmt.Errorf("%w: the peer's is empty", ErrPublicKey)
	}
	claims, err := Parse(document)
	if err != nil {
		return nil, err
	}
	p := v.policy
	p.Now, p.Nonce = v.now(), claims.Nonce
	if publicKey != nil {
		p.PublicKey = publicKey
	}
	expiry, err := v.expiry(claims.Nonce)
	if err != nil {
		return nil, err
	}
	if !p.Now.Before(expiry) {
		return nil, fmt.Errorf("%w: the challenge has expired", ErrNonce)
	}
	if claims, err = Verify(document, p); err != nil {
		return nil, err
	}
	if err := v.use([challengeRandom]byte(claims.Nonce[challengeTime:]), expiry, p.Now); err != nil {
		return nil, err
	}
	return claims, nil
}

// mac appends the MAC of b to it.
func (v *Verifier) mac(b []byte) []byte {
	m := hmac.New(sha256.New, v.key[:])
	m.Write(b)
	return m.Sum(b)
}

// expiry is when a challenge of this verifier expires.
func (v *Verifier) expiry(challenge []byte) (time.Time, error) {
	if len(challenge) != challengeSize || !hmac.Equal(v.mac(challenge[:challengeTime+challengeRandom:challengeTime+challengeRandom]), challenge) {
		return time.Time{}, fmt.Errorf("%w: it is no challenge of this verifier", ErrNonce)
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(challenge))), nil
}

// use marks a challenge as answered.
func (v *Verifier) use(id [challengeRandom]byte, expiry, now time.Time) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, before := v.used[id]; before {
		return fmt.Errorf("%w: the challenge was answered before", ErrNonce)
	}
	if len(v.used) >= maxUsed {
		for id, until := range v.used {
			if !now.Before(until) {
				delete(v.used, id)
			}
		}
		if len(v.used) >= maxUsed {
			return fmt.Errorf("%w: %d challenges were answered within %v", ErrNonce, maxUsed, v.lifetime)
		}
	}
	v.used[id] = expiry
	return nil
}
