package main

import (
	"context"
	"encoding/base64"

	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/signer"
)

func signCommand(a *app) *cobra.Command {
	var pin pinSource
	var in, out, hash, scheme, format string
	var isDigest bool
	c := &cobra.Command{
		Use:   "sign KEY",
		Short: "Sign a file or standard input",
		Long: `sign signs with a key inside the TPM: RSASSA-PSS with a salt as long as the hash for RSA keys, ECDSA for others.

The plain format is what openssl takes: the bytes for RSA, ASN.1 for ECDSA. tss is TPMT_SIGNATURE, what tpm2-tools take.`,
		Example: `  tpm2-p11 sign web --in contract.txt --out contract.sig
  openssl dgst -sha256 -sigopt rsa_padding_mode:pss -verify web.pub -signature contract.sig contract.txt`,
		Args: exactly("KEY"), ValidArgsFunction: a.completeKeys,
		RunE: a.verb(func(ctx context.Context, args []string) error {
			h, err := parseHash("--hash", hash)
			if err != nil {
				return err
			}
			if format != "plain" && format != "tss" {
				return usagef("--format %s: there is plain and tss", format)
			}
			if err := a.binaryFits(out); err != nil {
				return err
			}
			k, err := a.find(args[0])
			if err != nil {
				return err
			}
			k.pin = k.pinOf(pin)
			public, err := k.entry.Object.Public.Key()
			if err != nil {
				return err
			}
			s := signature{hash: h}
			if s.scheme, err = schemeFor(public, scheme); err != nil {
				return err
			}
			digest, err := a.digest(in, h, isDigest)
			if err != nil {
				return err
			}
			err = a.use(ctx, k, func(key *signer.Key) error {
				s.raw, err = key.SignContext(ctx, digest, signerOpts(s.scheme, h))
				return err
			})
			if err != nil {
				return err
			}
			data := s.raw
			if format == "tss" {
				if data, err = encodeTPMT(s); err != nil {
					return err
				}
			}
			return a.deliver(map[string]any{
				"signature": base64.StdEncoding.EncodeToString(data), "format": format, "scheme": s.scheme, "hash": hash,
			}, out, data, 0o644)
		}),
	}
	f := c.Flags()
	f.StringVarP(&in, "in", "i", "", "input `FILE` (default: standard input)")
	f.StringVarP(&out, "out", "o", "", "output `FILE` (default: standard output)")
	f.StringVar(&format, "format", "plain", "plain or tss")
	signatureFlags(c, &hash, &scheme, &isDigest)
	pinFlag(c, &pin)
	choices(c, "format", "plain", "tss")
	return c
}

// signatureFlags registers how a signature is made.
func signatureFlags(c *cobra.Command, hash, scheme *string, isDigest *bool) {
	f := c.Flags()
	f.StringVar(hash, "hash", "sha256", "sha256, sha384 or sha512")
	f.StringVar(scheme, "scheme", "", "pss, pkcs1 or ecdsa (default: pss for RSA keys, ecdsa for others)")
	f.BoolVar(isDigest, "digest", false, "the input is the digest, not what is hashed")
	choices(c, "hash", "sha256", "sha384", "sha512")
	choices(c, "scheme", schemePSS, schemePKCS1, schemeECDSA)
}
