package keystore

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// Declared is a key as the configuration declares it.
type Declared struct {
	Label  string
	Handle provider.Handle
	Type   provider.KeyType
	Use    provider.Use
	Policy policy.Policy
	Chain  []*x509.Certificate // the key's certificates are left alone when empty
	Force  bool                // allow unmeasured PCRs in the policy
}

// Outcome of Ensure for one key.
type Outcome string

// What Ensure did.
const (
	Unchanged Outcome = "unchanged"
	Created   Outcome = "created"
	Adopted   Outcome = "adopted"
	Updated   Outcome = "updated" // the store had the key; its handle or certificates were not as declared
)

// Ensure brings one declared key about: unchanged when the store has it, adopted when the TPM holds it at the handle and the
// store lost it, created otherwise. ErrConflict, naming the difference, when what is there is not what is declared. Current
// PCR values in the policy mean those at the key's creation: the values that the store knows, else those of now.
//
// A token with a PIN adopts nothing: the secret that its keys need was lost with the store.
func (t *Token) Ensure(ctx context.Context, d Declared) (Entry, Outcome, error) {
	e, outcome, err := t.ensure(ctx, d)
	// Another process may ensure the same key at the same time: what it made is found the second time.
	if errors.Is(err, ErrExists) || errors.Is(err, provider.ErrHandleTaken) {
		e, outcome, err = t.ensure(ctx, d)
	}
	if err != nil {
		return Entry{}, "", fmt.Errorf("ensuring key %q: %w", d.Label, err)
	}
	return e, outcome, nil
}

func (t *Token) ensure(ctx context.Context, d Declared) (Entry, Outcome, error) {
	if err := CheckLabel(d.Label); err != nil {
		return Entry{}, "", err
	}
	if err := checkHandle(d.Handle); err != nil {
		return Entry{}, "", err
	}
	if d.Policy.Drifts() {
		return Entry{}, "", fmt.Errorf("%w: a declared key's clock has a fixed end (before = …), since it would be another policy each time", ErrInvalid)
	}
	a, err := t.initialized()
	if err != nil {
		return Entry{}, "", err
	}
	if err := t.Recover(ctx); err != nil {
		// It may be about other keys; this one's state is looked at below.
		t.log.Warn("an interrupted change is not finished", "store", t.Dir(), "error", err)
	}
	e, outcome, err := t.find(ctx, a, d)
	if err != nil || len(d.Chain) == 0 || sameChain(d.Chain, e.Certificates) {
		return e, outcome, err
	}
	if outcome == Unchanged {
		outcome = Updated
	}
	e, err = t.SetCertificates(e, d.Chain)
	return e, outcome, err
}

// find finds the declared key in the store or the TPM, or makes it.
func (t *Token) find(ctx context.Context, a *anchor, d Declared) (Entry, Outcome, error) {
	e, err := t.Find(Query{Label: d.Label})
	if err == nil {
		return t.ensureStored(ctx, e, d)
	}
	if !errors.Is(err, ErrNotFound) {
		return Entry{}, "", err
	}
	public, found, err := t.at(ctx, d.Handle)
	if err != nil {
		return Entry{}, "", err
	}
	if !found {
		e, err := t.CreateKey(ctx, KeySpec{Label: d.Label, Type: d.Type, Use: d.Use, Policy: d.Policy, NoPolicy: true, Handle: d.Handle, Force: d.Force})
		return e, Created, err
	}
	return t.adoptKey(ctx, a, public, d)
}

// Compare tells what Ensure would do with a declared key, and does nothing: Unchanged, Created, Adopted or Updated, or
// ErrConflict with the difference, or ErrInvalid when the declared certificate is another key's.
func (t *Token) Compare(ctx context.Context, d Declared) (Outcome, error) {
	outcome, err := t.compare(ctx, d)
	if err != nil {
		return "", fmt.Errorf("comparing key %q: %w", shortened(d.Label), err)
	}
	return outcome, nil
}

