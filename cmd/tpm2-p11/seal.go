package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/keystore/tss2"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// sealFlags are the flags of seal.
type sealFlags struct {
	pcrs                     []string
	policy, again            string
	pinFile, in, format, out string
	noPolicy, force          bool
}

func sealCommand(a *app) *cobra.Command {
	var s sealFlags
	c := &cobra.Command{
		Use:   "seal",
		Short: "Seal a secret to this TPM, its PCRs, a PIN",
		Long: fmt.Sprintf(`seal wraps a secret of at most %d bytes so that only this TPM opens it again; with --pcr only while those PCRs have
the values they have now, with --policy only while the policy of a file is met, with --pin-file only by that PIN. It needs no
store.

A policy that is not met now is sealed to all the same, with a warning.

With --again it opens a TSS2 file that it wrote before, by the same PIN, and seals what is in it anew: to PCRs as they are
now, say, before an update makes the old policy fail. The file is replaced unless --out names another.

tss2 is one TSS2 PRIVATE KEY file. tpm2-tools is FILE.pub and FILE.priv, and with a policy FILE.policy, which unseal takes.`, provider.MaxSealed),
		Example: `  echo "database password" | tpm2-p11 seal --pcr sha256:0,1,2,7 --out secret.tss2
  tpm2-p11 unseal secret.tss2
  tpm2-p11 seal --again secret.tss2 --policy web.toml`,
		Args: exactly(),
		RunE: a.verb(func(ctx context.Context, _ []string) error { return a.seal(ctx, s) }),
	}
	f := c.Flags()
	f.StringArrayVar(&s.pcrs, "pcr", nil, "open only while these `PCRS` keep their values, as sha256:0,1,2,7; may be repeated for other banks")
	f.StringVar(&s.policy, "policy", "", "open only while the policy in this `FILE` is met, TOML or JSON")
	f.BoolVar(&s.noPolicy, "no-policy", false, "seal without the configuration's policy")
	f.StringVar(&s.again, "again", "", "seal anew what is in this sealed `FILE`")
	f.StringVar(&s.pinFile, "pin-file", "", "`FILE` (mode 0600) with a PIN to open it by, at most 32 bytes; - for standard input")
	f.BoolVar(&s.force, "force", false, "bind even to PCRs that look as if nothing had measured into them")
	f.StringVarP(&s.in, "in", "i", "", "input `FILE` (default: standard input)")
	objectFormatFlags(c, &s.format, &s.out)
	return c
}

func (a *app) seal(ctx context.Context, s sealFlags) error {
	switch {
	case s.noPolicy && (s.policy != "" || len(s.pcrs) > 0) || s.policy != "" && len(s.pcrs) > 0:
		return usagef("--pcr, --policy and --no-policy exclude each other")
	case s.again != "" && s.in != "":
		return usagef("--again and --in exclude each other")
	case s.again != "" && s.out == "" && s.format == "tss2" && s.again != "-":
		s.out = s.again
	}
	if err := checkObjectFormat(s.format, s.out); err != nil {
		return err
	}
	p, err := parsePCRs(s.pcrs)
	if err != nil {
		return err
	}
	t, err := a.token()
	if err != nil {
		return err
	}
	switch {
	case s.policy != "":
		if p, err = a.readKeyPolicy("--policy", s.policy); err != nil {
			return err
		}
	case p.IsZero() && !s.noPolicy:
		p = t.DefaultPolicy()
	}
	var pin *secret.Bytes
	if s.pinFile != "" {
		if pin, err = a.readSealPIN(s.pinFile); err != nil {
			return err
		}
		defer pin.Wipe()
	}
	data, err := a.toSeal(ctx, t, s, pin)
	if err != nil {
		return err
	}
	defer data.Wipe()
	k, err := seal(ctx, t, data, p, pin, s.force)
	if err != nil {
		return err
	}
	if err := a.warnUnmet(ctx, t, k, s.policy); err != nil {
		return err
	}
	if s.format == "tpm2-tools" {
		return a.writeTools(s.out, k)
	}
	text, err := encodeTSS2(k)
	if err != nil {
		return err
	}
	return a.deliver(map[string]any{"pem": string(text)}, s.out, text, 0o600)
}

