package keystore

import (
	"context"
	"crypto/x509"
	"fmt"
)

// SetLabel changes the key's label.
func (t *Token) SetLabel(e Entry, label string) (Entry, error) {
	return t.edit(e, "label", func(w *writer, r *record) error {
		r.side.Label = label
		return w.saveSidecar(r.id, r.side)
	})
}

// SetCKAID changes the key's CKA_ID, 1 to 255 bytes.
func (t *Token) SetCKAID(e Entry, id []byte) (Entry, error) {
	return t.edit(e, "CKA_ID", func(w *writer, r *record) error {
		r.side.CKAID = id
		return w.saveSidecar(r.id, r.side)
	})
}

// SetCertificates stores a chain whose leaf has the key's public key; an empty chain removes it.
func (t *Token) SetCertificates(e Entry, chain []*x509.Certificate) (Entry, error) {
	return t.edit(e, "certificates", func(w *writer, r *record) error {
		if len(chain) == 0 {
			return w.remove(r.id + certSuffix)
		}
		if err := checkLeaf(chain[0], r.entry.Object.Public); err != nil {
			return err
		}
		return w.replace(r.id+certSuffix, encodeChain(chain))
	})
}

// edit changes a key's files under the lock, without the TPM.
func (t *Token) edit(e Entry, what string, change func(*writer, *record) error) (Entry, error) {
	edited, err := t.editLocked(e, change)
	if err != nil {
		return Entry{}, fmt.Errorf("setting the %s of key %s: %w", what, e, err)
	}
	return edited, nil
}

func (t *Token) editLocked(e Entry, change func(*writer, *record) error) (Entry, error) {
	w, err := t.folder.write(context.Background())
	if err != nil {
		return Entry{}, err
	}
	defer w.close()
	r, err := t.reread(w, e)
	if err != nil {
		return Entry{}, err
	}
	if err := change(w, &r); err != nil {
		return Entry{}, err
	}
	return t.entry(w.dir, r.id)
}
