package keystore

import (
	"context"
	"crypto/x509"
	"fmt"
)

// Metadata is what people call a key by. Empty fields are left as they are.
type Metadata struct {
	Label string // plain UTF-8 text of at most 255 bytes
	CKAID []byte // at most 255 bytes

	Subject []byte // of the certificate that a key will have: a distinguished name in DER, at most 4096 bytes
}

// SetMetadata changes what the key is called by, in one step.
func (t *Token) SetMetadata(e Entry, m Metadata) (Entry, error) {
	return t.edit(e, "label or CKA_ID", func(w *writer, r *record) error {
		if m.Label != "" {
			if err := CheckLabel(m.Label); err != nil {
				return err
			}
			r.side.Label = m.Label
		}
		if len(m.CKAID) > 0 {
			r.side.CKAID = m.CKAID
		}
		if len(m.Subject) > 0 {
			r.side.Subject = m.Subject
		}
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
