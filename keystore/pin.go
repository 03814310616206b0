package keystore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// Role of a login.
type Role int

// The two roles of PKCS#11.
const (
	User Role = iota + 1
	SO
)

// String is "user" or "SO".
func (r Role) String() string {
	switch r {
	case User:
		return "user"
	case SO:
		return "SO"
	}
	return "nobody"
}

// Lengths in bytes. A PIN of a key's own is its authValue as it stands, so that other tools ask for the same; it cannot be
// longer than the key's name hash, SHA-256.
const (
	secretSize = 32
	MinPIN     = 4
	MaxPIN     = 64
	MaxOwnPIN  = 32
)

func checkTokenPIN(pin *secret.Bytes) error {
	if n := pin.Len(); n < MinPIN || n > MaxPIN {
		return fmt.Errorf("%w: it has %d bytes, %d to %d are allowed", ErrPINLength, n, MinPIN, MaxPIN)
	}
	return nil
}

// checkOwnPIN also refuses a PIN that ends in a zero byte, since a TPM does not count trailing zero bytes.
func checkOwnPIN(pin *secret.Bytes) error {
	if n := pin.Len(); n < MinPIN || n > MaxOwnPIN {
		return fmt.Errorf("%w: it has %d bytes, a key's own PIN has %d to %d", ErrPINLength, n, MinPIN, MaxOwnPIN)
	}
	if pin.Bytes()[pin.Len()-1] == 0 {
		return fmt.Errorf("%w: a key's own PIN cannot end in a zero byte", ErrInvalid)
	}
	return nil
}

// pinValue is the authValue of a sealed secret.
func pinValue(pin *secret.Bytes) *secret.Bytes {
	sum := sha256.Sum256(pin.Bytes())
	return secret.From(sum[:])
}

// sealSecret wraps the token's secret under a PIN, which the TPM's dictionary-attack protection guards.
func (t *Token) sealSecret(ctx context.Context, value, pin *secret.Bytes) (sealedSecret, error) {
	auth := pinValue(pin)
	defer auth.Wipe()
	o, err := t.tpm.Seal(ctx, value, provider.Template{DictionaryAttack: true}, auth)
	if err != nil {
		return sealedSecret{}, fmt.Errorf("sealing the token's secret: %w", err)
	}
	return seal(o), nil
}

// sealed is a role's object.
func (a *anchor) sealed(r Role) (*sealedSecret, error) {
	switch {
	case a.PIN == nil:
		return nil, ErrNoPIN
	case r == User && a.PIN.User == nil:
		return nil, fmt.Errorf("%w for the user yet: the security officer sets it", ErrNoPIN)
	case r == User:
		return a.PIN.User, nil
	case r == SO:
		return &a.PIN.SO, nil
	}
	return nil, fmt.Errorf("%w: there is no role %d", ErrInvalid, r)
}

// unseal opens the token's secret with a role's PIN, and says of which anchor.
func (t *Token) unseal(ctx context.Context, r Role, pin *secret.Bytes) (*secret.Bytes, *anchor, error) {
	a, err := t.initialized()
	if err != nil {
		return nil, nil, err
	}
	sealed, err := a.sealed(r)
	if err != nil {
		return nil, nil, err
	}
	if err := checkTokenPIN(pin); err != nil {
		return nil, nil, err
	}
	o, err := sealed.object()
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	auth := pinValue(pin)
	defer auth.Wipe()
	value, err := t.tpm.Unseal(ctx, o, provider.Auth{Value: auth, Label: r.String() + " PIN"})
	if err != nil {
		return nil, nil, err
	}
	if value.Len() != secretSize {
		value.Wipe()
		return nil, nil, fmt.Errorf("%w: the sealed secret has another size", ErrCorrupt)
	}
	return value, a, nil
}

