package main

import (
	"context"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/keystore/tss2"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

func sealCommand(a *app) *cobra.Command {
	var pcrs []string
	var pinFile, in, format, out string
	var force bool
	c := &cobra.Command{
		Use:   "seal",
		Short: "Seal a secret to this TPM, its PCRs, a PIN",
		Long: fmt.Sprintf(`seal wraps a secret of at most %d bytes so that only this TPM opens it again; with --pcr only while those PCRs have
the values they have now, with --pin-file only by that PIN. It needs no store.

tss2 is one TSS2 PRIVATE KEY file. tpm2-tools is FILE.pub and FILE.priv, and with --pcr FILE.policy, which unseal takes.`, provider.MaxSealed),
		Example: `  echo "database password" | tpm2-p11 seal --pcr sha256:0,1,2,7 --out secret.tss2
  tpm2-p11 unseal secret.tss2`,
		Args: exactly(),
		RunE: a.verb(func(ctx context.Context, _ []string) error {
			if err := checkObjectFormat(format, out); err != nil {
				return err
			}
			p, err := parsePCRs(pcrs)
			if err != nil {
				return err
			}
			t, err := a.token()
			if err != nil {
				return err
			}
			var pin *secret.Bytes
			if pinFile != "" {
				if pin, err = a.readSealPIN(pinFile); err != nil {
					return err
				}
				defer pin.Wipe()
			}
			data, err := a.readSecret(in)
			if err != nil {
				return err
			}
			defer data.Wipe()
			k, err := seal(ctx, t.TPM(), data, p, pin, force)
			if err != nil {
				return err
			}
			if format == "tpm2-tools" {
				return a.writeTools(out, k)
			}
			text, err := encodeTSS2(k)
			if err != nil {
				return err
			}
			return a.deliver(map[string]any{"pem": string(text)}, out, text, 0o600)
		}),
	}
	f := c.Flags()
	f.StringArrayVar(&pcrs, "pcr", nil, "open only while these `PCRS` keep their values, as sha256:0,1,2,7; may be repeated for other banks")
	f.StringVar(&pinFile, "pin-file", "", "`FILE` (mode 0600) with a PIN to open it by, at most 32 bytes; - for standard input")
	f.BoolVar(&force, "force", false, "bind even to PCRs that look as if nothing had measured into them")
	f.StringVarP(&in, "in", "i", "", "input `FILE` (default: standard input)")
	objectFormatFlags(c, &format, &out)
	return c
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

func seal(ctx context.Context, t *provider.TPM, data *secret.Bytes, p policy.Policy, pin *secret.Bytes, force bool) (tss2.Key, error) {
	k := tss2.Key{Sealed: true, EmptyAuth: pin.Len() == 0}
	tmpl := provider.Template{DictionaryAttack: pin.Len() > 0}
	if !p.IsZero() {
		if pin.Len() > 0 {
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
	k.Object, err = t.Seal(ctx, data, tmpl, pin)
	return k, err
}
