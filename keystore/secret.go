package keystore

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// Secrets, keys and data, lie in the store as AES-256-GCM ciphertexts. The key of each is its own, random, and sealed in the TPM, under
// the token's secret and a policy as keys are; what it encrypts is bound to the sealed object's Name and to all that the sidecar says
// of the secret, so that a file that was changed to allow more opens nothing. Label and CKA_ID are not bound: they may be changed.

// secretPart is a sidecar's part about a secret.
type secretPart struct {
	SecretInfo
	Sealed []byte `json:"sealed,omitempty"` // the value, encrypted
	Plain  []byte `json:"plain,omitempty"`  // the value of public data and certificates, as it is
	Public bool   `json:"public,omitempty"` // it is one of these, and there is no PEM
}

func (p secretPart) validate() error {
	if err := p.SecretInfo.validate(); err != nil {
		return err
	}
	switch {
	case p.Public && (!p.mayBePublic() || len(p.Sealed) > 0):
		return fmt.Errorf("a secret cannot be public")
	case !p.Public && p.Kind == SecretCertificate:
		return fmt.Errorf("a certificate is no secret")
	case p.Public && len(p.Plain) != p.Length:
		return fmt.Errorf("its value has not its length")
	case !p.Public && (len(p.Plain) > 0 || len(p.Sealed) != p.Length+sealOverhead):
		return fmt.Errorf("its sealed value has not its length")
	}
	return nil
}

// SecretSpec says what secret to keep.
type SecretSpec struct {
	Label  string // see CheckLabel
	CKAID  []byte // may be empty
	Info   SecretInfo
	Policy policy.Policy // current values are resolved now; zero for the token's default
	NoPIN  bool          // in a token with a PIN: do without it
	Public bool          // data that is no secret, and every certificate: it lies in the store as it is
}

// CreateSecret keeps a secret, whose length must be Info's, crash-safe as CreateKey. Public data goes into the store alone, without a
// TPM; all else takes one, and the PIN of a token that has one unless NoPIN is set.
func (t *Token) CreateSecret(ctx context.Context, value *secret.Bytes, s SecretSpec) (Entry, error) {
	e, err := t.createSecret(ctx, value, s)
	if err != nil {
		return Entry{}, fmt.Errorf("keeping %q: %w", shortened(s.Label), err)
	}
	return e, nil
}

func (t *Token) createSecret(ctx context.Context, value *secret.Bytes, s SecretSpec) (Entry, error) {
	if err := s.check(value); err != nil {
		return Entry{}, err
	}
	a, err := t.writableStore()
	if err != nil {
		return Entry{}, err
	}
	side := sidecar{
		Version: formatVersion, Label: s.Label, CKAID: s.CKAID, State: Ready, Auth: authEmpty,
		Created: time.Now().UTC().Truncate(time.Second), Secret: &secretPart{SecretInfo: s.Info, Public: s.Public},
	}
	if s.Public {
		side.Secret.Plain = append([]byte{}, value.Bytes()...)
		return t.installPublic(ctx, a, side)
	}
	p, err := t.plan(ctx, a, KeySpec{Policy: s.Policy, NoPIN: s.NoPIN})
	if err != nil {
		return Entry{}, err
	}
	defer p.value.Wipe()
	key := secret.New(sealKeySize)
	defer key.Wipe()
	rand.Read(key.Bytes())
	o, err := t.tpm.Seal(ctx, key, provider.Template{AuthPolicy: p.digest}, p.value)
	if err != nil {
		return Entry{}, err
	}
	side.Name, side.SRK, side.Auth, side.Policy = hexText(o.Public.Name()), hexText(a.srk.Public.Name()), p.auth, p.policy
	if side.Secret.Sealed, err = sealValue(key, value, side.Name, s.Info); err != nil {
		return Entry{}, err
	}
	return t.install(ctx, a, side, o, KeySpec{Wrapped: true})
}

