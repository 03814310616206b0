package kms

import (
	"context"
	"fmt"
	"log/slog"
	"time"
)

// Unwrapper wraps and unwraps data keys under one KMS key. It is safe for
// concurrent use.
type Unwrapper struct {
	client  *Client
	keyID   string
	cache   *cache   // nil when it is off
	offline *offline // nil when it is off
}

// UnwrapperOptions are an Unwrapper's.
type UnwrapperOptions struct {
	// KeyID is the KMS key, by id, ARN or alias. Without it any key that these
	// credentials may use unwraps, also one of a stranger who can put a
	// ciphertext of his own in the place of yours.
	KeyID string
	// CacheFor is how long a plaintext is kept for the same ciphertext and
	// encryption context, if KMS itself gave it; 0 for not at all. While it is
	// kept, KMS is not asked: a change of the key policy comes into force that
	// much later.
	CacheFor time.Duration
	// Offline keeps copies for when KMS is out of reach; nil for none.
	Offline *Offline
}

// NewUnwrapper uses a client.
func NewUnwrapper(c *Client, o UnwrapperOptions) (*Unwrapper, error) {
	if o.CacheFor < 0 {
		return nil, fmt.Errorf("%w: a cache for %s", ErrInput, o.CacheFor)
	}
	u := &Unwrapper{client: c, keyID: o.KeyID}
	if o.CacheFor > 0 {
		u.cache = newCache(o.CacheFor)
	}
	if o.Offline != nil {
		var err error
		if u.offline, err = newOffline(*o.Offline, u.log()); err != nil {
			return nil, err
		}
	}
	if o.KeyID == "" {
		u.log().Warn("no KMS key is named: a ciphertext of any key that these credentials may use is unwrapped")
	}
	return u, nil
}

func (u *Unwrapper) log() *slog.Logger { return u.client.service.log }

// Unwrap decrypts a ciphertext with its encryption context. The caller wipes the Secret.
func (u *Unwrapper) Unwrap(ctx context.Context, ciphertext []byte, encryptionContext map[string]string) (*Secret, error) {
	ask := func() (*Secret, error) {
		return u.client.Decrypt(ctx, DecryptRequest{Ciphertext: ciphertext, Context: encryptionContext, KeyID: u.keyID})
	}
	if decrypt := ask; u.offline != nil {
		ask = func() (*Secret, error) {
			return u.offline.ask(ctx, copyNameOf(u.client.service.region, u.keyID, ciphertext, encryptionContext), decrypt)
		}
	}
	if u.cache == nil {
		return ask()
	}
	return u.cache.get(cacheKey(ciphertext, encryptionContext), ask)
}

// DataKey makes a new data key for AES-256, bound to an encryption context, and
// its ciphertext for Unwrap. The caller wipes the Secret.
func (u *Unwrapper) DataKey(ctx context.Context, encryptionContext map[string]string) (*Secret, []byte, error) {
	k, err := u.client.GenerateDataKey(ctx, DataKeyRequest{KeyID: u.keyID, Context: encryptionContext})
	if err != nil {
		return nil, nil, err
	}
	if len(k.Ciphertext) == 0 {
		k.Plaintext.Wipe()
		return nil, nil, fmt.Errorf("%w: a data key without its ciphertext", ErrAnswer)
	}
	if u.offline != nil {
		name := copyNameOf(u.client.service.region, u.keyID, k.Ciphertext, encryptionContext)
		d := u.offline.draft(name) // only now, as nobody was refused a ciphertext that nobody has
		defer d.drop()
		u.offline.tryKeep(ctx, name, d, k.Plaintext)
	}
	return k.Plaintext, k.Ciphertext, nil
}

// Close wipes what is cached. Later calls of Unwrap with a cache are ErrClosed.
func (u *Unwrapper) Close() error {
	if u.cache != nil {
		u.cache.close()
	}
	return nil
}