func (t *Token) compare(ctx context.Context, d Declared) (Outcome, error) {
	a, err := t.initialized()
	if err != nil {
		return "", err
	}
	e, err := t.Find(Query{Label: d.Label})
	if err == nil {
		there, err := t.compareStored(ctx, e, d)
		if err != nil {
			return "", err
		}
		same := len(d.Chain) == 0 || sameChain(d.Chain, e.Certificates)
		switch {
		case !same:
			return Updated, checkLeaf(d.Chain[0], e.Object.Public)
		case there:
			return Unchanged, nil
		}
		return Updated, nil
	}
	if !errors.Is(err, ErrNotFound) {
		return "", err
	}
	public, found, err := t.at(ctx, d.Handle)
	if err != nil || !found {
		return Created, err
	}
	return Adopted, t.compareHeld(ctx, a, public, d)
}

// ensureStored compares a key of the store with its declaration, and brings it back to its handle.
func (t *Token) ensureStored(ctx context.Context, e Entry, d Declared) (Entry, Outcome, error) {
	there, err := t.compareStored(ctx, e, d)
	switch {
	case err != nil:
		return Entry{}, "", err
	case there:
		return e, Unchanged, nil
	case e.Object.Handle == 0:
		e, err = t.Persist(ctx, e, d.Handle)
	default:
		// The store says that it is there, and the TPM lost it.
		err = t.tpm.Persist(ctx, wrapped(e.Object), d.Handle)
	}
	return e, Updated, err
}

// compareStored compares a key of the store with its declaration, and tells whether it is at its handle.
func (t *Token) compareStored(ctx context.Context, e Entry, d Declared) (there bool, err error) {
	if e.State != Ready {
		return false, fmt.Errorf("%w: %s is %s: run `tpm2-p11 doctor`", ErrUnfinished, e, e.State)
	}
	auth := authToken
	switch {
	case e.OwnPIN:
		auth = authOwn
	case e.EmptyAuth:
		auth = authEmpty
	}
	differences := append(describeDifferences(e.Object.Public, d), e.Object.Public.Exposed()...)
	if auth == authEmpty && t.HasPIN() {
		differences = append(differences, "it does without the token's PIN, and what is declared takes it")
	}
	if difference := policyDifference(e.Object.Public, d.Policy, auth, t.storedState(ctx, e.Policy)); difference != "" {
		differences = append(differences, difference)
	}
	if h := e.Object.Handle; h != 0 && h != d.Handle {
		differences = append(differences, fmt.Sprintf("its handle is 0x%08x, declared is 0x%08x", uint32(h), uint32(d.Handle)))
	}
	public, found, err := t.at(ctx, d.Handle)
	switch {
	case err != nil:
		return false, err
	case found && !bytes.Equal(public.Name(), e.Object.Public.Name()):
		differences = append(differences, fmt.Sprintf("at 0x%08x is another object (%s)", uint32(d.Handle), describe(public)))
	case !found && e.Linked():
		differences = append(differences, fmt.Sprintf("it is gone from 0x%08x, and there is no wrapped form of it: delete it to make a new one", uint32(d.Handle)))
	}
	if len(differences) > 0 {
		return false, conflict(e.String(), differences)
	}
	return found && e.Object.Handle == d.Handle, nil
}

// wrapped is an object without its handle.
func wrapped(o provider.Object) provider.Object {
	o.Handle = 0
	return o
}

// adoptKey takes in what the TPM holds at the declared handle, if it is the declared key.
func (t *Token) adoptKey(ctx context.Context, a *anchor, public provider.Public, d Declared) (Entry, Outcome, error) {
	if err := t.compareHeld(ctx, a, public, d); err != nil {
		return Entry{}, "", err
	}
	p, err := d.Policy.Resolve(t.PolicyState(ctx), true)
	if err != nil {
		return Entry{}, "", err
	}
	side, err := KeySpec{Label: d.Label}.sidecar(a, public, authEmpty, p)
	if err != nil {
		return Entry{}, "", err
	}
	e, err := t.installLink(ctx, a, side, public, d.Handle, false)
	return e, Adopted, err
}