// Login opens the token's secret with a PIN and keeps it in locked memory until Logout. provider.ErrAuth for a wrong PIN
// (exactly one dictionary-attack count), provider.ErrLockout in lockout, ErrNoPIN when the token has none, ErrPINLength
// (no count) for what cannot be a PIN. A failed login changes nothing.
func (t *Token) Login(ctx context.Context, r Role, pin *secret.Bytes) error {
	value, a, err := t.unseal(ctx, r, pin)
	if err != nil {
		return fmt.Errorf("login to %s as %s: %w", t.Dir(), r, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.anchor == nil || t.anchor.Serial != a.Serial {
		value.Wipe()
		return fmt.Errorf("login to %s: %w: the token was made anew meanwhile", t.Dir(), ErrLoginNeeded)
	}
	t.forget()
	t.role, t.secret = r, value
	return nil
}

// Logout wipes the token's secret.
func (t *Token) Logout() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget()
}

// forget drops the login; the caller holds t.mu.
func (t *Token) forget() {
	if t.secret != nil {
		t.secret.Wipe()
	}
	t.role, t.secret = 0, nil
}

// LoggedIn is the role of the login, 0 for none.
func (t *Token) LoggedIn() Role {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.role
}

// tokenSecret is a copy of the token's secret, which the caller wipes.
func (t *Token) tokenSecret() (*secret.Bytes, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.secret == nil {
		return nil, fmt.Errorf("%w: log in to %s first", ErrLoginNeeded, t.Dir())
	}
	return t.secret.Clone(), nil
}

// SetPIN changes the PIN of a role: old is that role's PIN. One object is sealed anew; the keys stay.
func (t *Token) SetPIN(ctx context.Context, r Role, old, new *secret.Bytes) error {
	if err := t.reseal(ctx, r, old, r, new); err != nil {
		return fmt.Errorf("changing the %s PIN of %s: %w", r, t.Dir(), err)
	}
	return nil
}

// ResetPIN sets the user PIN by the SO PIN.
func (t *Token) ResetPIN(ctx context.Context, so, newUser *secret.Bytes) error {
	if err := t.reseal(ctx, SO, so, User, newUser); err != nil {
		return fmt.Errorf("resetting the user PIN of %s: %w", t.Dir(), err)
	}
	return nil
}

// InitPIN sets the user PIN while the security officer is logged in; ErrLoginNeeded otherwise.
func (t *Token) InitPIN(ctx context.Context, newUser *secret.Bytes) error {
	if err := t.initPIN(ctx, newUser); err != nil {
		return fmt.Errorf("setting the user PIN of %s: %w", t.Dir(), err)
	}
	return nil
}

func (t *Token) initPIN(ctx context.Context, newUser *secret.Bytes) error {
	if err := checkTokenPIN(newUser); err != nil {
		return fmt.Errorf("new PIN: %w", err)
	}
	a, err := t.initialized()
	if err != nil {
		return err
	}
	if t.LoggedIn() != SO {
		return fmt.Errorf("%w: the security officer's", ErrLoginNeeded)
	}
	value, err := t.tokenSecret()
	if err != nil {
		return err
	}
	defer value.Wipe()
	return t.replacePIN(ctx, a, SO, value, User, newUser)
}

// reseal opens the secret with one role's PIN and seals it for a role under a new one.
func (t *Token) reseal(ctx context.Context, by Role, pin *secret.Bytes, r Role, new *secret.Bytes) error {
	if err := checkTokenPIN(new); err != nil {
		return fmt.Errorf("new PIN: %w", err)
	}
	value, opened, err := t.unseal(ctx, by, pin)
	if err != nil {
		return err
	}
	defer value.Wipe()
	return t.replacePIN(ctx, opened, by, value, r, new)
}

// replacePIN seals the secret, which one role's PIN opened, for a role under a new PIN.
func (t *Token) replacePIN(ctx context.Context, opened *anchor, by Role, value *secret.Bytes, r Role, new *secret.Bytes) error {
	sealed, err := t.sealSecret(ctx, value, new)
	if err != nil {
		return err
	}
	w, err := t.folder.write(ctx)
	if err != nil {
		return err
	}
	defer w.close()
	now, err := t.initialized()
	if err != nil {
		return err
	}
	if !opened.samePIN(now, by) || !opened.samePIN(now, r) {
		return fmt.Errorf("another process changed the PIN meanwhile: try again")
	}
	changed := *now
	pins := *now.PIN
	changed.PIN = &pins
	if r == User {
		pins.User = &sealed
	} else {
		pins.SO = sealed
	}
	return t.saveAnchor(w, &changed)
}

// samePIN tells whether a role's PIN is the same in both anchors.
func (a *anchor) samePIN(b *anchor, r Role) bool {
	x, errX := a.sealed(r)
	y, errY := b.sealed(r)
	if errX != nil || errY != nil {
		return errX != nil && errY != nil && a.Serial == b.Serial // not set in either
	}
	return bytes.Equal(x.Private, y.Private)
}

// atHand is the authValue of a key that can be used without, nil when it was not given.
func (t *Token) atHand(e Entry, ownPIN *secret.Bytes) *secret.Bytes {
	switch {
	case e.EmptyAuth && e.Policy.NeedsPIN():
		return secret.From(nil)
	case !e.TakesPIN():
	case e.OwnPIN:
		if ownPIN.Len() > 0 && ownPIN.Len() <= MaxPIN {
			return ownPIN.Clone()
		}
	default:
		if value, err := t.tokenSecret(); err == nil {
			return value
		}
	}
	return nil
}

// Auth is what provider needs to use an entry's key: the token's secret (ErrLoginNeeded before a login), ownPIN
// (ErrKeyPINNeeded without one) or nothing, and the policy. Where a branch of the policy does without, a PIN that was not
// given is not asked for. The caller wipes its Value, which is a copy, after use.
// ErrPolicyUnknown and ErrUnfinished for keys that cannot be used.
func (t *Token) Auth(e Entry, ownPIN *secret.Bytes) (provider.Auth, error) {
	auth := provider.Auth{Policy: e.Policy, Label: e.Label, Approved: t.ApprovedFor(e.Approved)}
	if e.PolicyIgnored() {
		auth.Policy = policy.Policy{}
	}
	var err error
	switch {
	case e.State == Deleting:
		err = fmt.Errorf("%w: it is being deleted: run `tpm2-p11 doctor`", ErrUnfinished)
	case e.PolicyErr != nil:
		err = e.PolicyErr
	case !e.AsksPIN():
		auth.Value = t.atHand(e, ownPIN)
	case e.OwnPIN && ownPIN.Len() == 0:
		err = ErrKeyPINNeeded
	case e.OwnPIN && ownPIN.Len() > MaxPIN:
		err = ErrPINLength
	case e.OwnPIN:
		auth.Value = ownPIN.Clone()
	default:
		auth.Value, err = t.tokenSecret()
	}
	if err != nil {
		return provider.Auth{}, fmt.Errorf("key %s: %w", e, err)
	}
	return auth, nil
}
