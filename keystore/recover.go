package keystore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tpm2-p11/tpm2-p11/provider"
)

// Recover converges what a crash left half done (pending, evicting, deleting); until then such keys are not ready.
// Called by Init, Ensure, doctor and every change. Where nothing is to be done, nothing is written and the TPM is not asked.
func (t *Token) Recover(ctx context.Context) error {
	needed, err := t.needsRecovery()
	if err != nil || !needed {
		return err
	}
	w, err := t.folder.write(ctx)
	if err != nil {
		return fmt.Errorf("finishing interrupted changes: %w", err)
	}
	defer w.close()
	return t.recoverAll(ctx, w)
}

func (t *Token) needsRecovery() (bool, error) {
	needed := false
	err := t.scanner.look(func(l *look) error {
		needed = l.listed.left || slices.ContainsFunc(l.ids, func(id string) bool { return l.known[id].unfinished() })
		return nil
	})
	return needed, err
}

func (k *known) unfinished() bool { return k.hasSide && k.state != Ready }

// recoverAll finishes every key that can be; the caller holds the lock.
func (t *Token) recoverAll(ctx context.Context, w *writer) error {
	var records []record
	err := t.scanner.look(func(l *look) error {
		for _, id := range l.ids {
			if l.known[id].unfinished() && l.whole(id).unfinished() {
				records = append(records, *l.known[id].record)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	var failed []error
	for _, r := range records {
		if err := t.finish(ctx, w, r); err != nil {
			failed = append(failed, fmt.Errorf("finishing key %q (%s), which is %s: %w", r.side.Label, r.id, r.side.State, err))
		}
	}
	return errors.Join(failed...)
}

// finish brings a key from its state to the end of what was begun.
func (t *Token) finish(ctx context.Context, w *writer, r record) error {
	h, name := provider.Handle(r.side.Handle), provider.Name(r.side.Name)
	switch r.side.State {
	case Pending:
		return t.finishPending(ctx, w, r, h, name)
	case Evicting, Deleting:
		if err := t.evict(ctx, h, name); err != nil {
			return err
		}
		return w.released(r)
	}
	return nil
}

// released writes what a key is that has left its handle: wrapped, or no more.
func (w *writer) released(r record) error {
	if r.side.State == Deleting {
		return w.removeKey(r.id)
	}
	return w.settle(r.id, r.side, 0)
}

func (t *Token) finishPending(ctx context.Context, w *writer, r record, h provider.Handle, name provider.Name) error {
	// A PEM that cannot be read is not one that is missing: nothing is removed on its account.
	if !r.listed && len(r.problems) > 0 {
		return r.problems[0].Err
	}
	// A handle comes after the PEM; without either, the key never came to be.
	if !r.listed && h == 0 {
		return w.removeKey(r.id)
	}
	if h == 0 {
		return w.settle(r.id, r.side, 0)
	}
	public, found, err := t.at(ctx, h)
	there := found && bytes.Equal(public.Name(), name)
	switch {
	case err != nil:
		return err
	case there && !r.listed:
		// Its PEM is lost: what the TPM holds is all there is.
		r.side.Public = public.Marshal()
		return w.settle(r.id, r.side, h)
	case there:
		return w.settle(r.id, r.side, h)
	case !r.listed:
		return w.removeKey(r.id)
	case found:
		t.log.Warn("another object took a key's handle: the key stays wrapped", "store", t.Dir(), "key", r.side.Label,
			"handle", fmt.Sprintf("0x%08x", uint32(h)))
		return w.settle(r.id, r.side, 0)
	}
	err = t.tpm.Persist(ctx, r.entry.Object, h)
	if errors.Is(err, provider.ErrHandleTaken) {
		return w.settle(r.id, r.side, 0)
	}
	if err != nil {
		return err
	}
	return w.settle(r.id, r.side, h)
}