// compareHeld compares what the TPM holds at the declared handle, and the store does not know, with the declaration.
func (t *Token) compareHeld(ctx context.Context, a *anchor, public provider.Public, d Declared) error {
	what := fmt.Sprintf("what is at 0x%08x (%s)", uint32(d.Handle), describe(public))
	if have, err := t.findAll(Query{Name: public.Name()}); err != nil {
		return err
	} else if len(have) > 0 {
		return conflict(what, []string{"it is the store's key " + have[0].String()})
	}
	if a.PIN != nil {
		return conflict(what, []string{"it is not in the store, and a token with a PIN cannot adopt it: the secret that its keys need was lost with the former store"})
	}
	differences := append(describeDifferences(public, d), public.Exposed()...)
	if difference := policyDifference(public, d.Policy, authEmpty, t.PolicyState(ctx)); difference != "" {
		differences = append(differences, difference)
	}
	if len(differences) > 0 {
		return conflict(what, differences)
	}
	return nil
}

func conflict(what string, differences []string) error {
	return fmt.Errorf("%w: %s: %s", ErrConflict, what, strings.Join(differences, "; "))
}

// describeDifferences compares type and use.
func describeDifferences(public provider.Public, d Declared) []string {
	if public.IsZero() {
		return []string{"it is not a key that could be used"}
	}
	if err := checkUsable(public); err != nil {
		return []string{err.Error()}
	}
	key, err := public.Key()
	if err != nil {
		return []string{err.Error()}
	}
	var list []string
	if have := keyType(key); have != d.Type {
		list = append(list, fmt.Sprintf("its type is %s, declared is %s", have, d.Type))
	}
	attributes := public.Attributes()
	have := provider.Use{Sign: attributes.SignEncrypt, Decrypt: attributes.Decrypt}
	if _, ec := key.(*ecdsa.PublicKey); ec {
		have.Decrypt, have.Derive = false, have.Decrypt
	}
	if have != d.Use {
		list = append(list, fmt.Sprintf("its use is %s, declared is %s", useText(have), useText(d.Use)))
	}
	return list
}

func useText(u provider.Use) string {
	var list []string
	if u.Sign {
		list = append(list, "sign")
	}
	if u.Decrypt {
		list = append(list, "decrypt")
	}
	if u.Derive {
		list = append(list, "derive")
	}
	return strings.Join(list, ",")
}

// policyDifference compares a key's policy digest with that of a declared policy; "" when they agree.
func policyDifference(public provider.Public, declared policy.Policy, auth authKind, now policy.State) string {
	have := public.AuthPolicy()
	if declared.IsZero() {
		if len(have) > 0 {
			return fmt.Sprintf("it has a policy (digest %x), none is declared", have)
		}
		return ""
	}
	if len(have) == 0 {
		return "it has no policy, one is declared"
	}
	if public.Attributes().UserWithAuth {
		return "its policy is not enforced (userWithAuth is set)"
	}
	p, err := declared.Resolve(now, true)
	if err != nil {
		return fmt.Sprintf("its policy cannot be compared with the declared one: %v", err)
	}
	if auth != authEmpty && !p.NeedsPIN() {
		p = p.And(policy.PIN{})
	}
	digest, err := p.Digest(public.Area().NameAlg)
	if err != nil {
		return fmt.Sprintf("its policy cannot be compared with the declared one: %v", err)
	}
	if !bytes.Equal(digest, have) {
		return fmt.Sprintf("its policy digest is %x, that of the declared policy (%s) is %x", have, p, digest)
	}
	return ""
}

// storedState is the state in which a policy of the store was resolved, as far as it tells, and else the TPM's of now.
func (t *Token) storedState(ctx context.Context, stored policy.Policy) policy.State {
	now := t.PolicyState(ctx)
	read := now.PCRs
	now.PCRs = func(bank tpm2.TPMIAlgHash, indices []uint) (map[uint][]byte, error) {
		values, err := read(bank, indices)
		if err != nil {
			return nil, err
		}
		for _, pcr := range stored.PCRs() {
			if pcr.Bank != bank {
				continue
			}
			for _, i := range indices {
				if value := pcr.Values[i]; value != nil {
					values[i] = value
				}
			}
		}
		return values, nil
	}
	return now
}

func sameChain(a, b []*x509.Certificate) bool {
	return slices.EqualFunc(a, b, (*x509.Certificate).Equal)
}
