package keystore

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/keystore/tss2"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// CreateKey makes a key in the TPM, crash-safe: after a crash there is the whole key or nothing, once Recover ran. When it
// fails, no key is left, but for one that was persisted when the TPM went away: the error then wraps ErrUnfinished.
func (t *Token) CreateKey(ctx context.Context, s KeySpec) (Entry, error) {
	e, err := t.make(ctx, s, func(p plan) (provider.Object, error) {
		return t.tpm.CreateKey(ctx, p.template(s), p.value)
	})
	if err != nil {
		return Entry{}, fmt.Errorf("creating key %q: %w", shortened(s.Label), err)
	}
	return e, nil
}

// ImportKey wraps an existing private key into the TPM. Type is ignored.
func (t *Token) ImportKey(ctx context.Context, key crypto.PrivateKey, s KeySpec) (Entry, error) {
	s.Type = ""
	if _, ec := key.(*ecdsa.PrivateKey); ec && s.Use.Decrypt {
		return Entry{}, fmt.Errorf("importing key %q: %w", shortened(s.Label), errDecryptEC)
	}
	if _, isRSA := key.(*rsa.PrivateKey); isRSA && s.Use.Derive {
		return Entry{}, fmt.Errorf("importing key %q: %w", shortened(s.Label), errDeriveRSA)
	}
	e, err := t.make(ctx, s, func(p plan) (provider.Object, error) {
		return t.tpm.ImportKey(ctx, key, p.template(s), p.value)
	})
	if err != nil {
		return Entry{}, fmt.Errorf("importing key %q: %w", shortened(s.Label), err)
	}
	return e, nil
}

// make makes an object by a plan and puts it into the store. The lock is not held while the TPM works on the object.
func (t *Token) make(ctx context.Context, s KeySpec, object func(plan) (provider.Object, error)) (Entry, error) {
	if err := s.check(); err != nil {
		return Entry{}, err
	}
	a, err := t.writableStore()
	if err != nil {
		return Entry{}, err
	}
	if err := t.checkUnique(s); err != nil {
		return Entry{}, err
	}
	p, err := t.plan(ctx, a, s)
	if err != nil {
		return Entry{}, err
	}
	defer p.value.Wipe()
	if s.Handle != 0 {
		if err := t.checkFree(ctx, s.Handle); err != nil {
			return Entry{}, err
		}
	}
	o, err := object(p)
	if err != nil {
		return Entry{}, err
	}
	side, err := s.sidecar(a, o.Public, p.auth, p.policy)
	if err != nil {
		return Entry{}, err
	}
	return t.install(ctx, a, side, o, s)
}

// AddObject adds a wrapped object that other tools made (a TSS2 PEM or tpm2-tools' files), after loading it once. Its
// authValue is empty, or its own PIN. A policy is to be given by the spec (a PEM's is in tss2.Key); Type, Use, OwnPIN and
// NoPIN are ignored. ErrExists when the store has the key.
func (t *Token) AddObject(ctx context.Context, o provider.Object, emptyAuth bool, s KeySpec) (Entry, error) {
	e, err := t.addObject(ctx, o, emptyAuth, s)
	if err != nil {
		return Entry{}, fmt.Errorf("adding key %q: %w", shortened(s.Label), err)
	}
	return e, nil
}

func (t *Token) addObject(ctx context.Context, o provider.Object, emptyAuth bool, s KeySpec) (Entry, error) {
	s.OwnPIN, s.NoPIN, s.Type = nil, false, ""
	if err := s.check(); err != nil {
		return Entry{}, err
	}
	a, err := t.writableStore()
	if err != nil {
		return Entry{}, err
	}
	auth, p, err := t.foreign(ctx, s, o.Public, emptyAuth)
	if err != nil {
		return Entry{}, err
	}
	o.Handle = 0
	if err := t.tpm.Load(ctx, o); err != nil {
		return Entry{}, err
	}
	side, err := s.sidecar(a, o.Public, auth, p)
	if err != nil {
		return Entry{}, err
	}
	if o.Parent != 0 && o.Parent != tpm2.TPMRHOwner && o.Parent != a.srk.Handle {
		side.SRK = nil
	}
	return t.install(ctx, a, side, o, s)
}

