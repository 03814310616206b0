package keystore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tpm2-p11/tpm2-p11/provider"
)

// FirstHandle is where keys go that ask for no handle: above those that SRKs and other tools use by habit.
const FirstHandle provider.Handle = 0x81000100

// Persist gives a wrapped key a persistent handle (0: first free). A key that has this handle, or for 0 any, is left as it is.
func (t *Token) Persist(ctx context.Context, e Entry, h provider.Handle) (Entry, error) {
	e, err := t.persistEntry(ctx, e, h)
	if err != nil {
		return Entry{}, fmt.Errorf("persisting key %s: %w", e, err)
	}
	return e, nil
}

func (t *Token) persistEntry(ctx context.Context, e Entry, h provider.Handle) (Entry, error) {
	if h != 0 {
		if err := checkHandle(h); err != nil {
			return e, err
		}
	}
	w, err := t.change(ctx)
	if err != nil {
		return e, err
	}
	defer w.close()
	r, err := t.reread(w, e)
	if err != nil {
		return e, err
	}
	have := provider.Handle(r.side.Handle)
	switch {
	case r.entry.Secret != nil:
		return e, fmt.Errorf("%w: a secret has no persistent handle", ErrInvalid)
	case have != 0 && (h == 0 || h == have):
		return r.finish(t.HasPIN()), nil
	case have != 0:
		return e, fmt.Errorf("%w: it is at 0x%08x: evict it first", ErrInvalid, uint32(have))
	}
	if err := t.persist(ctx, w, r.id, r.side, r.entry.Object, h); err != nil {
		if !errors.Is(err, ErrUnfinished) {
			err = errors.Join(err, w.settle(r.id, r.side, 0))
		}
		return e, err
	}
	done, err := t.entry(w.dir, r.id)
	if err != nil {
		return e, err
	}
	return done, nil
}

// persist takes a key whose PEM is in the store to a persistent handle: want, or the first free one. The caller holds the
// lock. After an error the key is not persistent; with ErrUnfinished it may be, and its sidecar is pending.
func (t *Token) persist(ctx context.Context, w *writer, id string, side sidecar, o provider.Object, want provider.Handle) error {
	for from := FirstHandle; ; {
		h := want
		if h == 0 {
			var err error
			if h, err = t.freeHandle(ctx, id, from); err != nil {
				return err
			}
		}
		if side.State != Pending || side.Handle != handleText(h) {
			side.State, side.Handle = Pending, handleText(h)
			if err := w.saveSidecar(id, side); err != nil {
				return err
			}
		}
		err := t.tpm.Persist(ctx, o, h)
		if errors.Is(err, provider.ErrHandleTaken) && want == 0 {
			from = h + 1 // another tool was faster
			continue
		}
		if err != nil {
			err = t.unlessThere(h, o.Public.Name(), err)
		}
		if err != nil {
			return err
		}
		if err := w.settle(id, side, h); err != nil {
			return fmt.Errorf("%w: run `tpm2-p11 doctor` to finish it: %w", ErrUnfinished, err)
		}
		return nil
	}
}

// unlessThere is the error of a failed Persist: none when the object arrived at the handle after all, ErrUnfinished when
// that cannot be known.
func (t *Token) unlessThere(h provider.Handle, name provider.Name, cause error) error {
	switch there, err := t.hasKey(h, name); {
	case err != nil:
		return fmt.Errorf("%w: run `tpm2-p11 doctor` to finish it: %w", ErrUnfinished, cause)
	case there:
		return nil
	case errors.Is(cause, provider.ErrNoNV):
		return fmt.Errorf("%w: evict a key, or keep this one wrapped", cause)
	}
	return cause
}

// hasKey tells after a failed change whether a key is at a handle.
func (t *Token) hasKey(h provider.Handle, name provider.Name) (bool, error) {
	// What failed may be the caller's context, and the question has to be asked.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	public, found, err := t.at(ctx, h)
	return found && bytes.Equal(public.Name(), name), err
}

// settle writes a sidecar whose key has arrived at a handle, or is a wrapped one (0).
func (w *writer) settle(id string, side sidecar, h provider.Handle) error {
	side.State, side.Handle = Ready, handleText(h)
	return w.saveSidecar(id, side)
}

