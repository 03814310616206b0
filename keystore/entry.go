package keystore

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// Entry is a key of the store as read from disk, or a secret. Its Object is ready for package provider. Immutable by its users.
type Entry struct {
	ID           string // file stem, 32 hex digits; for a PEM somebody dropped in, its stem
	Label        string
	CKAID        []byte // SHA-1 of the public key bits by default
	Subject      []byte // of the certificate that a key shall have, for who matches it by that; mostly empty
	Object       provider.Object
	Policy       policy.Policy
	Approved     []policy.Approved // those that its PEM has; more are in the token's folders
	PolicyErr    error             // why the key's policy is not known, wraps ErrPolicyUnknown; nil when it is known or there is none
	OwnPIN       bool              // the key has an authValue of its own (PEM without emptyAuth in a token without that secret counts too)
	EmptyAuth    bool              // the key's authValue is empty
	State        State
	Created      time.Time
	Certificates []*x509.Certificate // leaf first; only a chain whose leaf has the key's public key
	Secret       *SecretInfo         // of secrets, data and certificates of nobody's (Token.Secrets); nil for keys

	sealed, plain []byte // the value of a secret, as the store has it

	seen sight
}

// Linked tells a key that is in the TPM alone: the store has no wrapped form of it.
func (e Entry) Linked() bool { return len(e.Object.Private) == 0 && e.Secret == nil }

// PolicyIgnored tells a key whose policy is decoration: it has one, and its authValue opens it all the same (userWithAuth
// is set).
func (e Entry) PolicyIgnored() bool {
	return len(e.Object.Public.AuthPolicy()) > 0 && e.Object.Public.Attributes().UserWithAuth
}

// AsksPIN tells whether a use of the key takes its authValue, the token's secret or a PIN of its own: a policy that is
// enforced takes it only where it says so, and not where a branch does without.
func (e Entry) AsksPIN() bool {
	switch {
	case e.EmptyAuth, e.PolicyErr != nil:
		return false
	case e.Policy.IsZero(), e.PolicyIgnored():
		return true
	}
	return e.Policy.RequiresPIN()
}

// TakesPIN tells whether a use of the key may take its authValue: where AsksPIN does, or in one of the policy's branches.
func (e Entry) TakesPIN() bool {
	return e.AsksPIN() || !e.EmptyAuth && e.PolicyErr == nil && !e.PolicyIgnored() && e.Policy.NeedsPIN()
}

// AsksOwnPIN tells whether a use of the key takes a PIN of its own, which whoever uses it must be asked for.
func (e Entry) AsksOwnPIN() bool { return e.OwnPIN && e.AsksPIN() }

// CountsPINs tells a key that the TPM counts wrong PINs of, whatever it is that the store says of its authValue: one under
// dictionary-attack protection, unless its policy never asks for that value.
func (e Entry) CountsPINs() bool {
	return !e.Object.Public.Attributes().NoDA && (e.Policy.IsZero() || e.PolicyIgnored() || e.Policy.NeedsPIN())
}

// String names the key for people.
func (e Entry) String() string { return called(e.Label, e.ID, e.Object.Handle) }

// String names the key for people.
func (g Glance) String() string { return called(g.Label, g.ID, g.Handle) }

func called(label, id string, h provider.Handle) string {
	if h != 0 {
		return fmt.Sprintf("%q (%s, 0x%08x)", label, id, uint32(h))
	}
	return fmt.Sprintf("%q (%s)", label, id)
}

// Query finds keys. Empty fields match all.
type Query struct {
	Label  string
	CKAID  []byte
	Handle provider.Handle
	Name   provider.Name
}

func (q Query) matches(g *Glance) bool {
	return (q.Label == "" || q.Label == g.Label) &&
		(len(q.CKAID) == 0 || bytes.Equal(q.CKAID, g.CKAID)) &&
		(q.Handle == 0 || q.Handle == g.Handle) &&
		(len(q.Name) == 0 || bytes.Equal(q.Name, g.Name))
}

func (q Query) String() string {
	var parts []byte
	add := func(format string, args ...any) {
		if len(parts) > 0 {
			parts = append(parts, ", "...)
		}
		parts = fmt.Appendf(parts, format, args...)
	}
	if q.Label != "" {
		add("label %q", q.Label)
	}
	if len(q.CKAID) > 0 {
		add("CKA_ID %x", q.CKAID)
	}
	if q.Handle != 0 {
		add("handle 0x%08x", uint32(q.Handle))
	}
	if len(q.Name) > 0 {
		add("name %x", []byte(q.Name))
	}
	if len(parts) == 0 {
		return "any key"
	}
	return string(parts)
}

// defaultCKAID is the key identifier of RFC 5280, section 4.2.1.2, method 1: SHA-1 over the bits of the public key.
func defaultCKAID(key crypto.PublicKey) ([]byte, error) {
	var bits []byte
	switch key := key.(type) {
	case *rsa.PublicKey:
		bits = x509.MarshalPKCS1PublicKey(key)
	case *ecdsa.PublicKey:
		point, err := key.Bytes()
		if err != nil {
			return nil, err
		}
		bits = point
	default:
		return nil, fmt.Errorf("a public key of type %T", key)
	}
	sum := sha1.Sum(bits)
	return sum[:], nil
}

// keyType names a public key's type.
func keyType(key crypto.PublicKey) provider.KeyType {
	switch key := key.(type) {
	case *rsa.PublicKey:
		return provider.KeyType(fmt.Sprintf("rsa%d", key.N.BitLen()))
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256():
			return provider.P256
		case elliptic.P384():
			return provider.P384
		case elliptic.P521():
			return provider.P521
		}
		return provider.KeyType(key.Curve.Params().Name)
	}
	return ""
}

// checkUsable refuses public areas that are not a key for signing or decrypting what its user pleases.
func checkUsable(p provider.Public) error {
	attributes := p.Attributes()
	if p.IsStorageKey() || p.IsSealed() || attributes.Restricted || !attributes.SignEncrypt && !attributes.Decrypt {
		return fmt.Errorf("%w: what is given (%s) is not a key that signs or decrypts freely", ErrInvalid, p.Describe())
	}
	if _, err := p.Key(); errors.Is(err, provider.ErrWrongUse) {
		return fmt.Errorf("%w: what is given (%s) is not an RSA or elliptic-curve key", ErrInvalid, p.Describe())
	} else if err != nil {
		return err
	}
	return nil
}
