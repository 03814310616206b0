package keystore

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// InitOptions of a new token.
type InitOptions struct {
	Label   string        // 1 to 32 bytes of UTF-8; spaces at its end do not count, with which Cryptoki fills it up
	UserPIN *secret.Bytes // nil: a token without a PIN or, with SOPIN, one whose user PIN InitPIN sets later
	SOPIN   *secret.Bytes // needed when UserPIN is set
	// Force makes a new token in an initialised store's folder (its keys are listed in the error otherwise). The keys'
	// files stay, but a key that needs the former token's PIN is lost: that secret is.
	Force bool
}

// Init makes the store and provisions the SRK, whose Name is pinned from now on. Nobody is logged in afterwards.
func (t *Token) Init(ctx context.Context, o InitOptions) error {
	if err := t.init(ctx, o); err != nil {
		return fmt.Errorf("initialising the store %s: %w", t.Dir(), err)
	}
	return nil
}

func (t *Token) init(ctx context.Context, o InitOptions) error {
	o.Label = strings.TrimRight(o.Label, " ")
	if err := o.check(); err != nil {
		return err
	}
	// All that can be refused is, before the TPM is changed.
	if err := t.mayInit(o.Force); err != nil {
		return err
	}
	if err := t.folder.writable(); err != nil {
		return err
	}
	srk, err := t.tpm.ProvisionSRK(ctx)
	if err != nil {
		return err
	}
	t.tpm.UseSRK(srk)
	a := &anchor{
		Version: formatVersion, Label: o.Label, Serial: randomHex(8), Created: time.Now().UTC().Truncate(time.Second),
		SRK: anchorSRK{Handle: handleText(srk.Handle), Name: hexText(srk.Public.Name()), Public: srk.Public.Marshal()},
		srk: srk,
	}
	if o.SOPIN != nil {
		if a.PIN, err = t.newSecret(ctx, o.UserPIN, o.SOPIN); err != nil {
			return err
		}
	}
	// Not before the TPM answered: a machine without one keeps no trace of the attempt.
	if err := t.folder.create(); err != nil {
		return err
	}
	w, err := t.folder.write(ctx)
	if err != nil {
		return err
	}
	defer w.close()
	if err := t.mayInit(o.Force); err != nil {
		return err
	}
	if err := t.recoverAll(ctx, w); err != nil {
		t.log.Warn("an interrupted change is not finished", "store", t.Dir(), "error", err)
	}
	return t.saveAnchor(w, a)
}

// RestoreSRK brings the token's storage root key back after another program took it from its handle, and tells where it is then, or 0
// when it never was away. Keys, PINs and secrets are as they were. provider.ErrParentChanged when the TPM makes another key: it was
// cleared, or is another one, and nothing was changed.
func (t *Token) RestoreSRK(ctx context.Context) (provider.Handle, error) {
	h, err := t.restoreSRK(ctx)
	if err != nil {
		return 0, fmt.Errorf("the store %s: %w", t.Dir(), err)
	}
	return h, nil
}

func (t *Token) restoreSRK(ctx context.Context) (provider.Handle, error) {
	a, err := t.initialized()
	if err != nil {
		return 0, err
	}
	public, found, err := t.at(ctx, a.srk.Handle)
	if err != nil || found && bytes.Equal(public.Name(), a.SRK.Name) {
		return 0, err
	}
	srk, err := t.tpm.RestoreSRK(ctx, a.srk)
	if err != nil || srk.Handle == a.srk.Handle {
		return srk.Handle, err
	}
	w, err := t.changeOf(ctx, a)
	if err != nil {
		return 0, err
	}
	defer w.close()
	if a, err = t.initialized(); err != nil {
		return 0, err
	}
	moved := *a
	moved.srk, moved.SRK.Handle = srk, handleText(srk.Handle)
	return srk.Handle, t.saveAnchor(w, &moved)
}

func (o InitOptions) check() error {
	if err := checkTokenLabel(o.Label); err != nil {
		return err
	}
	if o.UserPIN == nil && o.SOPIN == nil {
		return nil
	}
	if o.SOPIN == nil {
		return fmt.Errorf("%w: a user PIN needs an SO PIN besides", ErrInvalid)
	}
	if o.UserPIN != nil {
		if err := checkTokenPIN(o.UserPIN); err != nil {
			return fmt.Errorf("user PIN: %w", err)
		}
	}
	if err := checkTokenPIN(o.SOPIN); err != nil {
		return fmt.Errorf("SO PIN: %w", err)
	}
	return nil
}

// mayInit refuses a store that is initialised, unless force is set.
func (t *Token) mayInit(force bool) error {
	a, err := t.current()
	if err != nil || a == nil || force {
		return err
	}
	entries, err := t.Keys()
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		return fmt.Errorf("%w as %q, without keys", ErrInitialized, a.Label)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.String())
	}
	return fmt.Errorf("%w as %q, with %d keys: %s", ErrInitialized, a.Label, len(entries), strings.Join(names, "; "))
}

// newSecret draws a token's secret and seals it under both PINs, the user's if there is one.
func (t *Token) newSecret(ctx context.Context, user, so *secret.Bytes) (*anchorPIN, error) {
	value := secret.New(secretSize)
	defer value.Wipe()
	rand.Read(value.Bytes())
	var pin anchorPIN
	var err error
	if user != nil {
		sealed, err := t.sealSecret(ctx, value, user)
		if err != nil {
			return nil, err
		}
		pin.User = &sealed
	}
	if pin.SO, err = t.sealSecret(ctx, value, so); err != nil {
		return nil, err
	}
	return &pin, nil
}

// saveAnchor writes token.json and makes it the token's.
func (t *Token) saveAnchor(w *writer, a *anchor) error {
	text, err := encodeJSON(a)
	if err != nil {
		return err
	}
	if err := w.replace(anchorFile, text); err != nil {
		return err
	}
	t.reading.Lock()
	defer t.reading.Unlock()
	t.adopt(a, w.stat(anchorFile))
	return nil
}
