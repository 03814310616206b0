package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/google/go-tpm/tpm2"
	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/policy/policyfile"
)

func policyCommand(a *app) *cobra.Command {
	return group("policy", "Write, sign and check policies", policyShowCommand(a), policyDigestCommand(a),
		policySignCommand(a), policyApproveCommand(a), policyRevokeCommand(a), policyCounterCommand(a), policyCheckCommand(a),
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
			}{policy.BankName(f.Hash), f.Policy}, func(w io.Writer) {
				if !f.Policy.IsZero() {
					fmt.Fprint(w, f.Policy.Explain())
				}
				for _, b := range f.Approved {
					fmt.Fprintf(w, "approved %q:\n%s", b.Name, indented(b.Policy.Explain()))
				}
			})
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
			p, err := f.Policy.Resolve(policy.State{File: keystore.ReadSigner}, true)
			if errors.Is(err, policy.ErrUnknown) {
				err = policy.ErrUnresolved
			}
			if err != nil {
				return fmt.Errorf("%s: %w", inputName(args[0]), err)
			}
			digest, err := p.Digest(f.Hash)
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

func indented(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString("  " + line)
	}
	return b.String()
}

// readKeyPolicy reads the policy of what is to be made, whose digest is of SHA-256.
func (a *app) readKeyPolicy(flag, path string) (policy.Policy, error) {
	f, err := a.readPolicy(flag, path)
	if err == nil && f.Hash != tpm2.TPMAlgSHA256 {
		err = fmt.Errorf("%s: its hash is %s, and what is made here has sha256", inputName(path), policy.BankName(f.Hash))
	}
	if err == nil && f.Policy.IsZero() {
		err = fmt.Errorf("%s: there is no [policy] in it", inputName(path))
	}
	return f.Policy, err
}

// readPolicy reads the policy file that an argument or a flag names.
func (a *app) readPolicy(flag, path string) (policyfile.File, error) {
	text, err := a.read(flag, path, maxInput)
	if err != nil {
		return policyfile.File{}, err
	}
	return policyfile.Parse(inputName(path), text)
}
