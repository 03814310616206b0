package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/policy/policyfile"
)

func policyCommand(a *app) *cobra.Command {
	return group("policy", "Write, sign and check policies", policyShowCommand(a), policyDigestCommand(a),
		policyPredictCommand(a), policyEventsCommand(a))
}

func policyShowCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "show FILE",
		Short: "Say a policy in plain words",
		Long: `show reads a policy, TOML or JSON, and says what it requires; with --json it prints the policy in its one canonical form. It
asks no TPM.`,
		Example: "  tpm2-p11 policy show web.toml",
		Args:    exactly("FILE"),
		RunE: a.verb(func(_ context.Context, args []string) error {
			f, err := a.readPolicy("FILE", args[0])
			if err != nil {
				return err
			}
			return a.print(struct {
				Hash   string        `json:"hash"`
				Policy policy.Policy `json:"policy"`
			}{policy.BankName(f.Hash), f.Policy}, func(w io.Writer) { fmt.Fprint(w, f.Policy.Explain()) })
		}),
	}
}

func policyDigestCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "digest FILE",
		Short: "Compute a policy's digest without a TPM",
		Long: `digest computes the digest that a key with this policy has as its authPolicy, without a TPM. PCR values and other
values must be given in the policy: "current" ones are read when a key is made.`,
		Example: "  tpm2-p11 policy digest web.toml",
		Args:    exactly("FILE"),
		RunE: a.verb(func(_ context.Context, args []string) error {
			f, err := a.readPolicy("FILE", args[0])
			if err != nil {
				return err
			}
			digest, err := f.Policy.Digest(f.Hash)
			if err != nil {
				return fmt.Errorf("%s: %w", inputName(args[0]), err)
			}
			text := hex.EncodeToString(digest)
			return a.print(struct {
				Hash   string `json:"hash"`
				Digest string `json:"digest"`
			}{policy.BankName(f.Hash), text}, func(w io.Writer) { fmt.Fprintln(w, text) })
		}),
	}
}

// readPolicy reads the policy file that an argument or a flag names.
func (a *app) readPolicy(flag, path string) (policyfile.File, error) {
	text, err := a.read(flag, path, maxInput)
	if err != nil {
		return policyfile.File{}, err
	}
	return policyfile.Parse(inputName(path), text)
}
