package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

func policyCheckCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "check KEY",
		Short: "Say whether a key's policy would be met now",
		Long: `check compares a key's policy with what the TPM says now, without using the key, and says what is in the way. It neither needs
nor tries a PIN.`,
		Example: "  tpm2-p11 policy check web",
		Args:    exactly("KEY"), ValidArgsFunction: a.completeKeys,
		RunE: a.verb(func(ctx context.Context, args []string) error {
			k, err := a.find(args[0])
			if err != nil {
				return err
			}
			v, err := checkPolicy(ctx, k.token, k.entry)
			if err != nil {
				return err
			}
			if v.unmet != nil && !a.global.json {
				return fmt.Errorf("%w: %w", provider.ErrPolicy, v.unmet)
			}
			if err := a.print(v, func(w io.Writer) { fmt.Fprintln(w, v.text(k.entry.Label)) }); err != nil {
				return err
			}
			if v.unmet != nil {
				return errReported
			}
			return nil
		}),
	}
}

// verdict is what a key's policy says of a use now.
type verdict struct {
	Label    string `json:"label"`
	Allowed  bool   `json:"allowed"`
	Enforced bool   `json:"enforced"` // there is a policy, and the TPM goes by it
	PIN      string `json:"pin"`      // whose it takes besides: own, token or none
	Reason   string `json:"reason,omitempty"`
	unmet    *policy.UnsatisfiedError
}

func checkPolicy(ctx context.Context, t *keystore.Token, e keystore.Entry) (verdict, error) {
	v := verdict{Label: e.Label, Allowed: true, PIN: pinKind(e), Enforced: len(e.Object.Public.AuthPolicy()) > 0 && !e.PolicyIgnored()}
	switch {
	case e.PolicyErr != nil:
		return v, e.PolicyErr
	case !v.Enforced:
		return v, nil
	}
	err := e.Policy.Check(t.PolicyStateOf(ctx, e))
	if errors.As(err, &v.unmet) {
		named := *v.unmet
		named.Label = e.Label
		v.unmet, v.Allowed, v.Reason = &named, false, named.Error()
		return v, nil
	}
	return v, err
}

func (v verdict) text(label string) string {
	s := fmt.Sprintf("key %q: its policy is met now", label)
	if !v.Enforced {
		s = fmt.Sprintf("key %q: there is no policy that the TPM goes by", label)
	}
	switch v.PIN {
	case "own":
		return s + "; it takes its own PIN"
	case "token":
		return s + "; it takes the token's PIN"
	}
	return s
}
