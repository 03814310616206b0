package kms

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
)

// source counts how often a secret is asked for.
type source struct{ asked int }

func (s *source) ask() (*Secret, error) {
	s.asked++
	return &Secret{value: secret.From([]byte("secret"))}, nil
}

// kept is what a cache has, not a copy.
func (c *cache) kept(key [32]byte) *Secret {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.entries[key]
}

func TestACachedSecretIsForgottenInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, from := newCache(time.Minute), &source{}
		defer c.close()
		key := cacheKey([]byte("ciphertext"), nil)
		get := func() {
			t.Helper()
			s, err := c.get(key, from.ask)
			if err != nil || string(s.Bytes()) != "secret" {
				t.Fatalf("%v", err)
			}
			s.Wipe() // the caller's copy alone
		}
		get()
		get()
		time.Sleep(59 * time.Second) // of the bubble's clock
		get()
		if from.asked != 1 {
			t.Errorf("asked %d times within the minute", from.asked)
		}
		kept := c.kept(key)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if c.kept(key) != nil || kept.Len() != 0 {
			t.Error("it is kept beyond its time")
		}
		get()
		if from.asked != 2 {
			t.Errorf("asked %d times", from.asked)
		}
	})
}

func TestFailuresAreNotCached(t *testing.T) {
	t.Parallel()
	c, from := newCache(time.Hour), &source{}
	defer c.close()
	key := cacheKey([]byte("ciphertext"), nil)
	if _, err := c.get(key, func() (*Secret, error) { return nil, ErrThrottled }); !errors.Is(err, ErrThrottled) {
		t.Errorf("got %v", err)
	}
	if _, err := c.get(key, from.ask); err != nil || from.asked != 1 {
		t.Errorf("%v", err)
	}
}

func TestACopyThatStandsInForKMSIsNotCached(t *testing.T) {
	t.Parallel()
	c, from := newCache(time.Hour), &source{}
	defer c.close()
	key := cacheKey([]byte("ciphertext"), nil)
	for range 2 {
		s, err := c.get(key, func() (*Secret, error) { return &Secret{secret.From([]byte("secret")), ErrUnreachable}, nil })
		if err != nil || s.Offline() == nil {
			t.Errorf("%v", err)
		}
	}
	if c.kept(key) != nil {
		t.Error("it is cached")
	}
	if s, err := c.get(key, from.ask); err != nil || s.Offline() != nil || from.asked != 1 {
		t.Errorf("when KMS is back: %v", err)
	}
}

func TestAClosedCacheIsWipedAndStaysSo(t *testing.T) {
	t.Parallel()
	c, from := newCache(time.Hour), &source{}
	key := cacheKey([]byte("ciphertext"), nil)
	if _, err := c.get(key, from.ask); err != nil {
		t.Fatal(err)
	}
	kept := c.entries[key]
	c.close()
	c.close()
	if kept.Len() != 0 {
		t.Error("not wiped")
	}
	if _, err := c.get(key, from.ask); !errors.Is(err, ErrClosed) || from.asked != 1 {
		t.Errorf("got %v", err)
	}
}

func TestACacheHasABound(t *testing.T) {
	t.Parallel()
	c, from := newCache(time.Hour), &source{}
	defer c.close()
	for i := range maxCached + 10 {
		if _, err := c.get(cacheKey([]byte{byte(i), byte(i >> 8)}, nil), from.ask); err != nil {
			t.Fatal(err)
		}
	}
	if len(c.entries) != maxCached {
		t.Errorf("%d entries", len(c.entries))
	}
}

func TestOtherQuestionsHaveOtherCacheKeys(t *testing.T) {
	t.Parallel()
	seen := map[[32]byte]int{}
	for i, q := range []struct {
		ciphertext string
		context    map[string]string
	}{
		{"c", nil}, {"d", nil}, {"", nil}, {"c", map[string]string{"a": "b"}}, {"c", map[string]string{"b": "a"}},
		{"c", map[string]string{"a": "b", "c": "d"}}, {"c", map[string]string{"a": "bc", "d": ""}}, {"ca", map[string]string{"": "b"}},
	} {
		key := cacheKey([]byte(q.ciphertext), q.context)
		if j, is := seen[key]; is {
			t.Errorf("questions %d and %d have one key", i, j)
		}
		seen[key] = i
	}
}
