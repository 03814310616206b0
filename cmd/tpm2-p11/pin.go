package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/keystore"
)

func pinCommand(a *app) *cobra.Command {
	return group("pin", "Change the token's PINs", pinSetCommand(a), pinResetCommand(a))
}

func pinSetCommand(a *app) *cobra.Command {
	var oldFile, newFile string
	var so bool
	c := &cobra.Command{
		Use:   "set",
		Short: "Change a PIN by the old one",
		Long: `set seals the keys' secret under a new PIN; the keys stay as they are.

A copy of the store from before still opens with the old PIN.`,
		Example: `  tpm2-p11 pin set
  tpm2-p11 pin set --pin-file old --new-pin-file new
  tpm2-p11 pin set --so`,
		Args: exactly(),
		RunE: a.verb(func(ctx context.Context, _ []string) error {
			t, err := a.tokenWithPIN()
			if err != nil {
				return err
			}
			role, whose := keystore.User, "PIN"
			if so {
				role, whose = keystore.SO, "security officer's PIN"
			}
			old, err := a.pin(ctx, "--pin-file", oldFile, "the old "+whose)
			if err != nil {
				return err
			}
			defer old.Wipe()
			fresh, err := a.newPIN(ctx, "--new-pin-file", newFile, "the new "+whose, false)
			if err != nil {
				return err
			}
			defer fresh.Wipe()
			if err := t.SetPIN(ctx, role, old, fresh); err != nil {
				return err
			}
			return a.printPINChanged(t, whose)
		}),
	}
	f := c.Flags()
	f.StringVar(&oldFile, "pin-file", "", "`FILE` (mode 0600) with the old PIN, - for standard input")
	f.StringVar(&newFile, "new-pin-file", "", "`FILE` (mode 0600) with the new PIN, 4 to 64 bytes")
	f.BoolVar(&so, "so", false, "the security officer's PIN instead of the user's")
	return c
}

func pinResetCommand(a *app) *cobra.Command {
	var soFile, newFile string
	c := &cobra.Command{
		Use:     "reset",
		Short:   "Set a new user PIN by the security officer's",
		Example: "  tpm2-p11 pin reset --so-pin-file so-pin --new-pin-file new",
		Args:    exactly(),
		RunE: a.verb(func(ctx context.Context, _ []string) error {
			t, err := a.tokenWithPIN()
			if err != nil {
				return err
			}
			so, err := a.pin(ctx, "--so-pin-file", soFile, "the security officer's PIN")
			if err != nil {
				return err
			}
			defer so.Wipe()
			fresh, err := a.newPIN(ctx, "--new-pin-file", newFile, "the new PIN", false)
			if err != nil {
				return err
			}
			defer fresh.Wipe()
			if err := t.ResetPIN(ctx, so, fresh); err != nil {
				return err
			}
			return a.printPINChanged(t, "PIN")
		}),
	}
	c.Flags().StringVar(&soFile, "so-pin-file", "", "`FILE` (mode 0600) with the security officer's PIN, - for standard input")
	c.Flags().StringVar(&newFile, "new-pin-file", "", "`FILE` (mode 0600) with the new PIN, 4 to 64 bytes")
	return c
}

// tokenWithPIN selects the token before anybody is asked for PINs that it does not have.
func (a *app) tokenWithPIN() (*keystore.Token, error) {
	t, err := a.initialized()
	if err != nil {
		return nil, err
	}
	if !t.HasPIN() {
		return nil, withHint(fmt.Errorf("token %q: %w", t.Label(), keystore.ErrNoPIN), "a token gets its PIN when `tpm2-p11 init` makes it")
	}
	return t, nil
}

func (a *app) printPINChanged(t *keystore.Token, whose string) error {
	return a.print(struct {
		Token   string `json:"token"`
		Changed bool   `json:"changed"`
	}{t.Label(), true}, func(w io.Writer) { fmt.Fprintf(w, "the %s of token %q is changed\n", whose, t.Label()) })
}
