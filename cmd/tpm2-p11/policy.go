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

// digestFlags are the flags of policy digest.
type digestFlags struct {
	pcrs         []string
	pcrFile, out string
}

func policyDigestCommand(a *app) *cobra.Command {
	var d digestFlags
	c := &cobra.Command{
		Use:   "digest [FILE]",
		Short: "Compute a policy's digest without a TPM",
		Long: `digest computes the digest that a key with this policy has as its authPolicy, without a TPM. PCR values and other
values must be given in the policy: "current" ones are read when a key is made.

With --pcr in place of FILE the policy is these PCRs, with the values in the file of --pcr-file, which pcr read --out and
tpm2_pcrread -o write, or else as they are now. --out writes the digest's bytes, as tpm2_createpolicy -L does.`,
		Example: `  tpm2-p11 policy digest web.toml
  tpm2-p11 policy digest --pcr sha256:0,1,2,7 --pcr-file pcrs --out pcr.policy`,
		RunE: a.verb(func(ctx context.Context, args []string) error {
			p, hash, err := a.policyToHash(ctx, args, d)
			if err != nil {
				return err
			}
			digest, err := p.Digest(hash)
			if err != nil {
				return err
			}
			if !toStdout(d.out) {
				return a.deliver(map[string]any{"hash": policy.BankName(hash), "digest": hex.EncodeToString(digest)}, d.out, digest, 0o644)
			}
			text := hex.EncodeToString(digest)
			return a.print(struct {
				Hash   string `json:"hash"`
				Digest string `json:"digest"`
			}{policy.BankName(hash), text}, func(w io.Writer) { fmt.Fprintln(w, text) })
		}),
	}
	f := c.Flags()
	f.StringArrayVar(&d.pcrs, "pcr", nil, "these `PCRS` alone, as sha256:0,1,2,7; may be repeated for other banks")
	f.StringVar(&d.pcrFile, "pcr-file", "", "`FILE` with the values of --pcr, one after the other")
	f.StringVarP(&d.out, "out", "o", "", "output `FILE` for the digest's bytes")
	return c
}

// policyToHash is the policy that the arguments of digest mean, and the hash of its digest.
func (a *app) policyToHash(ctx context.Context, args []string, d digestFlags) (policy.Policy, tpm2.TPMIAlgHash, error) {
	none := policy.Policy{}
	switch {
	case len(args) == 1 && len(d.pcrs) == 0 && d.pcrFile == "":
		f, err := a.readPolicy("FILE", args[0])
		if err != nil {
			return none, 0, err
		}
		p, err := f.Policy.Resolve(policy.State{File: keystore.ReadSigner}, true)
		if err != nil {
			err = fmt.Errorf("%s: %w", inputName(args[0]), leftOpen(err, ""))
		}
		return p, f.Hash, err
	case len(args) == 0 && len(d.pcrs) > 0:
		p, err := parsePCRs(d.pcrs)
		if err != nil {
			return none, 0, err
		}
		now := policy.State{}
		if d.pcrFile != "" {
			values, err := a.read("--pcr-file", d.pcrFile, maxInput)
			if err != nil {
				return none, 0, err
			}
			if now, err = pcrFileState(p, values); err != nil {
				return none, 0, withHint(fmt.Errorf("%s: %w", inputName(d.pcrFile), err),
					"it holds the values of --pcr one after the other, in its order: `tpm2-p11 pcr read %s --out FILE` writes one", strings.Join(d.pcrs, " "))
			}
		} else {
			t, err := a.token()
			if err != nil {
				return none, 0, err
			}
			now = t.PolicyState(ctx)
		}
		p, err = p.Resolve(now, true)
		return p, tpm2.TPMAlgSHA256, err
	}
	return none, 0, usagef("digest takes one FILE, or --pcr")
}

// pcrFileState is a TPM whose PCRs are in a file, in the order of a policy's selections.
func pcrFileState(p policy.Policy, values []byte) (policy.State, error) {
	pcrs := make(map[tpm2.TPMIAlgHash]map[uint][]byte)
	for _, pcr := range p.PCRs() {
		h, err := pcr.Bank.Hash()
		if err != nil {
			return policy.State{}, err
		}
		if pcrs[pcr.Bank] == nil {
			pcrs[pcr.Bank] = make(map[uint][]byte)
		}
		for _, i := range pcr.Indices() {
			if len(values) < h.Size() {
				return policy.State{}, fmt.Errorf("it ends before %s PCR %d", policy.BankName(pcr.Bank), i)
			}
			pcrs[pcr.Bank][i], values = values[:h.Size()], values[h.Size():]
		}
	}
	if len(values) > 0 {
		return policy.State{}, fmt.Errorf("it has %d bytes more than the PCRs that are named", len(values))
	}
	return policy.State{PCRs: func(bank tpm2.TPMIAlgHash, _ []uint) (map[uint][]byte, error) { return pcrs[bank], nil }}, nil
}

// leftOpen says of an error about a value that a policy leaves open, and that no TPM was asked for, where to get it; or is what the
// command at hand offers besides.
func leftOpen(err error, or string) error {
	var nameless *policy.NamelessError
	switch {
	case errors.As(err, &nameless):
		return withHint(err, "on the machine that has it `tpm2-p11 policy counter 0x%08x` prints the name of a counter, `tpm2-p11 policy approve --nv` that of an index of approvals, and `tpm2_nvreadpublic` any: "+
			"put it into the policy, name = \"000b…\"%s", uint32(nameless.Index), or)
	case errors.Is(err, policy.ErrUnknown):
		return withHint(policy.ErrUnresolved, "give the values in the policy%s", or)
	}
	return err
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
