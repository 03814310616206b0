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

	"github.com/tpm2-p11/tpm2-p11/internal/client"
	"github.com/tpm2-p11/tpm2-p11/internal/keyuse"
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/internal/tokens"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// Key is a TPM-resident key. It is crypto.Signer and, for RSA keys that may
// decrypt, crypto.Decrypter. Safe for concurrent use.
type Key struct {
	label        string
	public       crypto.PublicKey
	certificates []*x509.Certificate
	limits       limits
	pid          int
	log          *slog.Logger

	mu     sync.RWMutex // held for reading while the key is used, so that Close wipes and closes nothing in use
	home   home
	closed bool
}

// home is where a key's private half works.
type home interface {
	do(ctx context.Context, t task) ([]byte, error)
	close() error
}

// task is what is left to do when an operation was found allowed and its input prepared: the work of the private half.
type task struct {
	// inTPM has a TPM of this process's do it.
	inTPM func(ctx context.Context, t *provider.TPM, o provider.Object, a provider.Auth) ([]byte, error)
	// served is the same for a server.
	served client.Operation
	// finish makes the result of what either gives; nil where that is the result.
	finish func([]byte) ([]byte, error)
}

var (
	_ crypto.Signer    = (*Key)(nil)
	_ crypto.Decrypter = (*Key)(nil)
)

// ForEntry uses an entry of a token that the caller opened and, where needed,
// logged in. ownPIN, of keys that have one, is copied and may be nil. Close does
// not close the token. Nothing is asked of the TPM yet.
func ForEntry(t *keystore.Token, e keystore.Entry, ownPIN *secret.Bytes) (*Key, error) {
	return forEntry(&tpmHome{token: t, entry: e}, ownPIN)
}

func forEntry(h *tpmHome, ownPIN *secret.Bytes) (*Key, error) {
	public, err := h.entry.Object.Public.Key()
	if err != nil {
		return nil, fmt.Errorf("key %q: %w", h.entry.Label, err)
	}
	if ownPIN.Len() > 0 {
		h.ownPIN = ownPIN.Clone()
	}
	return newKey(&Key{label: h.entry.Label, public: public, certificates: h.entry.Certificates, limits: limits{keyuse.Of(h.entry.Object.Public)}, home: h}), nil
}

func newKey(k *Key) *Key {
	k.pid, k.log = os.Getpid(), slog.New(slog.DiscardHandler)
	return k
}

// Public is *rsa.PublicKey or *ecdsa.PublicKey.
func (k *Key) Public() crypto.PublicKey { return k.public }

// Label is the key's label.
func (k *Key) Label() string { return k.label }

// Certificates is the chain stored with the key, leaf first; nil when there is none.
func (k *Key) Certificates() []*x509.Certificate { return slices.Clone(k.certificates) }

// Close lets go of the key, and of the TPM or the server when Open opened it. It waits for
// operations under way; later ones fail with ErrClosed. It may be called more than once.
func (k *Key) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return nil
	}
	k.closed = true
	return k.home.close()
}

// do does a task. Whoever fails in it names the key.
func (k *Key) do(ctx context.Context, t task) ([]byte, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.closed {
		return nil, fmt.Errorf("key %q: %w", k.label, ErrClosed)
	}
	if os.Getpid() != k.pid {
		return nil, fmt.Errorf("key %q: %w", k.label, ErrForked)
	}
	out, err := k.home.do(ctx, t)
	if err != nil {
		k.log.Warn("the key was not used", "key", k.label, "error", err)
		return nil, err
	}
	if t.finish == nil {
		return out, nil
	}
	return t.finish(out)
}

// tpmHome is a TPM that this process uses itself.
type tpmHome struct {
	token  *keystore.Token
	entry  keystore.Entry
	ownPIN *secret.Bytes
	set    *tokens.Set // what Open opened; nil for ForEntry
}

func (h *tpmHome) do(ctx context.Context, t task) ([]byte, error) {
	auth, err := h.token.Auth(h.entry, h.ownPIN)
	if err != nil {
		return nil, err
	}
	defer auth.Value.Wipe()
	return t.inTPM(ctx, h.token.TPM(), h.entry.Object, auth)
}

func (h *tpmHome) close() error {
	h.ownPIN.Wipe()
	if h.set == nil {
		return nil
	}
	return h.set.Close()
}
