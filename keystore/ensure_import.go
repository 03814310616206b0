package keystore

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/tpm2-p11/tpm2-p11/provider"
)

// Imported is a key that exists outside of the TPM and is to be in it.
type Imported struct {
	Spec    KeySpec             // as for ImportKey; its label is the key's alone
	Public  crypto.PublicKey    // *rsa.PublicKey or *ecdsa.PublicKey
	Chain   []*x509.Certificate // of this public key, its own first; the key's certificates are left alone when empty
	Replace bool                // what was imported under this label, at this handle, or of this public key before makes room
}

// EnsureImported brings an imported key about. Its Name follows from its public key and its policy: where the store has it
// nothing is done, where only the TPM holds it, it is adopted, and else private is called for the private key, which is
// compared with the public one (ErrOtherKey) and imported. What Replace permits is removed only after the TPM took the new key.
//
// Current PCR values in the policy are those of now, unlike those of Ensure: a key that was imported under others is another
// key, and a reason for Replace. So is a key with an authValue that the store has lost. ErrConflict says what is in the way;
// a key that was born in the TPM always stays.
func (t *Token) EnsureImported(ctx context.Context, k Imported, private func(context.Context) (crypto.PrivateKey, error)) (Entry, Outcome, error) {
	e, outcome, err := t.ensureImported(ctx, k, private)
	if err != nil {
		return Entry{}, "", fmt.Errorf("importing key %q: %w", shortened(k.Spec.Label), err)
	}
	return e, outcome, nil
}

func (t *Token) ensureImported(ctx context.Context, k Imported, private func(context.Context) (crypto.PrivateKey, error)) (Entry, Outcome, error) {
	k.Spec.Type, k.Spec.Unique = "", true
	if err := k.Spec.check(); err != nil {
		return Entry{}, "", err
	}
	if _, ec := k.Public.(*ecdsa.PublicKey); ec && k.Spec.Use.Decrypt {
		return Entry{}, "", errDecryptEC
	}
	a, err := t.writableStore()
	if err != nil {
		return Entry{}, "", err
	}
	if err := t.Recover(ctx); err != nil {
		t.log.Warn("an interrupted change is not finished", "store", t.Dir(), "error", err)
	}
	p, err := t.plan(ctx, a, k.Spec)
	if err != nil {
		return Entry{}, "", err
	}
	defer p.value.Wipe()
	want, err := provider.ImportedPublic(k.Public, p.template(k.Spec))
	if err != nil {
		return Entry{}, "", err
	}
	if len(k.Chain) > 0 {
		if err := checkLeaf(k.Chain[0], want); err != nil {
			return Entry{}, "", err
		}
	}
	e, outcome, err := t.findImported(ctx, a, k, p, want)
	if err != nil {
		return Entry{}, "", err
	}
	if outcome == "" {
		if e, err = t.importAnew(ctx, a, k, p, want, private); err != nil {
			return Entry{}, "", err
		}
		outcome = Created
	}
	if len(k.Chain) == 0 || sameChain(k.Chain, e.Certificates) {
		return e, outcome, nil
	}
	with, err := t.SetCertificates(e, k.Chain)
	switch {
	case err != nil && outcome == Created:
		return Entry{}, "", errors.Join(err, t.Delete(ctx, e, true))
	case err != nil:
		return Entry{}, "", err
	case outcome == Unchanged:
		outcome = Updated
	}
	return with, outcome, nil
}

// findImported finds a key by its Name in the store or the TPM; no Outcome when it is to be imported.
func (t *Token) findImported(ctx context.Context, a *anchor, k Imported, p plan, want provider.Public) (Entry, Outcome, error) {
	have, err := t.findAll(Query{Name: want.Name()})
	if err != nil {
		return Entry{}, "", err
	}
	if len(have) > 0 {
		return t.storedImport(ctx, k, have[0])
	}
	if k.Spec.Wrapped || p.auth != authEmpty {
		return Entry{}, "", nil
	}
	h, err := t.handleOf(ctx, want.Name(), k.Spec.Handle)
	if err != nil || h == 0 {
		return Entry{}, "", err
	}
	if taken, err := t.findAll(Query{Label: k.Spec.Label}); err != nil || len(taken) > 0 {
		return Entry{}, "", err
	}
	side, err := k.Spec.sidecar(a, want, p.auth, p.policy)
	if err != nil {
		return Entry{}, "", err
	}
	e, err := t.installLink(ctx, a, side, want, h, true)
	return e, Adopted, err
}

// storedImport makes sure that a key of the store is where it belongs. No Outcome for one that the TPM lost for good.
func (t *Token) storedImport(ctx context.Context, k Imported, e Entry) (Entry, Outcome, error) {
	h := e.Object.Handle
	switch {
	case e.Label != k.Spec.Label:
		return Entry{}, "", fmt.Errorf("%w: as %s", ErrExists, e)
	case e.State != Ready:
		return Entry{}, "", fmt.Errorf("%w: %s is %s: run `tpm2-p11 doctor`", ErrUnfinished, e, e.State)
	case h == 0 && k.Spec.Wrapped:
		return e, Unchanged, nil
	case h == 0:
		e, err := t.Persist(ctx, e, k.Spec.Handle)
		return e, Updated, err
	case k.Spec.Handle != 0 && h != k.Spec.Handle:
		return Entry{}, "", conflict(e.String(), []string{fmt.Sprintf("it is to be at 0x%08x", uint32(k.Spec.Handle))})
	}
	public, found, err := t.at(ctx, h)
	switch {
	case err != nil:
		return Entry{}, "", err
	case found && !bytes.Equal(public.Name(), e.Object.Public.Name()):
		return Entry{}, "", conflict(e.String(), []string{fmt.Sprintf("at 0x%08x is another object (%s)", uint32(h), describe(public))})
	case found:
		return e, Unchanged, nil
	case !e.Linked():
		return e, Updated, t.tpm.Persist(ctx, wrapped(e.Object), h)
	}
	return Entry{}, "", t.Delete(ctx, e, false) // a name of something that is nowhere
}

