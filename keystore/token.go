package keystore

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// Token is one store on one TPM. Safe for concurrent use. Readers take no lock on the disk.
type Token struct {
	folder  folder
	tpm     *provider.TPM
	log     *slog.Logger
	scanner scanner

	mu     sync.Mutex // guards what follows; never held while the TPM works
	anchor *anchor    // as last read; nil before Init
	stamp  stamp      // of the anchor's file
	role   Role
	secret *secret.Bytes // nil without a login
}

// Options of a token.
type Options struct {
	Dir    string
	TPM    *provider.TPM
	Logger *slog.Logger // nil: no log
}

// Open looks at a store without touching the TPM. A store that does not exist is not an error here: Initialized is false.
// ErrUnsafe when others can write its folder, ErrCorrupt or ErrNewer when token.json cannot be understood.
func Open(o Options) (*Token, error) {
	if o.TPM == nil {
		return nil, fmt.Errorf("%w: a token needs a TPM", ErrInvalid)
	}
	path, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("opening the store %s: %w", o.Dir, err)
	}
	log := o.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	t := &Token{folder: folder(path), tpm: o.TPM, log: log, scanner: scanner{folder: folder(path), log: log}}
	if _, err := t.current(); err != nil {
		return nil, fmt.Errorf("opening the store %s: %w", path, err)
	}
	return t, nil
}

// current is the anchor as it is on the disk now, nil when there is none. It pins the SRK when that is news.
func (t *Token) current() (*anchor, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d, err := t.folder.open()
	if errors.Is(err, fs.ErrNotExist) {
		t.anchor, t.stamp = nil, stamp{}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.close()
	if now := d.stat(anchorFile); t.anchor != nil && t.stamp.same(now) {
		return t.anchor, nil
	}
	text, stamp, err := d.read(anchorFile)
	if errors.Is(err, fs.ErrNotExist) {
		t.anchor, t.stamp = nil, stamp
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	a, err := parseAnchor(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(t.Dir(), anchorFile), err)
	}
	t.adopt(a, stamp)
	return a, nil
}

// adopt makes a the token's anchor; the caller holds t.mu. Another serial is another token, whose PIN was not given.
func (t *Token) adopt(a *anchor, s stamp) {
	if t.anchor == nil || string(t.anchor.SRK.Name) != string(a.SRK.Name) || t.anchor.SRK.Handle != a.SRK.Handle {
		t.tpm.UseSRK(a.srk)
	}
	if t.anchor != nil && t.anchor.Serial != a.Serial {
		t.forget()
	}
	t.anchor, t.stamp = a, s
}

// initialized is the anchor, or ErrNotInitialized.
func (t *Token) initialized() (*anchor, error) {
	a, err := t.current()
	if err == nil && a == nil {
		err = fmt.Errorf("%w (%s): run `tpm2-p11 init` first", ErrNotInitialized, t.Dir())
	}
	return a, err
}

// seen is the anchor for those who cannot report an error: the last good one.
func (t *Token) seen() *anchor {
	a, err := t.current()
	if err == nil {
		return a
	}
	t.log.Warn("the store's token cannot be read", "store", t.Dir(), "error", err)
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.anchor
}

// Initialized tells whether Init was done.
func (t *Token) Initialized() bool { return t.seen() != nil }

// Label of the token; "" before Init.
func (t *Token) Label() string {
	if a := t.seen(); a != nil {
		return a.Label
	}
	return ""
}

// Serial is 16 hex digits, random at Init; "" before.
func (t *Token) Serial() string {
	if a := t.seen(); a != nil {
		return a.Serial
	}
	return ""
}

// HasPIN tells whether the token asks for a login.
func (t *Token) HasPIN() bool {
	a := t.seen()
	return a != nil && a.PIN != nil
}

// HasUserPIN tells whether the user has a PIN: not in a token made with an SO PIN alone, until InitPIN.
func (t *Token) HasUserPIN() bool {
	a := t.seen()
	return a != nil && a.PIN != nil && a.PIN.User != nil
}

// Writable tells whether the store can be changed, or made, by this process.
func (t *Token) Writable() bool { return t.folder.writable() }

// TPM is the token's TPM, with the SRK pinned when initialised.
func (t *Token) TPM() *provider.TPM { return t.tpm }

// Dir is the store's folder, an absolute path.
func (t *Token) Dir() string { return string(t.folder) }
