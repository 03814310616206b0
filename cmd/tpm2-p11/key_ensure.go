package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/internal/tokens"
	"github.com/tpm2-p11/tpm2-p11/keystore"
)

func keyEnsureCommand(a *app) *cobra.Command {
	var pin pinSource
	c := &cobra.Command{
		Use:   "ensure [LABEL…]",
		Short: "Make what the configuration declares",
		Long: `ensure brings about the keys that the configuration declares in [[key]] tables, or only those named.

A key that the store has is left alone, one that only the TPM still holds is adopted, and one that is missing is made.
A store that does not exist yet is made first, without a PIN. Where one key fails the others are made. The second time
nothing changes.`,
		Example: `  tpm2-p11 key ensure
  tpm2-p11 key ensure web --json`,
		ValidArgsFunction: a.completeDeclared,
		RunE: a.verb(func(ctx context.Context, labels []string) error {
			return a.ensure(ctx, labels, pin)
		}),
	}
	pinFlag(c, &pin)
	return c
}

type ensuredJSON struct {
	Label   string `json:"label"`
	Outcome string `json:"outcome"` // unchanged, created, adopted, updated, failed
	Handle  string `json:"handle,omitempty"`
	Token   string `json:"token"`
	Error   string `json:"error,omitempty"`
}

// ensure goes on after a key that fails, as the others may be what the machine boots for.
func (a *app) ensure(ctx context.Context, labels []string, pin pinSource) error {
	indices, err := a.selected()
	if err != nil {
		return err
	}
	results, missing := []ensuredJSON{}, slices.Clone(labels)
	var failures error
	for _, i := range indices {
		t := a.set.Tokens[i]
		for _, d := range a.set.DeclaredFor(i) {
			if len(labels) > 0 && !slices.Contains(labels, d.Label) {
				continue
			}
			missing = slices.DeleteFunc(missing, func(l string) bool { return l == d.Label })
			e, outcome, err := a.ensureKey(ctx, i, d, pin)
			r := ensuredJSON{Label: d.Label, Token: t.Label(), Outcome: string(outcome), Handle: formatHandle(e.Object.Handle)}
			if err != nil {
				r.Outcome, r.Handle, r.Error = "failed", "", err.Error()
				failures = errors.Join(failures, err)
			}
			results = append(results, r)
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	if len(missing) > 0 {
		failures = errors.Join(failures, withHint(fmt.Errorf("the configuration declares no key %q", missing[0]), "add a [[key]] table to %s", dash(a.set.Config.Path)))
	}
	err = a.print(struct {
		Keys []ensuredJSON `json:"keys"`
	}{results}, func(w io.Writer) {
		for _, r := range results {
			fmt.Fprintf(w, "%s: %s\n", r.Label, r.Outcome)
		}
		if len(results) == 0 && failures == nil {
			a.note("the configuration declares no keys")
		}
	})
	return errors.Join(err, failures)
}

// ensureKey brings a declared key of token i about, and the token's store before, if it has none.
func (a *app) ensureKey(ctx context.Context, i int, d tokens.Declaration, pin pinSource) (e keystore.Entry, outcome keystore.Outcome, err error) {
	if d.Err != nil {
		return e, outcome, withHint(d.Err, mendDeclaration)
	}
	t := a.set.Tokens[i]
	if !t.Initialized() {
		if err := a.initForEnsure(ctx, i); err != nil {
			return e, outcome, fmt.Errorf("key %q: %w", d.Label, err)
		}
	}
	err = a.withLogin(ctx, t, pin, func() (err error) {
		defer a.progress(ctx, "making sure of key "+d.Label)()
		e, outcome, err = t.Ensure(ctx, d.Declared)
		return err
	})
	return e, outcome, err
}

func (a *app) initForEnsure(ctx context.Context, i int) error {
	return a.set.Tokens[i].Init(ctx, keystore.InitOptions{Label: cmp.Or(a.set.Config.Tokens[i].Label, defaultLabel)})
}

func (a *app) completeDeclared(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if _, err := a.open(); err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var labels []cobra.Completion
	for _, t := range a.set.Config.Tokens {
		for _, k := range t.Keys {
			labels = append(labels, k.Label)
		}
	}
	return labels, cobra.ShellCompDirectiveNoFileComp
}

// mendDeclaration is what to do about a declaration that cannot be read.
const mendDeclaration = "correct the declaration, or put the file there; for a key that is yet to be made leave `certificate` out until it has one"