// handleOf is where the TPM has an object, 0 if nowhere; only at wanted, if that is given.
func (t *Token) handleOf(ctx context.Context, name provider.Name, wanted provider.Handle) (provider.Handle, error) {
	handles := []provider.Handle{wanted}
	if wanted == 0 {
		var err error
		if handles, err = t.tpm.PersistentHandles(ctx); err != nil {
			return 0, err
		}
	}
	for _, h := range handles {
		public, found, err := t.at(ctx, h)
		if err != nil {
			return 0, err
		}
		if found && bytes.Equal(public.Name(), name) {
			return h, nil
		}
	}
	return 0, nil
}

// importAnew imports a key that neither store nor TPM has, and then removes what makes room for it.
func (t *Token) importAnew(ctx context.Context, a *anchor, k Imported, p plan, want provider.Public, private func(context.Context) (crypto.PrivateKey, error)) (Entry, error) {
	room, err := t.inTheWay(ctx, k)
	if err != nil {
		return Entry{}, err
	}
	key, err := private(ctx)
	if err != nil {
		return Entry{}, err
	}
	if signer, ok := key.(crypto.Signer); !ok || !samePublic(signer.Public(), k.Public) {
		return Entry{}, ErrOtherKey
	}
	o, err := t.tpm.ImportKey(ctx, key, p.template(k.Spec), p.value)
	if err != nil {
		return Entry{}, err
	}
	if !bytes.Equal(o.Public.Name(), want.Name()) {
		return Entry{}, fmt.Errorf("%w: its Name is %v, expected was %v", provider.ErrIntegrity, o.Public.Name(), want.Name())
	}
	side, err := k.Spec.sidecar(a, o.Public, p.auth, p.policy)
	if err != nil {
		return Entry{}, err
	}
	if err := room.make(ctx, t); err != nil {
		return Entry{}, err
	}
	return t.install(ctx, a, side, o, k.Spec)
}

// former are keys that a newly imported one replaces: of the store, and of the TPM alone.
type former struct {
	entries []Entry
	held    map[provider.Handle]provider.Name
}

func (f former) make(ctx context.Context, t *Token) error {
	for _, e := range f.entries {
		if err := t.Delete(ctx, e, true); err != nil {
			return err
		}
	}
	for h, name := range f.held {
		if err := t.evict(ctx, h, name); err != nil {
			return err
		}
	}
	return nil
}

// inTheWay finds what has the wanted label or handle, or is the same key under another policy, and refuses what may not go.
func (t *Token) inTheWay(ctx context.Context, k Imported) (former, error) {
	f := former{held: make(map[provider.Handle]provider.Name)}
	all, err := t.findAll(Query{})
	if err != nil {
		return f, err
	}
	stored := make(map[provider.Handle]Entry)
	for _, e := range all {
		if e.Object.Handle != 0 {
			stored[e.Object.Handle] = e
		}
		if e.Label != k.Spec.Label {
			continue
		}
		if err := k.mayGo("the store's key "+e.String(), e.Object.Public); err != nil {
			return f, err
		}
		f.entries = append(f.entries, e)
	}
	handles, err := t.tpm.PersistentHandles(ctx)
	if err != nil {
		return f, err
	}
	for _, h := range handles {
		public, found, err := t.at(ctx, h)
		if err != nil {
			return f, err
		}
		own, known := stored[h]
		known = known && bytes.Equal(own.Object.Public.Name(), public.Name())
		switch {
		case !found || known && own.Label == k.Spec.Label:
			continue // removed with its entry
		case h == k.Spec.Handle && known:
			return f, conflict(fmt.Sprintf("what is at 0x%08x", uint32(h)), []string{"it is the store's key " + own.String()})
		case h == k.Spec.Handle:
			if err := k.mayGo(fmt.Sprintf("what is at 0x%08x (%s)", uint32(h), describe(public)), public); err != nil {
				return f, err
			}
		case known || !k.Replace || !isImported(public) || !holds(public, k.Public):
			continue
		}
		f.held[h] = public.Name()
	}
	return f, nil
}

// mayGo refuses to let go of a key that is nowhere else, or of any unless Replace is set.
func (k Imported) mayGo(what string, public provider.Public) error {
	switch {
	case public.IsZero() || !isImported(public):
		return conflict(what, []string{"it was not imported, and would be lost"})
	case !k.Replace && holds(public, k.Public):
		return conflict(what, []string{"it is the same key under another policy or authorisation"})
	case !k.Replace:
		return conflict(what, []string{"it is another key"})
	}
	return nil
}

// isImported tells keys that were made outside of the TPM.
func isImported(public provider.Public) bool {
	attributes := public.Attributes()
	return !public.IsZero() && !attributes.FixedTPM && !attributes.SensitiveDataOrigin && checkUsable(public) == nil
}

func holds(public provider.Public, key crypto.PublicKey) bool {
	have, err := public.Key()
	return err == nil && samePublic(have, key)
}

func samePublic(a, b crypto.PublicKey) bool {
	switch a := a.(type) {
	case *rsa.PublicKey:
		return a.Equal(b)
	case *ecdsa.PublicKey:
		return a.Equal(b)
	}
	return false
}