// freeHandle is the first handle that neither the TPM nor a key of the store, but for the one with this ID, has.
func (t *Token) freeHandle(ctx context.Context, id string, from provider.Handle) (provider.Handle, error) {
	claimed := make(map[provider.Handle]bool)
	err := t.scanner.look(func(l *look) error {
		for _, other := range l.ids {
			if other != id {
				claimed[l.known[other].handle] = true
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	for {
		h, err := t.tpm.FreeHandle(ctx, from)
		if err != nil {
			return 0, err
		}
		if !claimed[h] {
			return h, nil
		}
		from = h + 1
	}
}

// Evict takes a key's persistent handle away and keeps the wrapped key. It refuses a key that has no wrapped form (Delete
// it instead). When the TPM refuses, the key stays where it is; ErrUnfinished when it did not answer: Recover then finishes.
func (t *Token) Evict(ctx context.Context, e Entry) (Entry, error) {
	e, err := t.evictEntry(ctx, e)
	if err != nil {
		return Entry{}, fmt.Errorf("evicting key %s: %w", e, err)
	}
	return e, nil
}

func (t *Token) evictEntry(ctx context.Context, e Entry) (Entry, error) {
	w, err := t.change(ctx)
	if err != nil {
		return e, err
	}
	defer w.close()
	r, err := t.reread(w, e)
	if err != nil {
		return e, err
	}
	if r.entry.Linked() {
		return e, fmt.Errorf("%w: it has no wrapped form, and would be lost: delete it instead", ErrInvalid)
	}
	if r.side.Handle == 0 {
		return r.finish(t.HasPIN()), nil
	}
	if err := t.release(ctx, w, r, Evicting); err != nil {
		return e, err
	}
	done, err := t.entry(w.dir, r.id)
	if err != nil {
		return e, err
	}
	return done, nil
}

// Delete removes a key from TPM and store, one too whose way to or from a handle cannot be finished. A linked key's object
// stays in the TPM unless evictLinked is set. When the TPM refuses to let go of the object, the key stays as it is;
// ErrUnfinished when the TPM did not answer: Recover then finishes the deletion.
func (t *Token) Delete(ctx context.Context, e Entry, evictLinked bool) error {
	if err := t.delete(ctx, e, evictLinked); err != nil {
		return fmt.Errorf("deleting key %s: %w", e, err)
	}
	return nil
}

func (t *Token) delete(ctx context.Context, e Entry, evictLinked bool) error {
	w, err := t.change(ctx)
	if err != nil {
		return err
	}
	defer w.close()
	r, err := t.rereadUnfinished(w, e)
	if err != nil {
		return err
	}
	if r.entry.Linked() && !evictLinked {
		return w.removeKey(r.id)
	}
	return t.release(ctx, w, r, Deleting)
}

// release marks a key as evicting or deleting and takes it to the end of that. After an error it is as usable as before, but
// with ErrUnfinished, and when the disk failed on the way: then its sidecar says what was begun.
func (t *Token) release(ctx context.Context, w *writer, r record, as State) error {
	r.side.State = as
	if err := w.saveSidecar(r.id, r.side); err != nil {
		return err
	}
	h, name := provider.Handle(r.side.Handle), provider.Name(r.side.Name)
	if cause := t.evict(ctx, h, name); cause != nil {
		switch there, err := t.hasKey(h, name); {
		case err != nil:
			return fmt.Errorf("%w: run `tpm2-p11 doctor` to finish it: %w", ErrUnfinished, cause)
		case there:
			return errors.Join(cause, w.settle(r.id, r.side, h))
		}
	}
	return w.released(r)
}

// removeKey takes a key's files away, the sidecar last: it says that the key is being deleted.
func (w *writer) removeKey(id string) error {
	return w.remove(id+pemSuffix, id+certSuffix, id+sidecarSuffix)
}

// evict removes a key from a handle, if it has one (0: none) and is the key that is there.
func (t *Token) evict(ctx context.Context, h provider.Handle, name provider.Name) error {
	if h == 0 {
		return nil
	}
	public, found, err := t.at(ctx, h)
	switch {
	case err != nil || !found:
		return err
	case !bytes.Equal(public.Name(), name):
		t.log.Warn("another object is at a key's handle, and stays there", "store", t.Dir(), "handle", fmt.Sprintf("0x%08x", uint32(h)))
		return nil
	}
	return t.tpm.Evict(ctx, h, name)
}

// at is what the TPM has at a handle. It is found, and its public area zero, when it is of a kind that package provider
// does not read: then it is not ours.
func (t *Token) at(ctx context.Context, h provider.Handle) (public provider.Public, found bool, err error) {
	public, err = t.tpm.ReadPublic(ctx, h)
	switch {
	case errors.Is(err, provider.ErrNoObject):
		return public, false, nil
	case errors.Is(err, provider.ErrUnsupported):
		return public, true, nil
	}
	return public, err == nil, err
}
