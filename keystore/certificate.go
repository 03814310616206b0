package keystore

import (
	"context"
	"crypto/x509"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
)

// AddCertificate keeps a certificate that is of no key of the token's, as those of authorities are. Label and CKAID are what it is called
// by, category is its CKA_CERTIFICATE_CATEGORY, 0 for none. It lies in the store as it is. A key that has its public key
// and comes to the token later takes it over.
func (t *Token) AddCertificate(ctx context.Context, c *x509.Certificate, label string, id []byte, category uint64) (Entry, error) {
	value := secret.From(append([]byte{}, c.Raw...))
	defer value.Wipe()
	info := SecretInfo{Kind: SecretCertificate, Length: value.Len(), Category: category}
	return t.CreateSecret(ctx, value, SecretSpec{Label: label, CKAID: id, Info: info, Public: true})
}

// takeOver gives a new key the certificate of it that was nobody's until now; the caller holds the lock.
func (t *Token) takeOver(w *writer, key Entry) Entry {
	public, err := key.Object.Public.Key()
	if err != nil || key.Secret != nil || len(key.Certificates) > 0 {
		return key
	}
	var waiting *Entry
	err = t.scanner.look(func(l *look) error {
		for _, id := range l.ids {
			if k := l.known[id]; !k.listed || !k.glance.Certificate {
				continue
			}
			if k := l.whole(id); k.listed && k.glance.Certificate && samePublic(public, k.record.entry.Certificates[0].PublicKey) {
				waiting = &k.record.entry
			}
		}
		return nil
	})
	if err != nil || waiting == nil {
		return key
	}
	err = w.replace(key.ID+certSuffix, encodeChain(waiting.Certificates))
	if err == nil {
		err = w.remove(waiting.ID + sidecarSuffix)
	}
	if err != nil {
		t.log.Warn("a key does not take over its certificate", "store", t.Dir(), "key", key.Label, "error", err)
	}
	if with, err := t.entry(w.dir, key.ID); err == nil {
		return with
	}
	return key
}
