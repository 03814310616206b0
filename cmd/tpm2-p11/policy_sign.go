package main

import (
	"context"
	"crypto"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/policy/policyfile"
	"github.com/tpm2-p11/tpm2-p11/signer"
)

// signFlags are the flags of policy sign.
type signFlags struct {
	key, ref, name, format, out string
	current, force              bool
	pin                         pinSource
}

func policySignCommand(a *app) *cobra.Command {
	var s signFlags
	c := &cobra.Command{
		Use:   "sign FILE…",
		Short: "Approve policies by a signature, on a build machine",
		Long: `sign approves policies for keys whose own policy is authorize with this signer. It needs no TPM: --key names a private
key in PEM, or a key of a token by its label or URI. What it writes belongs into a folder where keys look for approved
policies: policy approve puts it there, and so does a copy.

--ref must be the ref of the keys' policy. systemd is the format of tpm2-pcr-signature.json, which has room for an RSA
signer, PCRs of one bank, and no ref.`,
		Example: `  tpm2-p11 policy sign ami-2026-11-20.toml --key ci.pem --ref tls/v1 --out ami-2026-11-20.json
  tpm2-p11 policy approve ami-2026-11-20.json`,
		RunE: a.verb(func(ctx context.Context, args []string) error {
			switch {
			case len(args) == 0:
				return usagef("FILE is missing")
			case s.key == "":
				return withHint(usagef("--key is missing"), "name the signer's private key, a PEM file or a key of a token")
			case s.format != "tpm2-p11" && s.format != "systemd":
				return usagef("--format %s: there is tpm2-p11 and systemd", s.format)
			case s.format == "systemd" && s.ref != "":
				return usagef("--ref and --format systemd exclude each other")
			case len(s.ref) > policy.MaxRef:
				return usagef("--ref has %d bytes at most", policy.MaxRef)
			case s.name != "" && len(args) > 1:
				return usagef("--name is for one FILE")
			}
			policies, err := a.readToSign(ctx, args, s)
			if err != nil {
				return err
			}
			var text []byte
			err = a.withSigningKey(ctx, s, func(key crypto.Signer) (err error) {
				text, err = signPolicies(key, policies, s)
				return err
			})
			if err != nil {
				return err
			}
			return a.deliverText(s.out, text)
		}),
	}
	f := c.Flags()
	f.StringVar(&s.key, "key", "", "private `KEY` of the signer: a PEM file, or a key of a token by its label or URI")
	f.StringVar(&s.ref, "ref", "", "what it is approved for, the `REF` of the keys' policy")
	f.StringVar(&s.name, "name", "", "what it is called in messages (default: FILE without its ending)")
	f.BoolVar(&s.current, "current", false, "read values that a policy leaves open from this machine's TPM")
	f.BoolVar(&s.force, "force", false, "approve even PCRs that look as if nothing had measured into them")
	f.StringVar(&s.format, "format", "tpm2-p11", "tpm2-p11 or systemd")
	f.StringVarP(&s.out, "out", "o", "", "output `FILE` (default: standard output)")
	pinFlag(c, &s.pin)
	choices(c, "format", "tpm2-p11", "systemd")
	return c
}

// toSign is a policy, and its digest in the hash of what it is for.
type toSign struct {
	name   string
	policy policy.Policy
	digest []byte
}

func (a *app) readToSign(ctx context.Context, files []string, s signFlags) ([]toSign, error) {
	var all []toSign
	for _, path := range files {
		f, err := a.readPolicy("FILE", path)
		if err != nil {
			return nil, err
		}
		name := s.name
		if name == "" {
			name = strings.TrimSuffix(filepath.Base(inputName(path)), filepath.Ext(path))
		}
		t := toSign{name: name, policy: f.Policy}
		if t.policy.NeedsApproval() || t.policy.IsZero() {
			return nil, fmt.Errorf("%s: %s is no policy that a signer approves: sign what is to be met in its place", inputName(path), f.Policy)
		}
		var now policy.State
		if s.current {
			token, err := a.token()
			if err != nil {
				return nil, err
			}
			now = token.PolicyState(ctx)
		}
		t.policy, err = t.policy.Resolve(now, s.force)
		if errors.Is(err, policy.ErrUnknown) {
			err = withHint(policy.ErrUnresolved, "give the values in the policy, or --current to read them from this machine's TPM")
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", inputName(path), err)
		}
		if t.digest, err = t.policy.Digest(f.Hash); err != nil {
			return nil, fmt.Errorf("%s: %w", inputName(path), err)
		}
		all = append(all, t)
	}
	return all, nil
}

func signPolicies(key crypto.Signer, policies []toSign, s signFlags) ([]byte, error) {
	var approved []policy.Approved
	for _, p := range policies {
		signature, err := policy.Sign(key, p.digest, []byte(s.ref))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		approved = append(approved, policy.Approved{Name: p.name, Policy: p.policy, Signature: signature})
	}
	if s.format != "systemd" {
		return policyfile.EncodeApproved(approved)
	}
	who, err := policy.NewSigner(key.Public())
	if err != nil {
		return nil, err
	}
	return policyfile.EncodeSystemd(approved, who)
}

// withSigningKey calls sign with the private key of a PEM file or of a token.
func (a *app) withSigningKey(ctx context.Context, s signFlags, sign func(crypto.Signer) error) error {
	if _, err := os.Stat(s.key); err == nil {
		key, err := a.readPrivateKey(s.key)
		if err != nil {
			return fmt.Errorf("--key %s: %w", s.key, err)
		}
		return sign(key)
	}
	k, err := a.find(s.key)
	if err != nil {
		return fmt.Errorf("--key %s is no file, and as a key's name: %w", s.key, err)
	}
	k.pin = k.pinOf(s.pin)
	return a.use(ctx, k, func(key *signer.Key) error { return sign(key) })
}

// readPrivateKey reads PKCS #8, PKCS #1 or SEC 1 in PEM, without a passphrase.
func (a *app) readPrivateKey(path string) (crypto.Signer, error) {
	text, err := a.read("--key", path, maxInput)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	block, _ := pem.Decode(text)
	if block == nil || !strings.HasSuffix(block.Type, "PRIVATE KEY") {
		return nil, withHint(fmt.Errorf("it holds no private key in PEM form"), "it begins with a line like -----BEGIN PRIVATE KEY-----")
	}
	defer clear(block.Bytes)
	key, err := parsePrivateKey(block)
	if err != nil {
		return nil, err
	}
	s, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("it holds a key that does not sign")
	}
	return s, nil
}
