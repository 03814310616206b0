package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

func keyCreateCommand(a *app) *cobra.Command {
	var s specFlags
	var keyType string
	c := &cobra.Command{
		Use:   "create LABEL",
		Short: "Make a key in the TPM",
		Long: `create makes a key that is born in the TPM and never leaves it.

The key gets a persistent handle, by default the first free one from 0x81000100 up, unless --wrapped keeps it out
of the TPM's own memory. With --pcr it works only while those PCRs have the values they have now, with --policy only
while the policy of a file is met. A key's policy cannot be changed.`,
		Example: `  tpm2-p11 key create web
  tpm2-p11 key create web --type p256 --pcr sha256:0,1,2,7
  tpm2-p11 key create mail --use decrypt --pin-file pin`,
		Args: exactly("LABEL"),
		RunE: a.verb(func(ctx context.Context, args []string) error {
			spec, err := s.spec(args[0])
			if err != nil {
				return err
			}
			spec.Type = provider.KeyType(keyType)
			switch {
			case !slices.Contains(provider.KeyTypes(), spec.Type):
				return usagef("--type %s: there is %s", keyType, joined(provider.KeyTypes()))
			case spec.Use.Decrypt && spec.Type.EC():
				return withHint(usagef("--use %s: keys of type %s sign and derive, and do not decrypt", s.use, keyType), "only RSA keys decrypt: --type rsa2048")
			case spec.Use.Derive && !spec.Type.EC():
				return withHint(usagef("--use %s: keys of type %s sign and decrypt, and do not derive", s.use, keyType), "only elliptic-curve keys derive: --type p256")
			}
			return a.addKey(ctx, &s, spec, func(t *keystore.Token, spec keystore.KeySpec) (keystore.Entry, error) {
				if err := supported(ctx, t, spec.Type); err != nil {
					return keystore.Entry{}, err
				}
				defer a.progress(ctx, "making a key of type "+string(spec.Type)+" in the TPM")()
				return t.CreateKey(ctx, spec)
			})
		}),
	}
	c.Flags().StringVar(&keyType, "type", string(provider.RSA2048), "rsa2048, rsa3072, rsa4096, p256, p384 or p521")
	s.register(c)
	choices(c, "type", string(provider.RSA2048), string(provider.RSA3072), string(provider.RSA4096), string(provider.P256), string(provider.P384), string(provider.P521))
	return c
}

// supported refuses a type that the token's TPM does not have.
func supported(ctx context.Context, t *keystore.Token, kind provider.KeyType) error {
	ok, err := t.TPM().Supports(ctx, kind)
	if err == nil && !ok {
		err = withHint(fmt.Errorf("this TPM has no keys of type %s", kind), "rsa2048 and p256 are in every TPM")
	}
	return err
}

// specFlags are the flags that say what a new key shall be.
type specFlags struct {
	pin                   pinSource
	id, use, handle       string
	ownPINFile            string
	pcrs                  []string
	policy                string
	noPolicy              bool
	noPIN, wrapped, force bool
}

func (s *specFlags) register(c *cobra.Command) {
	f := c.Flags()
	pinFlag(c, &s.pin)
	f.StringVar(&s.id, "id", "", "CKA_ID in `HEX` (default: SHA-1 of the public key)")
	f.StringVar(&s.use, "use", "sign", "sign, decrypt (RSA), derive (elliptic curves), or sign with one of these")
	f.StringVar(&s.handle, "handle", "", "persistent `HANDLE` (default: the first free one from 0x81000100 up)")
	f.BoolVar(&s.wrapped, "wrapped", false, "do not make the key persistent: it is loaded at each use")
	s.registerAccess(f)
	choices(c, "use", "sign", "decrypt", "sign,decrypt", "derive", "sign,derive")
}

// registerAccess registers what guards a key.
func (s *specFlags) registerAccess(f *pflag.FlagSet) {
	f.StringArrayVar(&s.pcrs, "pcr", nil, "bind the key to the current values of these `PCRS`, as sha256:0,1,2,7; may be repeated for other banks")
	f.StringVar(&s.policy, "policy", "", "bind the key to the policy in this `FILE`, TOML or JSON")
	f.BoolVar(&s.noPolicy, "no-policy", false, "make it without the configuration's policy")
	f.BoolVar(&s.noPIN, "no-pin", false, "in a token with a PIN: do not ask for it to use this key")
	f.StringVar(&s.ownPINFile, "own-pin-file", "", "`FILE` (mode 0600) with a PIN of the key's own, 4 to 32 bytes")
	f.BoolVar(&s.force, "force", false, "take a label that another key has; bind even to PCRs that look as if nothing had measured into them")
}