func (s SecretSpec) check(value *secret.Bytes) error {
	if err := CheckLabel(s.Label); err != nil {
		return err
	}
	if len(s.CKAID) > 0 {
		if err := checkCKAID(s.CKAID); err != nil {
			return err
		}
	}
	if s.Info.Length != value.Len() {
		return fmt.Errorf("%w: a value of %d bytes, %d are said", ErrInvalid, value.Len(), s.Info.Length)
	}
	if s.Public && (!s.Info.mayBePublic() || !s.Policy.IsZero()) {
		return fmt.Errorf("%w: only data and certificates can be public, and without a policy", ErrInvalid)
	}
	if s.Info.Kind == SecretCertificate {
		if _, err := parseCertificate(value.Bytes()); err != nil || !s.Public {
			return fmt.Errorf("%w: a certificate is public, and one (%v)", ErrInvalid, err)
		}
	}
	return s.Info.validate()
}

// installPublic puts what is public into the store: one file, in one step.
func (t *Token) installPublic(ctx context.Context, a *anchor, side sidecar) (Entry, error) {
	w, err := t.changeOf(ctx, a)
	if err != nil {
		return Entry{}, err
	}
	defer w.close()
	id := randomHex(16)
	if err := w.saveSidecar(id, side); err != nil {
		return Entry{}, err
	}
	return t.entry(w.dir, id)
}

// PublicData is the value of public data and certificates; false for everything that is sealed.
func (e Entry) PublicData() ([]byte, bool) { return e.plain, e.Secret != nil && e.sealed == nil }

// OpenSecret unseals a secret's value, which is the caller's to wipe. ErrLoginNeeded before the login that it takes, ErrCorrupt when
// the files are not as they were written, in whatever way; and the TPM's refusals.
func (t *Token) OpenSecret(ctx context.Context, e Entry) (*secret.Bytes, error) {
	value, err := t.openSecret(ctx, e)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", e, err)
	}
	return value, nil
}

func (t *Token) openSecret(ctx context.Context, e Entry) (*secret.Bytes, error) {
	if e.Secret == nil {
		return nil, fmt.Errorf("%w: it is a key of the TPM's, which has no value outside", ErrInvalid)
	}
	if plain, public := e.PublicData(); public {
		return secret.From(append([]byte{}, plain...)), nil
	}
	auth, err := t.Auth(e, nil)
	if err != nil {
		return nil, err
	}
	defer auth.Value.Wipe()
	key, err := t.tpm.Unseal(ctx, e.Object, auth)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	return openValue(key, e.sealed, e.Object.Public.Name(), *e.Secret)
}

const (
	sealKeySize  = 32
	sealOverhead = 16 // GCM's tag
)

// sealer is AES-256-GCM under a key that encrypts one value once: its nonce is all zeros.
func sealer(key *secret.Bytes) (cipher.AEAD, []byte, error) {
	if key.Len() != sealKeySize {
		return nil, nil, fmt.Errorf("%w: the sealed key has %d bytes", ErrCorrupt, key.Len())
	}
	block, err := aes.NewCipher(key.Bytes())
	if err != nil {
		return nil, nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, nil, err
	}
	return aead, make([]byte, aead.NonceSize()), nil
}

func sealValue(key, value *secret.Bytes, name []byte, i SecretInfo) ([]byte, error) {
	aead, nonce, err := sealer(key)
	if err != nil {
		return nil, err
	}
	facts, err := i.facts(name)
	if err != nil {
		return nil, err
	}
	return aead.Seal(nil, nonce, value.Bytes(), facts), nil
}

func openValue(key *secret.Bytes, sealed, name []byte, i SecretInfo) (*secret.Bytes, error) {
	aead, nonce, err := sealer(key)
	if err != nil {
		return nil, err
	}
	facts, err := i.facts(name)
	if err != nil {
		return nil, err
	}
	value, err := aead.Open(nil, nonce, sealed, facts)
	if err != nil || len(value) != i.Length {
		clear(value)
		return nil, fmt.Errorf("%w: its file is not as it was written: restore it", ErrCorrupt)
	}
	return secret.From(value), nil
}
