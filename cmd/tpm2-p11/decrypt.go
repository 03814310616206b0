package main

import (
	"context"
	"crypto"
	"crypto/rsa"
	_ "crypto/sha1"
	"encoding/base64"

	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/signer"
)

// maxOAEPLabel bounds an OAEP label, in bytes; it is hashed, so any length would do.
const maxOAEPLabel = 4096

func decryptCommand(a *app) *cobra.Command {
	var pin pinSource
	var in, out, hash, labelFile string
	c := &cobra.Command{
		Use:   "decrypt KEY",
		Short: "Decrypt what was encrypted to an RSA key with OAEP",
		Long:  "decrypt opens one RSAES-OAEP ciphertext, as long as the key's modulus. A file is written readable by its owner alone.",
		Example: `  openssl pkeyutl -encrypt -pubin -inkey mail.pub -pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha256 -in secret -out secret.enc
  tpm2-p11 decrypt mail --in secret.enc --out secret`,
		Args: exactly("KEY"), ValidArgsFunction: a.completeKeys,
		RunE: a.verb(func(ctx context.Context, args []string) error {
			h, ok := oaepHashes[hash]
			if !ok {
				return usagef("--oaep-hash %s: there is sha1, sha256, sha384 and sha512", hash)
			}
			var err error
			options := rsa.OAEPOptions{Hash: h}
			if labelFile != "" {
				if options.Label, err = a.read("--label-file", labelFile, maxOAEPLabel); err != nil {
					return err
				}
			}
			k, err := a.find(args[0])
			if err != nil {
				return err
			}
			k.pin = k.pinOf(pin)
			ciphertext, err := a.read("--in", in, maxInput)
			if err != nil {
				return err
			}
			var plaintext []byte
			err = a.use(ctx, k, func(key *signer.Key) error {
				plaintext, err = key.DecryptContext(ctx, ciphertext, &options)
				return err
			})
			if err != nil {
				return err
			}
			defer clear(plaintext)
			return a.deliverSecret("plaintext", out, plaintext)
		}),
	}
	f := c.Flags()
	f.StringVarP(&in, "in", "i", "", "input `FILE` (default: standard input)")
	f.StringVarP(&out, "out", "o", "", "output `FILE` (default: standard output)")
	f.StringVar(&hash, "oaep-hash", "sha256", "sha1 (openssl's default), sha256, sha384 or sha512, for OAEP and its mask generation")
	f.StringVar(&labelFile, "label-file", "", "`FILE` with the OAEP label, if there is one")
	pinFlag(c, &pin)
	choices(c, "oaep-hash", "sha1", "sha256", "sha384", "sha512")
	return c
}

// oaepHashes are the hashes of OAEP, where SHA-1 is as good as any.
var oaepHashes = map[string]crypto.Hash{"sha1": crypto.SHA1, "sha256": crypto.SHA256, "sha384": crypto.SHA384, "sha512": crypto.SHA512}

// deliverSecret hands over a secret: to a file that only its owner reads, or on standard output.
func (a *app) deliverSecret(name, out string, data []byte) error {
	product := map[string]any{"bytes": len(data)}
	if toStdout(out) {
		product[name] = base64.StdEncoding.EncodeToString(data)
	}
	return a.deliver(product, out, data, 0o600)
}
