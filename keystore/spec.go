package keystore

import (
	"context"
	"fmt"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// KeySpec says what key to make.
type KeySpec struct {
	Label    string // see CheckLabel
	Unique   bool   // refuse a label that the token has (ErrLabelTaken); keys of one label are told apart by their CKA_ID
	CKAID    []byte // nil: SHA-1 of the public key bits
	Type     provider.KeyType
	Use      provider.Use
	Policy   policy.Policy     // current values are resolved now; zero for the token's default
	NoPolicy bool              // zero Policy means none
	Approved []policy.Approved // by the policy's signer, to be kept in the key's PEM
	NoPIN    bool              // in a token with a PIN: do not add the PIN to the policy
	Force    bool              // allow unmeasured PCRs in the policy; take in a key whose policy is not known or not enforced
	OwnPIN   *secret.Bytes     // an authValue of the key's own, at most 32 bytes, under dictionary-attack protection
	Handle   provider.Handle   // a wanted persistent handle; 0: first free from 0x81000100
	Wrapped  bool              // do not persist
}

func (s KeySpec) check() error {
	if err := CheckLabel(s.Label); err != nil {
		return err
	}
	if s.CKAID != nil {
		if err := checkCKAID(s.CKAID); err != nil {
			return err
		}
	}
	if s.Handle != 0 {
		if err := checkHandle(s.Handle); err != nil {
			return err
		}
		if s.Wrapped {
			return fmt.Errorf("%w: a key that stays wrapped has no handle", ErrInvalid)
		}
	}
	if s.Use.Decrypt && s.Type.EC() {
		return errDecryptEC
	}
	if s.Use.Derive && s.Type != "" && !s.Type.EC() {
		return errDeriveRSA
	}
	if s.OwnPIN != nil && s.NoPIN {
		return fmt.Errorf("%w: a key has a PIN of its own or no PIN, not both", ErrInvalid)
	}
	return nil
}

var (
	errDecryptEC = fmt.Errorf("%w: elliptic-curve keys sign and derive, and do not decrypt", ErrInvalid)
	errDeriveRSA = fmt.Errorf("%w: RSA keys sign and decrypt, and do not derive", ErrInvalid)
)

// plan is how a new key is guarded.
type plan struct {
	policy policy.Policy
	digest []byte
	auth   authKind
	value  *secret.Bytes // the key's authValue
}

// plan resolves a spec's policy and decides on the authValue. The caller wipes the plan's value.
func (t *Token) plan(ctx context.Context, a *anchor, s KeySpec) (plan, error) {
	p := plan{auth: authEmpty}
	switch {
	case s.OwnPIN != nil:
		if err := checkOwnPIN(s.OwnPIN); err != nil {
			return plan{}, err
		}
		p.auth = authOwn
	case a.PIN != nil && !s.NoPIN:
		p.auth = authToken
	}
	if s.Policy.IsZero() && !s.NoPolicy {
		s.Policy = t.policy
	}
	var err error
	if p.policy, p.digest, err = t.resolve(ctx, s.Policy, p.auth, s.Force); err != nil {
		return plan{}, err
	}
	switch p.auth {
	case authOwn:
		p.value = s.OwnPIN.Clone()
	case authToken:
		p.value, err = t.tokenSecret()
	}
	return p, err
}

// resolve puts current PCR values into a policy, adds the PIN when the key has an authValue (with userWithAuth clear, a
// policy that does not ask for it never looks at it), and computes the digest.
func (t *Token) resolve(ctx context.Context, p policy.Policy, auth authKind, force bool) (policy.Policy, []byte, error) {
	if p.IsZero() {
		return p, nil, nil
	}
	if auth == authEmpty && p.NeedsPIN() {
		return policy.Policy{}, nil, fmt.Errorf("%w: the policy asks for a PIN, and the key has none: it takes a token with a PIN, or one of the key's own", ErrInvalid)
	}
	p, err := p.Resolve(t.PolicyState(ctx), force)
	if err != nil {
		return policy.Policy{}, nil, err
	}
	if auth != authEmpty && !p.NeedsPIN() {
		p = p.And(policy.PIN{})
	}
	digest, err := p.Digest(tpm2.TPMAlgSHA256)
	return p, digest, err
}

// template is what provider makes.
func (p plan) template(s KeySpec) provider.Template {
	return provider.Template{Type: s.Type, Use: s.Use, AuthPolicy: p.digest, DictionaryAttack: p.auth == authOwn}
}

// sidecar begins the sidecar of a key.
func (s KeySpec) sidecar(a *anchor, public provider.Public, auth authKind, p policy.Policy) (sidecar, error) {
	id := s.CKAID
	if id == nil {
		key, err := public.Key()
		if err != nil {
			return sidecar{}, err
		}
		if id, err = defaultCKAID(key); err != nil {
			return sidecar{}, err
		}
	}
	return sidecar{
		Version: formatVersion, Name: hexText(public.Name()), Label: s.Label, CKAID: id, State: Ready, Auth: auth, Policy: p,
		Created: time.Now().UTC().Truncate(time.Second), SRK: hexText(a.srk.Public.Name()),
	}, nil
}

// foreign decides how a key that other tools made is used: its authValue, and the policy if that is known. It refuses a
// key that could not be used, or whose policy is decoration, unless Force is set.
func (t *Token) foreign(ctx context.Context, s KeySpec, public provider.Public, emptyAuth bool) (authKind, policy.Policy, error) {
	none := policy.Policy{}
	if err := checkUsable(public); err != nil {
		return "", none, err
	}
	auth := authEmpty
	if !emptyAuth {
		auth = authOwn
	}
	p, err := s.Policy.Resolve(t.PolicyState(ctx), true)
	if err != nil {
		return "", none, err
	}
	has := len(public.AuthPolicy()) > 0
	switch {
	case !has && !p.IsZero():
		return "", none, fmt.Errorf("%w: a policy is given (%s), and the key has none", ErrInvalid, p)
	case has && !p.IsZero() && !givesDigest(p, public):
		return "", none, fmt.Errorf("%w: the policy given (%s) is not the key's, whose digest is %x: it is to be the one that the key was made with, each PCR with its value of then", ErrInvalid, p, public.AuthPolicy())
	case has && public.Attributes().UserWithAuth && !s.Force:
		return "", none, fmt.Errorf("%w: its authorisation value opens it without the policy (userWithAuth is set): force it to take it in nevertheless",
			ErrPolicyIgnored)
	case has && p.IsZero() && !public.Attributes().UserWithAuth && !s.Force:
		return "", none, fmt.Errorf("%w: give the policy whose digest is %x, or force it to take in a key that cannot be used",
			ErrPolicyUnknown, public.AuthPolicy())
	}
	return auth, p, nil
}

// checkFree refuses a wanted handle that is taken, before a key is made for it.
func (t *Token) checkFree(ctx context.Context, h provider.Handle) error {
	public, found, err := t.at(ctx, h)
	if err != nil || !found {
		return err
	}
	return fmt.Errorf("%w: at 0x%08x is %s", provider.ErrHandleTaken, uint32(h), describe(public))
}

func describe(p provider.Public) string {
	if p.IsZero() {
		return "an object of another kind"
	}
	return p.Describe()
}
