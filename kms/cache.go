package kms

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"maps"
	"slices"
	"sync"
	"time"
)

// maxCached bounds a cache. Beyond it nothing more is kept.
const maxCached = 256

// cache keeps plaintexts for a time, and wipes each when its time is over.
type cache struct {
	keep time.Duration

	mu      sync.Mutex
	entries map[[sha256.Size]byte]*Secret
	timers  map[[sha256.Size]byte]*time.Timer
	closed  bool
}

func newCache(keep time.Duration) *cache {
	return &cache{
		keep:    keep,
		entries: make(map[[sha256.Size]byte]*Secret),
		timers:  make(map[[sha256.Size]byte]*time.Timer),
	}
}

// cacheKey is a hash of a ciphertext and its encryption context.
func cacheKey(ciphertext []byte, encryptionContext map[string]string) (key [sha256.Size]byte) {
	h := sha256.New()
	writeField(h, ciphertext)
	for _, name := range slices.Sorted(maps.Keys(encryptionContext)) {
		writeField(h, []byte(name))
		writeField(h, []byte(encryptionContext[name]))
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func writeField(h hash.Hash, b []byte) {
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(b))))
	h.Write(b)
}

// get gives a copy of what is kept, or asks and keeps KMS's answer. Failures are not kept, nor are copies that were opened because KMS
// was out of reach: each use of those is the TPM's to allow.
func (c *cache) get(key [sha256.Size]byte, ask func() (*Secret, error)) (*Secret, error) {
	c.mu.Lock()
	kept, closed := c.entries[key], c.closed
	if kept != nil {
		kept = kept.Clone()
	}
	c.mu.Unlock()
	switch {
	case closed:
		return nil, ErrClosed
	case kept != nil:
		return kept, nil
	}
	answer, err := ask()
	if err == nil && answer.reason == nil {
		c.put(key, answer.Clone())
	}
	return answer, err
}

func (c *cache) put(key [sha256.Size]byte, s *Secret) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.entries[key] != nil || len(c.entries) >= maxCached {
		s.Wipe()
		return
	}
	c.entries[key] = s
	c.timers[key] = time.AfterFunc(c.keep, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.drop(key)
	})
}

func (c *cache) drop(key [sha256.Size]byte) {
	if s := c.entries[key]; s != nil {
		s.Wipe()
	}
	delete(c.entries, key)
	delete(c.timers, key)
}

func (c *cache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for key, timer := range c.timers {
		timer.Stop()
		c.drop(key)
	}
}