// Link adopts a persistent key that other tools made. Only its public area goes into the store. Of the spec, OwnPIN says
// that the key has an authValue (its content is not used), Policy what its policy is; Type, Use, NoPIN, Handle and
// Wrapped are ignored. ErrExists when the store has the key.
func (t *Token) Link(ctx context.Context, h provider.Handle, s KeySpec) (Entry, error) {
	e, err := t.link(ctx, h, s)
	if err != nil {
		return Entry{}, fmt.Errorf("linking key %q: %w", shortened(s.Label), err)
	}
	return e, nil
}

func (t *Token) link(ctx context.Context, h provider.Handle, s KeySpec) (Entry, error) {
	s.Handle, s.Wrapped, s.NoPIN, s.Type = h, false, false, ""
	if err := s.check(); err != nil {
		return Entry{}, err
	}
	if h == 0 {
		return Entry{}, checkHandle(h)
	}
	a, err := t.writableStore()
	if err != nil {
		return Entry{}, err
	}
	public, err := t.tpm.ReadPublic(ctx, h)
	if err != nil {
		return Entry{}, err
	}
	auth, p, err := t.foreign(ctx, s, public, s.OwnPIN == nil)
	if err != nil {
		return Entry{}, err
	}
	side, err := s.sidecar(a, public, auth, p)
	if err != nil {
		return Entry{}, err
	}
	return t.installLink(ctx, a, side, public, h, s.Unique)
}

func (t *Token) installLink(ctx context.Context, a *anchor, side sidecar, public provider.Public, h provider.Handle, unique bool) (Entry, error) {
	side.Handle, side.Public, side.SRK = handleText(h), public.Marshal(), nil
	w, err := t.changeOf(ctx, a)
	if err != nil {
		return Entry{}, err
	}
	defer w.close()
	if err := t.checkNew(side.Name, KeySpec{Label: side.Label, Unique: unique}); err != nil {
		return Entry{}, err
	}
	id := randomHex(16)
	if err := w.saveSidecar(id, side); err != nil {
		return Entry{}, err
	}
	return t.installed(w, id)
}

// install puts a wrapped object that was made for token a into the store, and makes it persistent unless the spec says otherwise.
func (t *Token) install(ctx context.Context, a *anchor, side sidecar, o provider.Object, s KeySpec) (Entry, error) {
	text, err := tss2.Encode(tss2.Key{Object: o, Sealed: side.Secret != nil, EmptyAuth: side.Auth == authEmpty, Policy: side.Policy, Approved: s.Approved})
	if err != nil {
		return Entry{}, err
	}
	w, err := t.changeOf(ctx, a)
	if err != nil {
		return Entry{}, err
	}
	defer w.close()
	if err := t.checkNew(side.Name, s); err != nil {
		return Entry{}, err
	}
	id := randomHex(16)
	if !s.Wrapped {
		// The first word about the key says where it goes: whoever finishes after a crash does not leave it wrapped.
		h := s.Handle
		if h == 0 {
			if h, err = t.freeHandle(ctx, id, FirstHandle); err != nil {
				return Entry{}, err
			}
		}
		side.Handle = handleText(h)
	}
	undo := func(cause error) (Entry, error) {
		return Entry{}, errors.Join(cause, w.remove(id+pemSuffix, id+sidecarSuffix))
	}
	// The sidecar first: a crash between the two leaves a pending sidecar without a key, which Recover removes, and never
	// a key without its label.
	side.State = Pending
	if err := w.saveSidecar(id, side); err != nil {
		return undo(err)
	}
	if err := w.replace(id+pemSuffix, text); err != nil {
		return undo(err)
	}
	if s.Wrapped {
		side.State = Ready
		err = w.saveSidecar(id, side)
	} else {
		err = t.persist(ctx, w, id, side, o, s.Handle)
	}
	if errors.Is(err, ErrUnfinished) {
		return Entry{}, err
	}
	if err != nil {
		return undo(err)
	}
	return t.installed(w, id)
}

