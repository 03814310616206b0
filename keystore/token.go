package keystore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/internal/stamp"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/policy/policyfile"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// Token is one store on one TPM. Safe for concurrent use. Readers take no lock on the disk.
type Token struct {
	folder  folder
	tpm     *provider.TPM
	log     *slog.Logger
	scanner scanner
	folders *policyfile.Folders // of approved policies
	policy  policy.Policy       // of keys that are made without another

	// reading is held while token.json is read, which may take long, and so that an older reading never follows a newer one.
	reading sync.Mutex
	stamp   stamp.Stamp // of the anchor's file, guarded by reading
	watch   watch       // of that file
	warned  string      // the error that the log has already, guarded by reading

	mu     sync.Mutex // guards what follows; held neither while a disk nor while the TPM works
	anchor *anchor    // as last read; nil before Init
	role   Role
	secret *secret.Bytes // nil without a login
}

// Options of a token.
type Options struct {
	Dir    string
	TPM    *provider.TPM // shared with others: its pinned SRK is left alone
	Logger *slog.Logger  // nil: no log
	// Policy is the default of keys whose KeySpec has none; zero for no policy.
	Policy policy.Policy
	// Approved are files and folders with approved policies, beside the store's own folder ApprovedFolder.
	Approved []string
}

// ApprovedFolder is the folder in a store whose files are approved policies.
const ApprovedFolder = "approved.d"

// Open looks at a store without touching the TPM. The store may be in any state, since a process opens all that its
// configuration has and need not use each: Check tells.
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
	t := &Token{folder: folder(path), tpm: o.TPM.Share(), log: log, policy: o.Policy, scanner: scanner{folder: folder(path), log: log}}
	t.folders = policyfile.NewFolders(func(err error) { log.Warn("a file is passed over", "store", path, "error", err) },
		append([]string{filepath.Join(path, ApprovedFolder)}, o.Approved...)...)
	t.Now() // logs what is wrong with it
	return t, nil
}

// Check is nil for an initialised store that can be read. Otherwise it is ErrNotInitialized (also for a store that does not
// exist), ErrUnsafe when others can write it, ErrCorrupt or ErrNewer when token.json cannot be understood, or the system's
// error. Such a store counts as one that is not initialised and cannot be written, and every method that returns an error
// returns this one.
func (t *Token) Check() error {
	_, err := t.initialized()
	return err
}

// current is the anchor as it is on the disk now, nil when there is none. It pins the SRK when that is news, and forgets the
// login to a token that is gone.
func (t *Token) current() (*anchor, error) {
	t.reading.Lock()
	defer t.reading.Unlock()
	return t.read(t.folder.now())
}

// read is current for a caller that holds t.reading, and looked at the folder a moment ago.
func (t *Token) read(now stamp.Stamp) (*anchor, error) {
	if a := t.known(); a != nil && t.watch.sure(now) {
		return a, nil
	}
	d, err := t.folder.open()
	if errors.Is(err, fs.ErrNotExist) {
		t.adopt(nil, stamp.Stamp{})
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.close()
	if a := t.known(); a != nil && t.stamp.Same(d.stat(anchorFile)) {
		t.watch.note(d.stamp)
		return a, nil
	}
	text, s, err := d.read(anchorFile, nil)
	if errors.Is(err, fs.ErrNotExist) {
		t.adopt(nil, stamp.Stamp{})
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	a, err := parseAnchor(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(t.Dir(), anchorFile), err)
	}
	t.adopt(a, s)
	return a, nil
}

// known is the anchor as last read.
func (t *Token) known() *anchor {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.anchor
}

// adopt makes a the token's anchor, nil when its file is gone; the caller holds t.reading. Another serial is another token,
// whose PIN was not given, and another token may come in the place of one that is gone.
func (t *Token) adopt(a *anchor, s stamp.Stamp) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a != nil && (t.anchor == nil || string(t.anchor.SRK.Name) != string(a.SRK.Name) || t.anchor.SRK.Handle != a.SRK.Handle) {
		t.tpm.UseSRK(a.srk)
	}
	if a == nil || t.anchor != nil && t.anchor.Serial != a.Serial {
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

// seen is read for those who cannot report an error: the last good anchor. The log has each error once.
func (t *Token) seen(now stamp.Stamp) *anchor {
	t.reading.Lock()
	defer t.reading.Unlock()
	a, err := t.read(now)
	if err == nil {
		t.warned = ""
		return a
	}
	if t.warned != err.Error() {
		t.warned = err.Error()
		t.log.Log(context.Background(), logLevel(err), "the store cannot be used", "store", t.Dir(), "error", err)
	}
	return t.known()
}

// logLevel is how much an operator needs to know of an error: many programs load every token there is, and most may not read
// the stores of others.
func logLevel(err error) slog.Level {
	if errors.Is(err, fs.ErrPermission) {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

// Initialized is Moment.Initialized now.
func (t *Token) Initialized() bool { return t.Now().Initialized() }

// Label is Moment.Label now.
func (t *Token) Label() string { return t.Now().Label() }

// Serial is Moment.Serial now.
func (t *Token) Serial() string { return t.Now().Serial() }

// HasPIN is Moment.HasPIN now.
func (t *Token) HasPIN() bool { return t.Now().HasPIN() }

// HasUserPIN is Moment.HasUserPIN now.
func (t *Token) HasUserPIN() bool { return t.Now().HasUserPIN() }

// Writable tells whether the store can be changed, or made, by this process.
func (t *Token) Writable() bool { return t.CheckWritable() == nil }

// CheckWritable says why the store cannot be changed: ErrReadOnly with what the system says, or what Check says.
func (t *Token) CheckWritable() error {
	if _, err := t.current(); err != nil {
		return err
	}
	return t.folder.writable()
}

// TPM is the token's TPM, with the SRK pinned when initialised.
func (t *Token) TPM() *provider.TPM { return t.tpm }

// Dir is the store's folder, an absolute path.
func (t *Token) Dir() string { return string(t.folder) }
