package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/internal/p11kit"
	"github.com/tpm2-p11/tpm2-p11/internal/p11uri"
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/policy/policyfile"
	"github.com/tpm2-p11/tpm2-p11/signer"
)

// signerFlags say who approves, and for what.
type signerFlags struct {
	flag     string // that names the key
	key, ref string
	pin      pinSource
}

// register registers them; name is the flag that names the key.
func (s *signerFlags) register(c *cobra.Command, name, usage string) {
	f := c.Flags()
	f.StringVar(&s.key, name, "", usage+"private `KEY` of the signer: a PEM file, a key of a token by its label or URI, or of another module by its URI with ?module-path=")
	s.flag = "--" + name
	f.StringVar(&s.ref, "ref", "", "what it is approved for, the `REF` of the keys' policy")
	pinFlag(c, &s.pin)
}

// signFlags are the flags of policy sign.
type signFlags struct {
	signerFlags
	name, format, out            string
	toSign, publicKey, signature string
	publicOut                    string
	current, force               bool
}

func policySignCommand(a *app) *cobra.Command {
	var s signFlags
	c := &cobra.Command{
		Use:   "sign FILE…",
		Short: "Approve policies by a signature, on a build machine",
		Long: `sign approves policies for keys whose own policy is authorize with this signer. It needs no TPM: --key names a private
key in PEM, a key of a token by its label or URI, or a key in another PKCS #11 module (of an HSM, a smart card) by a URI with
its module-path, which p11-kit loads. What it writes belongs into a folder where keys look for approved
policies: policy approve puts it there, and so does a copy.

Where the key is elsewhere, in a signing service, --to-sign writes what is to be signed, by RSASSA
PKCS #1 v1.5 or ECDSA with SHA-256, and --signature with --public-key takes the signature.

--ref must be the ref of the keys' policy. systemd is the format of tpm2-pcr-signature.json, which has room for an RSA
signer, PCRs of one bank, and no ref; --public-out writes its tpm2-pcr-public-key.pem.`,
		Example: `  tpm2-p11 policy sign ami-2026-11-20.toml --key ci.pem --ref tls/v1 --out ami-2026-11-20.json
  tpm2-p11 policy sign ami-2026-11-20.toml --key 'pkcs11:token=ci;object=signer?module-path=/usr/lib/softhsm/libsofthsm2.so' --ref tls/v1
  tpm2-p11 policy approve ami-2026-11-20.json`,
		RunE: a.verb(func(ctx context.Context, args []string) error {
			if err := s.check(args); err != nil {
				return err
			}
			policies, err := a.readToSign(ctx, args, s)
			if err != nil {
				return err
			}
			if s.toSign != "" {
				return a.deliver(map[string]any{}, s.toSign, append(policies[0].digest, s.ref...), 0o644)
			}
			var text []byte
			sign := func(key crypto.Signer) (err error) {
				if text, err = signPolicies(key, policies, s.ref, s.format == "systemd"); err != nil {
					return err
				}
				return writePublic(s.publicOut, key)
			}
			if s.signature != "" {
				err = a.withSignature(s, sign)
			} else {
				err = a.withSigningKey(ctx, s.signerFlags, sign)
			}
			if err != nil {
				return err
			}
			return a.deliverText(s.out, text)
		}),
	}
	s.register(c, "key", "")
	f := c.Flags()
	f.StringVar(&s.name, "name", "", "what it is called in messages (default: FILE without its ending)")
	f.BoolVar(&s.current, "current", false, "read values that a policy leaves open from this machine's TPM")
	f.BoolVar(&s.force, "force", false, "approve even PCRs that look as if nothing had measured into them")
	f.StringVar(&s.toSign, "to-sign", "", "write to this `FILE` what is to be signed elsewhere")
	f.StringVar(&s.signature, "signature", "", "`FILE` with the signature that was made elsewhere")
	f.StringVar(&s.publicKey, "public-key", "", "`FILE` with the signer's public key in PEM, for --signature")
	f.StringVar(&s.publicOut, "public-out", "", "write the signer's public key to this `FILE` too, in PEM, for the keys' policy")
	f.StringVar(&s.format, "format", "tpm2-p11", "tpm2-p11 or systemd")
	f.StringVarP(&s.out, "out", "o", "", "output `FILE` (default: standard output)")
	choices(c, "format", "tpm2-p11", "systemd")
	return c
}