// installed reads a key that was just installed, which takes its certificate over.
func (t *Token) installed(w *writer, id string) (Entry, error) {
	e, err := t.entry(w.dir, id)
	if err != nil {
		return Entry{}, err
	}
	return t.takeOver(w, e), nil
}

// checkNew refuses a key that the store has, or whose label it has if that shall not be; the caller holds the lock.
func (t *Token) checkNew(name []byte, s KeySpec) error {
	have, err := t.findAll(Query{Name: name})
	if err != nil {
		return err
	}
	if len(have) > 0 {
		return fmt.Errorf("%w: as %s", ErrExists, have[0])
	}
	return t.checkUnique(s)
}

// checkUnique refuses a label that the token has, if the spec asks for that.
func (t *Token) checkUnique(s KeySpec) error {
	if !s.Unique {
		return nil
	}
	have, err := t.findAll(Query{Label: s.Label})
	if err != nil {
		return err
	}
	if len(have) > 0 {
		return fmt.Errorf("%w: %s", ErrLabelTaken, have[0])
	}
	return nil
}

// writableStore is the anchor of an initialised store that this process may write.
func (t *Token) writableStore() (*anchor, error) {
	a, err := t.initialized()
	if err == nil {
		err = t.folder.writable()
	}
	return a, err
}

// change takes the lock for a change of an initialised store, and finishes first what was interrupted before.
func (t *Token) change(ctx context.Context) (*writer, error) {
	if _, err := t.initialized(); err != nil {
		return nil, err
	}
	w, err := t.folder.write(ctx)
	if err != nil {
		return nil, err
	}
	if err := t.recoverAll(ctx, w); err != nil {
		t.log.Warn("an interrupted change is not finished", "store", t.Dir(), "error", err)
	}
	return w, nil
}

// changeOf is change for what was planned when a was the token: another one has another secret, and perhaps another SRK.
func (t *Token) changeOf(ctx context.Context, a *anchor) (*writer, error) {
	w, err := t.change(ctx)
	if err != nil {
		return nil, err
	}
	now, err := t.initialized()
	if err == nil && now.Serial != a.Serial {
		err = fmt.Errorf("%w anew meanwhile by another process: try again", ErrInitialized)
	}
	if err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (w *writer) saveSidecar(id string, s sidecar) error {
	text, err := s.encode()
	if err != nil {
		return err
	}
	return w.replace(id+sidecarSuffix, text)
}

// entry reads a key that was just written.
func (t *Token) entry(d *dir, id string) (Entry, error) {
	r, _ := readRecord(d, id, nil)
	if !r.listed {
		return Entry{}, fmt.Errorf("%w: reading back %s: %v", ErrCorrupt, id, r.problems)
	}
	return r.finish(t.HasPIN()), nil
}

// reread is the record of an entry as it is now, for a change of it; the caller holds the lock. ErrNotFound when the key
// was deleted, or is another one, ErrUnfinished when another change of it was interrupted and could not be finished.
func (t *Token) reread(w *writer, e Entry) (record, error) {
	r, err := t.rereadUnfinished(w, e)
	if err == nil && r.side.State != Ready {
		return record{}, fmt.Errorf("%w: %s is %s: run `tpm2-p11 doctor`", ErrUnfinished, e, r.side.State)
	}
	return r, err
}

// rereadUnfinished is reread for a change that can be made in every state.
func (t *Token) rereadUnfinished(w *writer, e Entry) (record, error) {
	if err := checkID(e.ID); err != nil {
		return record{}, err
	}
	r, _ := readRecord(w.dir, e.ID, nil)
	if !r.listed || !bytes.Equal(r.entry.Object.Public.Name(), e.Object.Public.Name()) {
		return record{}, fmt.Errorf("%w: %s is no longer in %s", ErrNotFound, e, t.Dir())
	}
	if r.sideErr != nil {
		return record{}, fmt.Errorf("%s is not changed, since only its file says which handle it may have: restore %s or move it away: %w",
			e, r.id+sidecarSuffix, r.sideErr)
	}
	return r, nil
}
