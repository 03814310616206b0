package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// defaultLabel names a token that nobody named.
const defaultLabel = "tpm2-p11"

func initCommand(a *app) *cobra.Command {
	var label, pinFile, soPINFile string
	var noPIN, force bool
	c := &cobra.Command{
		Use:   "init",
		Short: "Make the store and find or make the TPM's storage root key",
		Long: `init makes the store: one token, with a PIN or without one.

PIN files are for their owner's eyes: mode 0600. A PIN has 4 to 64 bytes.
With --force a store begins anew and keeps its label; the keys that need the former token's PIN are lost.

The name of the TPM's storage root key is written down, and only that key is trusted from then on. If another program
removed it, init brings it back in the store that was made with it, and keys and PINs are as they were.
With a PIN, the keys' secret is sealed in the TPM under it and under the security officer's PIN.
Without one, whoever may use the TPM and read the store may use the keys, as far as their policies allow.`,
		Example: `  tpm2-p11 init --no-pin
  tpm2-p11 init --label web --pin-file pin --so-pin-file so-pin`,
		Args: exactly(),
		RunE: a.verb(func(ctx context.Context, _ []string) error {
			if noPIN && (pinFile != "" || soPINFile != "") {
				return usagef("--no-pin and a PIN file exclude each other")
			}
			t, index, err := a.tokenToInit(label)
			if err != nil {
				return err
			}
			o := keystore.InitOptions{Label: label, Force: force}
			o.Label = cmp.Or(o.Label, t.Label(), a.set.Config.Tokens[index].Label, defaultLabel)
			switch err := t.Check(); {
			case err == nil && !force:
				return a.restore(ctx, t)
			case err != nil && !errors.Is(err, keystore.ErrNotInitialized):
				return err // --force is not for files that may be mended
			}
			former, err := formerKeys(t)
			if err != nil {
				return err
			}
			if !noPIN {
				if o.UserPIN, o.SOPIN, err = a.initPINs(ctx, pinFile, soPINFile); err != nil {
					return err
				}
				defer o.UserPIN.Wipe()
				defer o.SOPIN.Wipe()
			}
			if err := t.Init(ctx, o); err != nil {
				return err
			}
			if err := former.sort(ctx, t); err != nil {
				return err
			}
			return a.printToken(t, former)
		}),
	}
	f := c.Flags()
	f.StringVar(&label, "label", "", "the token's `LABEL`, at most 32 bytes (default: the former token's, the configuration's, or "+defaultLabel+")")
	f.StringVar(&pinFile, "pin-file", "", "`FILE` (mode 0600) with the user's PIN, 4 to 64 bytes; - for standard input")
	f.StringVar(&soPINFile, "so-pin-file", "", "`FILE` (mode 0600) with the security officer's PIN, 4 to 64 bytes")
	f.BoolVar(&noPIN, "no-pin", false, "make a token that needs no PIN")
	f.BoolVar(&force, "force", false, "begin an initialised store anew; its keys that need the former PIN are lost")
	return c
}

// restore brings the storage root key of an initialised store back, if it was removed.
func (a *app) restore(ctx context.Context, t *keystore.Token) error {
	h, err := t.RestoreSRK(ctx)
	switch {
	case errors.Is(err, provider.ErrParentChanged):
		return withHint(err, beginAnew)
	case err != nil:
		return err
	case h == 0:
		return fmt.Errorf("%s: %w", t.Dir(), keystore.ErrInitialized)
	}
	answer := struct {
		Token    tokenJSON `json:"token"`
		Restored string    `json:"restored_storage_root_key"`
	}{tokenOf(t), formatHandle(h)}
	return a.print(answer, func(w io.Writer) {
		fmt.Fprintf(w, "token %q has its storage root key again, at %s: keys and PINs are as they were\n", t.Label(), formatHandle(h))
	})
}

// tokenToInit is the token that --token selects, or the only one, or the one that label is meant for in the configuration.
func (a *app) tokenToInit(label string) (*keystore.Token, int, error) {
	set, err := a.open()
	if err != nil {
		return nil, 0, err
	}
	if len(set.Tokens) == 1 {
		label = ""
	}
	i, err := a.tokenIndex(label)
	if err != nil {
		return nil, 0, err
	}
	return set.Tokens[i], i, nil
}

// initPINs reads or asks for the two PINs; both nil when a person wants none.
func (a *app) initPINs(ctx context.Context, pinFile, soPINFile string) (user, so *secret.Bytes, err error) {
	if pinFile == "" {
		if t, err := a.ask(); err == nil {
			t.Close()
		} else {
			return nil, nil, withHint(usagef("with a PIN or without? There is no terminal to ask"),
				"add --no-pin, or --pin-file FILE and --so-pin-file FILE")
		}
	}
	user, err = a.newPIN(ctx, "--pin-file", pinFile, "the PIN of the new token", true)
	if err != nil || user.Len() == 0 {
		return nil, nil, err
	}
	so, err = a.newPIN(ctx, "--so-pin-file", soPINFile, "the security officer's PIN", false)
	if err != nil {
		user.Wipe()
		return nil, nil, err
	}
	return user, so, nil
}

type tokenJSON struct {
	Label  string `json:"label"`
	Serial string `json:"serial"`
	Store  string `json:"store"`
	TPM    string `json:"tpm"`
	PIN    bool   `json:"pin"`
}

func tokenOf(t *keystore.Token) tokenJSON {
	return tokenJSON{t.Label(), t.Serial(), t.Dir(), t.TPM().String(), t.HasPIN()}
}

// former are the keys of a store that begins anew.
type former struct {
	Kept []string `json:"kept_keys,omitempty"`
	Lost []string `json:"lost_keys,omitempty"`

	needsPIN map[string]bool // by ID: the key's secret went with the former token's PIN
}

func formerKeys(t *keystore.Token) (*former, error) {
	f := &former{needsPIN: map[string]bool{}}
	if !t.Initialized() {
		return f, nil
	}
	entries, err := t.Keys()
	for _, e := range entries {
		// Without a token's PIN every authValue passes for the key's own; what people choose is under dictionary-attack protection.
		f.needsPIN[e.ID] = e.AsksPIN() && (!e.OwnPIN || e.Object.Public.Attributes().NoDA)
	}
	return f, err
}

// sort tells the keys that work in the new token, or might, from those that cannot.
func (f *former) sort(ctx context.Context, t *keystore.Token) error {
	entries, err := t.Keys()
	for _, e := range entries {
		if f.needsPIN[e.ID] || present(ctx, t.TPM(), e) != nil {
			f.Lost = append(f.Lost, e.Label)
		} else {
			f.Kept = append(f.Kept, e.Label)
		}
	}
	return err
}

func (a *app) printToken(t *keystore.Token, keys *former) error {
	answer := struct {
		Token tokenJSON `json:"token"`
		*former
	}{tokenOf(t), keys}
	return a.print(answer, func(w io.Writer) {
		pin := "with a PIN"
		if !t.HasPIN() {
			pin = "without a PIN"
		}
		fmt.Fprintf(w, "token %q, %s, is ready in %s\n", t.Label(), pin, t.Dir())
		if len(keys.Kept) > 0 {
			fmt.Fprintf(w, "keys that work on: %s\n", strings.Join(keys.Kept, ", "))
		}
		if len(keys.Lost) > 0 {
			fmt.Fprintf(w, "keys that are lost: %s (`tpm2-p11 key delete` removes what is left of one)\n", strings.Join(keys.Lost, ", "))
		}
	})
}
