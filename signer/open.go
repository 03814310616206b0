package signer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/tpm2-p11/tpm2-p11/internal/p11uri"
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/internal/tokens"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// Open finds a key by label, CKA_ID in hex, persistent handle ("0x81000100") or
// PKCS #11 URI (RFC 7512: token, object, id, type, serial, manufacturer, model,
// slot-id; and pin-source=/path) and makes it ready for use: it logs in where the
// token has a PIN, and asks the TPM whether it has the key. A name that several
// keys answer to is ErrAmbiguous.
func Open(ctx context.Context, name string, opts ...Option) (*Key, error) {
	var o options
	for _, set := range opts {
		set(&o)
	}
	k, err := open(ctx, name, o)
	if err != nil {
		return nil, fmt.Errorf("open key %s: %w", printable(name), err)
	}
	return k, nil
}

func open(ctx context.Context, name string, o options) (*Key, error) {
	want, err := parseName(name)
	if err != nil {
		return nil, err
	}
	c, err := o.configuration()
	if err != nil {
		return nil, err
	}
	set, err := tokens.Open(c)
	if err != nil {
		return nil, err
	}
	if o.log != nil {
		warnOfProblems(set.Tokens, o.log)
	}
	k, err := openIn(ctx, set, want, o.pin)
	if err != nil {
		return nil, errors.Join(err, set.Close())
	}
	k.set = set
	if o.log != nil {
		k.log = o.log
	}
	return k, nil
}

// warnOfProblems tells what find passes over.
func warnOfProblems(all []*keystore.Token, log *slog.Logger) {
	for _, t := range all {
		problems, err := t.Problems()
		if err != nil {
			log.Warn("the store cannot be read", "store", t.Dir(), "error", err)
		}
		for _, p := range problems {
			log.Warn("a file of the store is passed over", "file", p.File, "error", p.Err)
		}
	}
}

func openIn(ctx context.Context, set *tokens.Set, want name, pin func() ([]byte, error)) (*Key, error) {
	found, err := find(set.Tokens, want)
	if err != nil {
		return nil, err
	}
	ownPIN, err := login(ctx, found, pinFrom(want.uri, pin))
	if err != nil {
		return nil, err
	}
	defer ownPIN.Wipe()
	if err := present(ctx, found.token.TPM(), found.entry.Object); err != nil {
		return nil, err
	}
	return ForEntry(found.token, found.entry, ownPIN)
}

// login brings what the key asks for besides its policy: the token's PIN, given
// to the token, or the key's own, returned.
func login(ctx context.Context, f candidate, pin func(missing error) (*secret.Bytes, error)) (ownPIN *secret.Bytes, err error) {
	auth, err := f.token.Auth(f.entry, nil)
	auth.Value.Wipe()
	switch {
	case errors.Is(err, ErrKeyPINNeeded):
		return pin(err)
	case !errors.Is(err, ErrPINNeeded):
		return nil, err
	}
	p, err := pin(err)
	if err != nil {
		return nil, err
	}
	defer p.Wipe()
	return nil, f.token.Login(ctx, keystore.User, p)
}

// pinFrom is where a PIN comes from: the URI's file, else the caller's callback.
func pinFrom(uri *p11uri.URI, callback func() ([]byte, error)) func(missing error) (*secret.Bytes, error) {
	return func(missing error) (*secret.Bytes, error) {
		if uri != nil && uri.PINSource != "" {
			return uri.ReadPIN()
		}
		if callback == nil {
			return nil, fmt.Errorf("%w: give it with signer.WithPIN, or name its file in a URI with ?pin-source=/path", missing)
		}
		pin, err := callback()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", missing, err)
		}
		if len(pin) == 0 {
			return nil, fmt.Errorf("%w: the one given is empty", missing)
		}
		return secret.From(pin), nil
	}
}

// present asks the TPM whether it has the key, so that a missing TPM or key is told when opening.
func present(ctx context.Context, t *provider.TPM, o provider.Object) error {
	if o.Handle == 0 {
		return t.Load(ctx, o)
	}
	public, err := t.ReadPublic(ctx, o.Handle)
	if err != nil {
		return err
	}
	if !bytes.Equal(public.Name(), o.Public.Name()) {
		return &provider.OtherObjectError{Handle: o.Handle, Want: o.Public.Name(), Have: public.Name()}
	}
	return nil
}
