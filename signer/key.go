package signer

import (
	"context"
	"crypto"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"

	"github.com/tpm2-p11/tpm2-p11/internal/keyuse"
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/internal/tokens"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// Key is a TPM-resident key. It is crypto.Signer and, for RSA keys that may
// decrypt, crypto.Decrypter. Safe for concurrent use.
type Key struct {
	token  *keystore.Token
	entry  keystore.Entry
	public crypto.PublicKey
	limits limits
	pid    int
	log    *slog.Logger

	mu     sync.RWMutex // held for reading while the key is used, so that Close wipes and closes nothing in use
	ownPIN *secret.Bytes
	set    *tokens.Set // what Open opened; nil for ForEntry
	closed bool
}

var (
	_ crypto.Signer    = (*Key)(nil)
	_ crypto.Decrypter = (*Key)(nil)
)

// ForEntry uses an entry of a token that the caller opened and, where needed,
// logged in. ownPIN, of keys that have one, is copied and may be nil. Close does
// not close the token. Nothing is asked of the TPM yet.
func ForEntry(t *keystore.Token, e keystore.Entry, ownPIN *secret.Bytes) (*Key, error) {
	public, err := e.Object.Public.Key()
	if err != nil {
		return nil, fmt.Errorf("key %q: %w", e.Label, err)
	}
	k := &Key{token: t, entry: e, public: public, limits: limits{keyuse.Of(e.Object.Public)}, pid: os.Getpid(), log: slog.New(slog.DiscardHandler)}
	if ownPIN.Len() > 0 {
		k.ownPIN = ownPIN.Clone()
	}
	return k, nil
}

// Public is *rsa.PublicKey or *ecdsa.PublicKey.
func (k *Key) Public() crypto.PublicKey { return k.public }

// Label is the key's label.
func (k *Key) Label() string { return k.entry.Label }

// Certificates is the chain stored with the key, leaf first; nil when there is none.
func (k *Key) Certificates() []*x509.Certificate { return slices.Clone(k.entry.Certificates) }

// Close lets go of the key, and of the TPM when Open opened it. It waits for
// operations under way; later ones fail with ErrClosed. It may be called more than once.
func (k *Key) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return nil
	}
	k.closed = true
	k.ownPIN.Wipe()
	if k.set == nil {
		return nil
	}
	return k.set.Close()
}

// action is what is left to do when an operation was found allowed and its input
// prepared: the TPM's part.
type action func(ctx context.Context, t *provider.TPM, o provider.Object, a provider.Auth) ([]byte, error)

// do performs an action. Whoever fails in it names the key.
func (k *Key) do(ctx context.Context, act action) ([]byte, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.closed {
		return nil, fmt.Errorf("key %q: %w", k.entry.Label, ErrClosed)
	}
	if os.Getpid() != k.pid {
		return nil, fmt.Errorf("key %q: %w", k.entry.Label, ErrForked)
	}
	auth, err := k.token.Auth(k.entry, k.ownPIN)
	if err != nil {
		return nil, err
	}
	defer auth.Value.Wipe()
	out, err := act(ctx, k.token.TPM(), k.entry.Object, auth)
	if err != nil {
		k.log.Warn("the key was not used", "key", k.entry.Label, "error", err)
	}
	return out, err
}
