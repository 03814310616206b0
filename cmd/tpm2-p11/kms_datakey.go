package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/internal/attested"
	"github.com/tpm2-p11/tpm2-p11/kms"
)

func kmsDataKeyCommand(a *app) *cobra.Command {
	var r requestFlags
	var recipient recipientFlags
	var out, ciphertextOut string
	var size int
	c := &cobra.Command{
		Use:   "data-key",
		Short: "Have KMS make a data key for this machine alone",
		Long: `data-key has KMS make a random key, and gives it in both its forms: the key itself, in a file readable by its owner alone,
and its ciphertext, to be kept beside what the key encrypts. kms decrypt makes the key of the ciphertext again, with the
same encryption context.`,
		Example: `  tpm2-p11 kms data-key --key-id alias/fleet --context disk=data --out disk.key --ciphertext-out disk.key.kms
  tpm2-p11 kms data-key --context disk=data --ciphertext-out disk.key.kms | cryptsetup luksFormat /dev/sdb --key-file -`,
		Args: exactly(),
		RunE: a.verb(func(ctx context.Context, _ []string) error {
			if toStdout(ciphertextOut) {
				return withHint(usagef("--ciphertext-out is missing"), "without its ciphertext a data key is lost once it is forgotten")
			}
			if !toStdout(out) && filepath.Clean(out) == filepath.Clean(ciphertextOut) {
				return withHint(usagef("--out and --ciphertext-out are one file"), "keep the ciphertext: the key comes from it again")
			}
			if err := a.binaryFits(out); err != nil {
				return err
			}
			conf, err := a.configuration()
			if err != nil {
				return err
			}
			q, err := r.complete(a, conf.KMS)
			if err == nil {
				err = q.needKey()
			}
			if err != nil {
				return err
			}
			service, err := a.kmsService(ctx, conf)
			if err != nil {
				return err
			}
			return a.withRecipient(ctx, recipient, conf.KMS, func(to attested.Recipient) error {
				client, err := attested.Client(service, to)
				if err != nil {
					return err
				}
				done := a.progress(ctx, "waiting for KMS")
				key, err := client.GenerateDataKey(ctx, kms.DataKeyRequest{KeyID: q.keyID, Context: q.context, Size: size})
				done()
				if err != nil {
					return explainKMS(err)
				}
				defer key.Plaintext.Wipe()
				return a.deliverDataKey(key, out, ciphertextOut)
			})
		}),
	}
	r.register(c)
	pinFlag(c, &recipient.pin)
	recipient.register(c, a, recipientUsage)
	f := c.Flags()
	f.IntVar(&size, "bytes", 32, "the key's length in bytes, 1 to 1024")
	f.StringVarP(&out, "out", "o", "", "output `FILE` for the key (default: standard output)")
	f.StringVar(&ciphertextOut, "ciphertext-out", "", "output `FILE` for the key's ciphertext")
	return c
}

// deliverDataKey writes the ciphertext first: a key that is in use must not be without it.
func (a *app) deliverDataKey(key *kms.DataKey, out, ciphertextOut string) error {
	if len(key.Ciphertext) == 0 {
		return fmt.Errorf("%w: a data key without its ciphertext", kms.ErrAnswer)
	}
	if err := writeFile(ciphertextOut, key.Ciphertext, 0o644); err != nil {
		return err
	}
	product := map[string]any{"ciphertext_file": ciphertextOut, "key_id": key.KeyID, "bytes": key.Plaintext.Len()}
	if toStdout(out) {
		product["plaintext"] = base64.StdEncoding.EncodeToString(key.Plaintext.Bytes())
	}
	return a.deliver(product, out, key.Plaintext.Bytes(), 0o600)
}
