package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/keystore/tss2"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/policy/policyfile"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

type unsealFlags struct {
	public, private, parent string
	policy                  string
	pcrs                    []string
	pin                     pinSource
	out                     string
}

func unsealCommand(a *app) *cobra.Command {
	var f unsealFlags
	c := &cobra.Command{
		Use:   "unseal [FILE | HANDLE]",
		Short: "Open a sealed secret",
		Long: `unseal opens what seal, tpm2-tools (--public and --private) or another writer of TSS2 files sealed in this TPM, and
sealed data that lie at a persistent handle.

Files of tpm2-tools, and the TPM, hold no policy: name it with --policy FILE, which seal wrote, or with --pcr. A file is written
readable by its owner alone.`,
		Example: `  tpm2-p11 unseal secret.tss2
  tpm2-p11 unseal --public secret.pub --private secret.priv --policy secret.policy --out secret`,
		RunE: a.verb(func(ctx context.Context, args []string) error {
			t, err := a.token()
			if err != nil {
				return err
			}
			k, name, err := a.readSealed(ctx, t, args, f)
			if err != nil {
				return err
			}
			auth := provider.Auth{Policy: k.Policy, Label: name, Approved: t.ApprovedFor(k.Approved)}
			if !k.EmptyAuth && (f.pin.file != "" || k.Policy.IsZero() || k.Policy.RequiresPIN()) {
				if auth.Value, err = a.pin(ctx, f.pin.flag, f.pin.file, "the PIN of "+name); err != nil {
					return err
				}
				defer auth.Value.Wipe()
			}
			data, err := t.TPM().Unseal(ctx, k.Object, auth)
			if f.public != "" {
				err = otherParent(err)
			}
			if err != nil {
				return err
			}
			defer data.Wipe()
			return a.deliverSecret("data", f.out, data.Bytes())
		}),
	}
	f.pin.flag = "--pin-file"
	flags := c.Flags()
	flags.StringVar(&f.public, "public", "", "`FILE` with tpm2-tools' public part")
	flags.StringVar(&f.private, "private", "", "`FILE` with tpm2-tools' private part")
	parentFlag(c, &f.parent)
	flags.StringVar(&f.policy, "policy", "", "`FILE` with the policy, for --public and --private, or a HANDLE")
	flags.StringArrayVar(&f.pcrs, "pcr", nil, "the policy's `PCRS`, for --public and --private, or a HANDLE")
	flags.StringVar(&f.pin.file, "pin-file", "", "`FILE` (mode 0600) with the PIN, - for standard input")
	flags.StringVarP(&f.out, "out", "o", "", "output `FILE` (default: standard output)")
	return c
}

// readSealed reads what shall be opened, and what it is called in messages.
func (a *app) readSealed(ctx context.Context, t *keystore.Token, args []string, f unsealFlags) (tss2.Key, string, error) {
	switch {
	case len(args) == 1 && f.public == "" && f.private == "" && f.policy == "" && f.parent == "" && len(f.pcrs) == 0 && !isHandle(args[0]):
		k, err := a.readSealedPEM(args[0])
		return k, inputName(args[0]), err
	case len(args) == 1 && f.public == "" && f.private == "" && f.parent == "" && isHandle(args[0]):
		k, err := a.readSealedHandle(ctx, t, args[0], f)
		return k, args[0], err
	case len(args) == 0 && f.public != "" && f.private != "":
		k, err := a.readSealedTools(ctx, t, f)
		return k, filepath.Base(f.public), err
	}
	return tss2.Key{}, "", usagef("unseal takes one FILE or HANDLE, or --public and --private")
}

func (a *app) readSealedPEM(path string) (tss2.Key, error) {
	text, err := a.read("FILE", path, maxInput)
	if err != nil {
		return tss2.Key{}, err
	}
	k, err := decodeTSS2(text)
	if err != nil {
		err = fmt.Errorf("%s: %w", inputName(path), err)
		if errors.Is(err, tss2.ErrMalformed) {
			err = withHint(err, "name a file that `tpm2-p11 seal` wrote; those of tpm2-tools are named by --public and --private")
		}
		return k, err
	}
	return k, checkSealed(k.Object.Public, path)
}

func (a *app) readSealedTools(ctx context.Context, t *keystore.Token, f unsealFlags) (k tss2.Key, err error) {
	k = tss2.Key{Sealed: true, EmptyAuth: f.pin.file == ""}
	if k.Object, err = a.readTools(f.public, f.private, f.parent); err != nil {
		return k, err
	}
	return k, a.findSealedPolicy(ctx, t, &k, f.public, f)
}

// isHandle tells a handle from a file.
func isHandle(s string) bool {
	_, err := parseHandle(s)
	return err == nil
}

// readSealedHandle takes sealed data that are persistent in the TPM.
func (a *app) readSealedHandle(ctx context.Context, t *keystore.Token, handle string, f unsealFlags) (k tss2.Key, err error) {
	k = tss2.Key{Sealed: true, EmptyAuth: f.pin.file == ""}
	if k.Object.Handle, err = parseHandle(handle); err != nil {
		return k, err
	}
	if k.Object.Public, err = t.TPM().ReadPublic(ctx, k.Object.Handle); err != nil {
		return k, err
	}
	return k, a.findSealedPolicy(ctx, t, &k, handle, f)
}

// findSealedPolicy is the policy of what no file says it of.
func (a *app) findSealedPolicy(ctx context.Context, t *keystore.Token, k *tss2.Key, name string, f unsealFlags) (err error) {
	if err := checkSealed(k.Object.Public, name); err != nil {
		return err
	}
	if k.Policy, err = a.sealedPolicy(f); err != nil {
		return err
	}
	public := k.Object.Public
	if len(public.AuthPolicy()) == 0 || public.Attributes().UserWithAuth {
		k.Policy = policy.Policy{}
		return nil
	}
	if k.Policy.IsZero() {
		return withHint(fmt.Errorf("%s was sealed with a policy, and nothing says which", name), "name it with --policy FILE or --pcr PCRS")
	}
	if k.Policy, err = k.Policy.Resolve(t.PolicyState(ctx), true); err != nil {
		return err
	}
	if !decides(k.Policy, public) {
		return fmt.Errorf("%s: %w: %s is not what it was sealed to, or these PCRs have changed since", name, provider.ErrPolicy, k.Policy)
	}
	return nil
}

// sealedPolicy is the policy that the flags name. A PIN is part of it when one is given.
func (a *app) sealedPolicy(f unsealFlags) (p policy.Policy, err error) {
	if f.policy == "" {
		if p, err = parsePCRs(f.pcrs); err != nil || f.pin.file == "" || p.IsZero() {
			return p, err
		}
		return p.And(policy.PIN{}), nil
	}
	if len(f.pcrs) > 0 {
		return p, usagef("--policy and --pcr exclude each other")
	}
	text, err := a.read("--policy", f.policy, maxInput)
	if err != nil {
		return p, err
	}
	file, err := policyfile.Parse(inputName(f.policy), text)
	return file.Policy, err
}

func checkSealed(p provider.Public, path string) error {
	if p.IsSealed() {
		return nil
	}
	verb := "import"
	if isHandle(path) {
		verb = "link"
	}
	return withHint(fmt.Errorf("%s: %s, not sealed data", inputName(path), p.Describe()), "`tpm2-p11 key %s` takes keys", verb)
}
