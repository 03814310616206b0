package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

func lockoutCommand(a *app) *cobra.Command {
	return group("lockout", "Show and reset the TPM's dictionary-attack lockout", lockoutShowCommand(a), lockoutResetCommand(a))
}

type lockoutJSON struct {
	Locked   bool   `json:"locked"`
	Counter  uint32 `json:"counter"`  // wrong tries that still count
	Max      uint32 `json:"max"`      // as many lock the TPM
	Interval uint32 `json:"interval"` // seconds after which one try is forgotten
	Recovery uint32 `json:"recovery"` // seconds after a failed reset
	AuthSet  bool   `json:"auth_set"` // the lockout hierarchy has an authorisation
}

func (a *app) lockout(ctx context.Context) (l lockoutJSON, err error) {
	t, err := a.tpm()
	if err != nil {
		return l, err
	}
	p, err := t.Properties(ctx)
	if err != nil {
		return l, err
	}
	return lockoutJSON{p.InLockout, p.LockoutCounter, p.MaxAuthFail, p.LockoutInterval, p.LockoutRecovery, p.LockoutAuthSet}, nil
}

func (l lockoutJSON) text(w io.Writer) {
	state := "not locked"
	if l.Locked {
		state = "locked"
	}
	fmt.Fprintf(w, "%s: %d of %d wrong tries, one is forgotten every %s\n", state, l.Counter, l.Max, seconds(l.Interval))
	if l.AuthSet {
		fmt.Fprintf(w, "a reset takes the lockout authorisation, which somebody set; after a wrong one the TPM takes none before %s, and does not tell whether that is so now\n", recovery(l.Recovery))
	}
}

// recovery is when a lockout authorisation is taken again after a wrong one.
func recovery(n uint32) string {
	if n == 0 {
		return "the TPM's next restart"
	}
	return seconds(n).String() + " went by"
}

// explainReset says what to do about a reset that the TPM refused.
func (l lockoutJSON) explainReset(err error) error {
	switch {
	case errors.Is(err, provider.ErrHierarchyAuth):
		return withHint(err, "the TPM takes no lockout authorisation now, not even the right one, before %s", recovery(l.Recovery))
	case errors.Is(err, provider.ErrLockout):
		return withHint(fmt.Errorf("%w: a wrong lockout authorisation was given before", err),
			"the TPM takes none before %s; what it holds is not lost", recovery(l.Recovery))
	}
	return err
}

func seconds(n uint32) time.Duration { return time.Duration(n) * time.Second }

func lockoutShowCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "show",
		Short:   "Show how many wrong tries count and whether the TPM is locked",
		Example: "  tpm2-p11 lockout show",
		Args:    exactly(),
		RunE: a.verb(func(ctx context.Context, _ []string) error {
			l, err := a.lockout(ctx)
			if err != nil {
				return err
			}
			return a.print(l, l.text)
		}),
	}
}

func lockoutResetCommand(a *app) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "reset",
		Short: "Clear the count of wrong tries",
		Long: `reset takes the TPM's lockout authorisation, which is empty unless somebody set it.

A wrong one locks reset itself for the TPM's recovery time, or until its next restart where that is 0.`,
		Example: `  tpm2-p11 lockout reset
  tpm2-p11 lockout reset --lockout-auth-file auth`,
		Args: exactly(),
		RunE: a.verb(func(ctx context.Context, _ []string) error {
			before, err := a.lockout(ctx)
			if err != nil {
				return err
			}
			var auth *secret.Bytes
			if file != "" || before.AuthSet {
				if auth, err = a.pin(ctx, "--lockout-auth-file", file, "the TPM's lockout authorisation"); err != nil {
					return err
				}
				defer auth.Wipe()
			}
			t, err := a.tpm()
			if err != nil {
				return err
			}
			if err := t.ResetLockout(ctx, auth); err != nil {
				return before.explainReset(err)
			}
			after, err := a.lockout(ctx)
			if err != nil {
				return err
			}
			return a.print(after, after.text)
		}),
	}
	c.Flags().StringVar(&file, "lockout-auth-file", "", "`FILE` (mode 0600) with the TPM's lockout authorisation, - for standard input")
	return c
}