// warnUnmet says of a policy that is not met now why unseal would be refused: it may be meant for the next boot, or never be met.
func (a *app) warnUnmet(ctx context.Context, t *keystore.Token, k tss2.Key, file string) error {
	now := t.PolicyState(ctx)
	now.Command, now.NoPIN = tpm2.TPMCCUnseal, k.EmptyAuth
	err := k.Policy.Check(now)
	if err == nil {
		return nil
	}
	var unmet *policy.UnsatisfiedError
	if !errors.As(err, &unmet) {
		return a.warn(fmt.Sprintf("whether unseal would be refused now cannot be told: %v", err))
	}
	named := *unmet
	if file != "" {
		named.Label = inputName(file)
	}
	text := fmt.Sprintf("unseal would be refused now: %v", &named)
	if hint := meetPolicy(unmet); hint != "" {
		text += " - " + hint
	}
	return a.warn(a.inContext(text))
}

// toSeal is the secret: of the input, or of what was sealed before.
func (a *app) toSeal(ctx context.Context, t *keystore.Token, s sealFlags, pin *secret.Bytes) (*secret.Bytes, error) {
	if s.again == "" {
		return a.readSecret(s.in)
	}
	k, err := a.readSealedPEM(s.again)
	if err != nil {
		return nil, err
	}
	auth := provider.Auth{Policy: k.Policy, Label: inputName(s.again), Approved: t.ApprovedFor(k.Approved)}
	if !k.EmptyAuth {
		auth.Value = pin
	}
	return t.TPM().Unseal(ctx, k.Object, auth)
}

// maxSealPIN is the size of an authValue under SHA-256, in bytes: what other tools can give too.
const maxSealPIN = 32

func (a *app) readSealPIN(path string) (*secret.Bytes, error) {
	pin, err := a.readPIN("--pin-file", path)
	if err != nil {
		return nil, err
	}
	if pin.Len() > maxSealPIN {
		pin.Wipe()
		return nil, fmt.Errorf("the PIN is longer than %d bytes", maxSealPIN)
	}
	return pin, nil
}

func (a *app) readSecret(in string) (*secret.Bytes, error) {
	b, err := a.read("--in", in, provider.MaxSealed)
	if err != nil {
		return nil, withHint(err, "seal a key of 32 bytes and encrypt the rest with it")
	}
	if len(b) == 0 {
		return nil, fmt.Errorf("%s is empty: there is nothing to seal", inputName(in))
	}
	return secret.From(b), nil
}

func seal(ctx context.Context, t *keystore.Token, data *secret.Bytes, p policy.Policy, pin *secret.Bytes, force bool) (tss2.Key, error) {
	k := tss2.Key{Sealed: true, EmptyAuth: pin.Len() == 0}
	tmpl := provider.Template{DictionaryAttack: pin.Len() > 0}
	if !p.IsZero() {
		if pin.Len() == 0 && p.NeedsPIN() {
			return k, withHint(fmt.Errorf("the policy asks for a PIN"), "give it by --pin-file FILE")
		}
		if pin.Len() > 0 && !p.NeedsPIN() {
			p = p.And(policy.PIN{})
		}
		var err error
		if p, err = p.Resolve(t.PolicyState(ctx), force); err != nil {
			return k, err
		}
		if tmpl.AuthPolicy, err = p.Digest(tpm2.TPMAlgSHA256); err != nil {
			return k, err
		}
		k.Policy = p
	}
	var err error
	k.Object, err = t.TPM().Seal(ctx, data, tmpl, pin)
	return k, err
}
