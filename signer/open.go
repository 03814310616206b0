package signer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/tpm2-p11/tpm2-p11/internal/p11uri"
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/internal/tokens"
	"github.com/tpm2-p11/tpm2-p11/keystore"
)

// Open finds a key by label, CKA_ID in hex, persistent handle ("0x81000100") or
// PKCS #11 URI (RFC 7512: token, object, id, type, serial, manufacturer, model,
// slot-id; and pin-source=/path) and makes it ready for use: it logs in where the
// token has a PIN, and asks the TPM whether it has the key. A name that several
// keys answer to is ErrAmbiguous.
//
// Where the configuration names a socket, or WithSocket does, the key is a
// server's (`tpm2-p11 serve --socket`): this process needs no right to the TPM or
// to the keys' files, and a server that is restarted is found again. Persistent
// handles are no names there. What the server cannot do is told without its
// reason, which is in its log: an ErrPolicy, say, without a PolicyError.
func Open(ctx context.Context, name string, opts ...Option) (*Key, error) {
	var o options
	for _, set := range opts {
		set(&o)
	}
	k, err := open(ctx, name, o)
	if err != nil {
		return nil, fmt.Errorf("open key %s: %w", tokens.QuoteName(name), err)
	}
	return k, nil
}

func open(ctx context.Context, name string, o options) (*Key, error) {
	want, err := tokens.ParseName(name)
	if err != nil {
		return nil, err
	}
	if want.URI != nil {
		if kind, ok := want.URI.Path[p11uri.Type]; ok && kind != "private" {
			return nil, fmt.Errorf("%w: it names an object of type %q, and a private key is wanted", p11uri.ErrSyntax, kind)
		}
	}
	c, err := o.configuration()
	if err != nil {
		return nil, err
	}
	if c.Socket != "" {
		return openServed(ctx, c.Socket, want, o)
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
	if o.log != nil {
		k.log = o.log
	}
	return k, nil
}

// warnOfProblems tells what Set.Find passes over.
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

func openIn(ctx context.Context, set *tokens.Set, want tokens.Name, pin func() ([]byte, error)) (*Key, error) {
	found, err := set.Find(want, nil)
	if err != nil {
		return nil, withNextStep(err, want)
	}
	ownPIN, err := login(ctx, found, pinFrom(want.URI, pin))
	if err != nil {
		return nil, err
	}
	defer ownPIN.Wipe()
	// A missing TPM or key is told when opening.
	if err := found.Token.TPM().Check(ctx, found.Entry.Object); err != nil {
		return nil, err
	}
	return forEntry(&tpmHome{token: found.Token, entry: found.Entry, set: set}, ownPIN)
}

// withNextStep adds to an error of finding a key what its reader can do.
func withNextStep(err error, want tokens.Name) error {
	switch {
	case errors.Is(err, ErrNotInitialized):
		return fmt.Errorf("%w: run `tpm2-p11 init` first", err)
	case errors.Is(err, ErrNotFound) && want.Handle != 0:
		return fmt.Errorf("%w: adopt a key that other tools made with `tpm2-p11 key link 0x%08x`", err, uint32(want.Handle))
	case errors.Is(err, ErrNotFound):
		return fmt.Errorf("%w: `tpm2-p11 key list` shows what there is", err)
	}
	return err
}

// login brings what the key asks for besides its policy: the token's PIN, given
// to the token, or the key's own, returned.
func login(ctx context.Context, k tokens.Key, pin func(missing error) (*secret.Bytes, error)) (ownPIN *secret.Bytes, err error) {
	auth, err := k.Token.Auth(k.Entry, nil)
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
	return nil, k.Token.Login(ctx, keystore.User, p)
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