func (s signFlags) check(args []string) error {
	ways := 0
	for _, way := range []string{s.key, s.toSign, s.signature} {
		if way != "" {
			ways++
		}
	}
	switch {
	case len(args) == 0:
		return usagef("FILE is missing")
	case ways == 0:
		return withHint(usagef("--key is missing"), "name the signer's private key, a PEM file or a key of a token")
	case ways > 1:
		return usagef("--key, --to-sign and --signature exclude each other")
	case (s.signature == "") != (s.publicKey == ""):
		return usagef("--signature and --public-key go together")
	case s.format != "tpm2-p11" && s.format != "systemd":
		return usagef("--format %s: there is tpm2-p11 and systemd", s.format)
	case s.publicOut != "" && s.toSign != "":
		return usagef("--public-out and --to-sign exclude each other")
	case s.format == "systemd" && s.ref != "":
		return usagef("--ref and --format systemd exclude each other")
	case len(s.ref) > policy.MaxRef:
		return usagef("--ref has %d bytes at most", policy.MaxRef)
	case (s.name != "" || s.key == "") && len(args) > 1:
		return usagef("--name, --to-sign and --signature are for one FILE")
	}
	return nil
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
		if err != nil {
			return nil, fmt.Errorf("%s: %w", inputName(path), leftOpen(err, ", or --current to read it from this machine's TPM"))
		}
		if t.digest, err = t.policy.Digest(f.Hash); err != nil {
			return nil, fmt.Errorf("%s: %w", inputName(path), err)
		}
		all = append(all, t)
	}
	return all, nil
}

func signPolicies(key crypto.Signer, policies []toSign, ref string, forSystemd bool) ([]byte, error) {
	var approved []policy.Approved
	for _, p := range policies {
		signature, err := policy.Sign(key, p.digest, []byte(ref))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		approved = append(approved, policy.Approved{Name: p.name, Policy: p.policy, Signature: signature})
	}
	if !forSystemd {
		return policyfile.EncodeApproved(approved)
	}
	who, err := policy.NewSigner(key.Public())
	if err != nil {
		return nil, err
	}
	return policyfile.EncodeSystemd(approved, who)
}

// withSigningKey calls sign with the private key of a PEM file, of another PKCS #11 module or of a token.
func (a *app) withSigningKey(ctx context.Context, s signerFlags, sign func(crypto.Signer) error) error {
	if _, err := os.Stat(s.key); err == nil {
		key, err := a.readPrivateKey(s.flag, s.key)
		if err != nil {
			return fmt.Errorf("%s %s: %w", s.flag, s.key, err)
		}
		return sign(key)
	}
	if uri, err := p11uri.Parse(s.key); err == nil && uri.ModulePath != "" {
		return a.withKeyOfModule(ctx, s, uri, sign)
	}
	k, err := a.find(s.key)
	if err != nil {
		return fmt.Errorf("%s %s is no file, and as a key's name: %w", s.flag, s.key, err)
	}
	k.pin = k.pinOf(s.pin)
	return a.use(ctx, k, func(key *signer.Key) error { return sign(key) })
}

func (a *app) withKeyOfModule(ctx context.Context, s signerFlags, uri p11uri.URI, sign func(crypto.Signer) error) error {
	pin := s.pin
	pin.uri = uri
	key, err := p11kit.Open(ctx, uri, func(what string) (*secret.Bytes, error) { return a.pinFrom(ctx, pin, "the PIN of "+what) })
	if err != nil {
		return fmt.Errorf("%s %s in %s: %w", s.flag, uri, uri.ModulePath, err)
	}
	defer key.Close()
	if err := sign(key); err != nil {
		return fmt.Errorf("%s %s in %s: %w", s.flag, uri, uri.ModulePath, err)
	}
	return nil
}

// writePublic writes a signer's public key; "" for nowhere.
func writePublic(file string, key crypto.Signer) error {
	if file == "" {
		return nil
	}
	who, err := policy.NewSigner(key.Public())
	if err != nil {
		return err
	}
	text, err := who.PEM()
	if err != nil {
		return err
	}
	return writeFile(file, text, 0o644)
}

// withSignature calls sign with a signer whose one signature was made elsewhere.
func (a *app) withSignature(s signFlags, sign func(crypto.Signer) error) error {
	text, err := a.read("--public-key", s.publicKey, maxInput)
	if err != nil {
		return err
	}
	who, err := policy.ParseSigner(text)
	if err != nil {
		return fmt.Errorf("--public-key %s: %w", s.publicKey, err)
	}
	public, err := who.Key()
	if err != nil {
		return err
	}
	signature, err := a.read("--signature", s.signature, maxInput)
	if err != nil {
		return err
	}
	return sign(madeSignature{public, signature})
}

// madeSignature is a signer that has signed already. ECDSA signatures may be r || s, as PKCS #11 has them.
type madeSignature struct {
	public    crypto.PublicKey
	signature []byte
}

func (m madeSignature) Public() crypto.PublicKey { return m.public }

func (m madeSignature) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	key, ok := m.public.(*ecdsa.PublicKey)
	if size := len(m.signature) / 2; ok && size == (key.Params().BitSize+7)/8 && len(m.signature)%2 == 0 {
		r, s := new(big.Int).SetBytes(m.signature[:size]), new(big.Int).SetBytes(m.signature[size:])
		return asn1.Marshal(struct{ R, S *big.Int }{r, s})
	}
	return m.signature, nil
}

// readPrivateKey reads PKCS #8, PKCS #1 or SEC 1 in PEM, without a passphrase.
func (a *app) readPrivateKey(flag, path string) (crypto.Signer, error) {
	text, err := a.read(flag, path, maxInput)
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
