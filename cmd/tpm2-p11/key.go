package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/internal/p11uri"
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
	"github.com/tpm2-p11/tpm2-p11/signer"
)

func keyCommand(a *app) *cobra.Command {
	return group("key", "Make, list and change keys",
		keyCreateCommand(a), keyEnsureCommand(a), keyImportCommand(a), keyExportCommand(a), keyLinkCommand(a),
		keyListCommand(a), keyShowCommand(a), keyDeleteCommand(a), keyPersistCommand(a), keyEvictCommand(a),
		keyPublicCommand(a), keyCSRCommand(a), keySelfSignCommand(a), keyCertificateCommand(a),
		keyAttestCommand(a), keyVerifyAttestationCommand(a),
	)
}

// target is a key that a verb was told to use.
type target struct {
	token *keystore.Token
	entry keystore.Entry
	pin   pinSource
}

// pinSource says where a PIN comes from when one is needed: the file of a flag, or else that of the key's URI, or else a prompt.
type pinSource struct {
	flag, file string
	uri        p11uri.URI
}

func pinFlag(c *cobra.Command, p *pinSource) {
	p.flag = "--pin-file"
	c.Flags().StringVar(&p.file, "pin-file", "", "`FILE` (mode 0600) with the PIN of the token, or of the key if it has its own; - for standard input")
}

// pinFrom gives the PIN that a verb needs.
func (a *app) pinFrom(ctx context.Context, p pinSource, prompt string) (*secret.Bytes, error) {
	if p.file == "" && p.uri.PINSource != "" {
		return p.uri.ReadPIN()
	}
	return a.pin(ctx, p.flag, p.file, prompt)
}

// login opens the token with its user PIN.
func (a *app) login(ctx context.Context, t *keystore.Token, p pinSource) error {
	pin, err := a.pinFrom(ctx, p, "the PIN of token "+t.Label())
	if err != nil {
		return err
	}
	defer pin.Wipe()
	return t.Login(ctx, keystore.User, pin)
}

// withLogin does something in a token and, if that takes the token's PIN, does it again after a login.
func (a *app) withLogin(ctx context.Context, t *keystore.Token, p pinSource, do func() error) error {
	err := do()
	if !errors.Is(err, keystore.ErrLoginNeeded) {
		return err
	}
	if err := a.login(ctx, t, p); err != nil {
		return err
	}
	return do()
}

// use opens a key for private operations, asking for what it needs, and closes it after do.
func (a *app) use(ctx context.Context, k target, do func(*signer.Key) error) error {
	if k.pin.file != "" && !k.entry.TakesPIN() && !k.token.HasPIN() {
		a.note("key %q takes no PIN, and token %q has none: what %s names was not looked at", k.entry.Label, k.token.Label(), k.pin.flag)
	}
	var own *secret.Bytes
	given := k.pin.file != "" || k.pin.uri.PINSource != ""
	if k.entry.TakesPIN() && !k.entry.AsksPIN() && !k.entry.OwnPIN && given {
		if err := a.login(ctx, k.token, k.pin); err != nil {
			return err
		}
	}
	if k.entry.AsksOwnPIN() || k.entry.OwnPIN && k.entry.TakesPIN() && given {
		var err error
		if own, err = a.pinFrom(ctx, k.pin, "the PIN of key "+k.entry.Label); err != nil {
			return err
		}
		defer own.Wipe()
	}
	err := a.withLogin(ctx, k.token, k.pin, func() error {
		key, err := signer.ForEntry(k.token, k.entry, own)
		if err != nil {
			return err
		}
		return errors.Join(do(key), key.Close())
	})
	if errors.Is(err, provider.ErrAuth) && k.entry.EmptyAuth {
		counts := ""
		if counted(k.entry) {
			counts = ", and each use without it counts as a wrong PIN"
		}
		return withHint(err, "the key has an authorisation of its own%s: take it in again with --own-pin-file FILE, after "+
			"`tpm2-p11 key delete %s`, which leaves a linked key in the TPM", counts, shellWord(k.entry.Label))
	}
	return err
}