// spec is what the flags say, without the key's own PIN.
func (s *specFlags) spec(label string) (spec keystore.KeySpec, err error) {
	if err := keystore.CheckLabel(label); err != nil {
		return spec, usageError{err}
	}
	spec = keystore.KeySpec{Label: label, Unique: !s.force, NoPIN: s.noPIN, Force: s.force, Wrapped: s.wrapped}
	if s.id != "" {
		if spec.CKAID, err = hex.DecodeString(s.id); err != nil {
			return spec, usagef("--id %s: not hex digits in pairs", s.id)
		}
	}
	if s.use != "" {
		if spec.Use, err = provider.ParseUse(s.use); err != nil {
			return spec, usageError{err}
		}
	}
	if s.handle != "" {
		if spec.Handle, err = parseHandle(s.handle); err != nil {
			return spec, err
		}
		if s.wrapped {
			return spec, usagef("--handle and --wrapped exclude each other")
		}
	}
	if s.noPIN && s.ownPINFile != "" {
		return spec, usagef("--no-pin and --own-pin-file exclude each other")
	}
	spec.NoPolicy = s.noPolicy
	if s.noPolicy && (s.policy != "" || len(s.pcrs) > 0) || s.policy != "" && len(s.pcrs) > 0 {
		return spec, usagef("--pcr, --policy and --no-policy exclude each other")
	}
	spec.Policy, err = parsePCRs(s.pcrs)
	return spec, err
}

// parsePCRs makes a policy of --pcr flags, its values still to be resolved.
func parsePCRs(selections []string) (policy.Policy, error) {
	var p policy.Policy
	for _, s := range selections {
		pcr, err := policy.ParsePCR(s)
		if err != nil {
			return p, usageError{err}
		}
		p = p.And(pcr)
	}
	return p, nil
}

// addKey selects the token, reads the key's own PIN, adds the key, logging in if need be, and prints it.
func (a *app) addKey(ctx context.Context, s *specFlags, spec keystore.KeySpec, add func(*keystore.Token, keystore.KeySpec) (keystore.Entry, error)) error {
	t, err := a.initialized()
	if err != nil {
		return err
	}
	if err := a.readGuards(t, s, &spec); err != nil {
		return err
	}
	defer spec.OwnPIN.Wipe()
	if s.policy != "" {
		if spec.Policy, err = a.readKeyPolicy("--policy", s.policy); err != nil {
			return err
		}
	}
	_, err = t.Find(keystore.Query{Label: spec.Label})
	taken := !errors.Is(err, keystore.ErrNotFound)
	var e keystore.Entry
	err = a.withLogin(ctx, t, s.pin, func() error {
		var err error
		e, err = add(t, spec)
		return err
	})
	if err != nil {
		return err
	}
	if taken {
		a.note("another key is called %q: name this one by its CKA_ID %x or its URI", spec.Label, e.CKAID)
	}
	if tiedToPCRs(e.Policy.Root) {
		a.note("an update of firmware, boot loader or kernel changes PCRs, and the key refuses to work then, for good: " +
			"a policy with a signer survives updates (docs/policies.md)")
	}
	return a.printKey(t, e)
}

// tiedToPCRs tells a policy that has no branch without PCRs.
func tiedToPCRs(n policy.Node) bool {
	switch n := n.(type) {
	case policy.PCR:
		return true
	case policy.All:
		return slices.ContainsFunc(n, tiedToPCRs)
	case policy.Any:
		return !slices.ContainsFunc(n, func(branch policy.Node) bool { return !tiedToPCRs(branch) })
	}
	return false
}

// readGuards reads the key's own PIN, which the caller wipes.
func (a *app) readGuards(t *keystore.Token, s *specFlags, spec *keystore.KeySpec) (err error) {
	if s.pin.file != "" && !t.HasPIN() {
		return withHint(usagef("%s is for a token with a PIN, and token %q has none", s.pin.flag, t.Label()), "--own-pin-file FILE is for a PIN of the key's own")
	}
	if s.ownPINFile != "" {
		spec.OwnPIN, err = a.readPIN("--own-pin-file", s.ownPINFile)
	}
	return err
}

func joined(types []provider.KeyType) string {
	names := make([]string, len(types))
	for i, t := range types {
		names[i] = string(t)
	}
	return strings.Join(names, ", ")
}

// printKey prints one key in a line.
func (a *app) printKey(t *keystore.Token, e keystore.Entry) error {
	k := describe(t, e)
	return a.print(struct {
		Key keyJSON `json:"key"`
	}{k}, func(w io.Writer) {
		fmt.Fprintf(w, "key %q: %s for %s, %s\n", k.Label, k.Type, strings.Join(k.Use, " and "), k.place())
	})
}

// choices completes a flag from a fixed list.
func choices(c *cobra.Command, flag string, values ...string) {
	cobra.CheckErr(c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)))
}
