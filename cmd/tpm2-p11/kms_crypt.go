package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/attest"
	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/internal/attested"
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/kms"
)

// maxKMSPlaintext is what KMS encrypts at once, in bytes.
const maxKMSPlaintext = 4096

func kmsEncryptCommand(a *app) *cobra.Command {
	var r requestFlags
	var in, out string
	var asText bool
	c := &cobra.Command{
		Use:   "encrypt",
		Short: "Have KMS encrypt a secret",
		Long: fmt.Sprintf(`encrypt has KMS encrypt up to %d bytes. It takes no attestation and no TPM: whoever encrypts has the secret already.
Who decrypts it again is for the KMS key's policy to say: see key-policy.`, maxKMSPlaintext),
		Example: `  tpm2-p11 kms encrypt --key-id alias/fleet --context purpose=tls --in web.key --out web.key.kms
  tpm2-p11 kms encrypt --key-id alias/fleet --context purpose=db --base64 <password`,
		Args: exactly(),
		RunE: a.verb(func(ctx context.Context, _ []string) error {
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
			if !asText {
				if err := a.binaryFits(out); err != nil {
					return err
				}
			}
			data, err := a.read("--in", in, maxKMSPlaintext)
			if err != nil {
				return withHint(err, "encrypt a data key (`tpm2-p11 kms data-key`) and the rest with it")
			}
			if len(data) == 0 {
				return fmt.Errorf("%s is empty: there is nothing to encrypt", inputName(in))
			}
			plaintext := secret.From(data)
			defer plaintext.Wipe()
			service, err := a.kmsService(ctx, conf)
			if err != nil {
				return err
			}
			defer a.progress(ctx, "waiting for KMS")()
			ciphertext, err := service.Encrypt(ctx, kms.EncryptRequest{KeyID: q.keyID, Context: q.context, Plaintext: plaintext.Bytes()})
			if err != nil {
				return err
			}
			text := base64.StdEncoding.EncodeToString(ciphertext)
			if asText {
				ciphertext = []byte(text + "\n")
			}
			return a.deliver(map[string]any{"ciphertext": text, "context": contextNames(q.context)}, out, ciphertext, 0o644)
		}),
	}
	r.register(c)
	f := c.Flags()
	f.StringVarP(&in, "in", "i", "", "input `FILE` (default: standard input)")
	f.StringVarP(&out, "out", "o", "", "output `FILE` (default: standard output)")
	f.BoolVar(&asText, "base64", false, "write the ciphertext in base64")
	return c
}

type decryptFlags struct {
	request                 requestFlags
	recipient               recipientFlags
	in, out, document, keep string
}

func kmsDecryptCommand(a *app) *cobra.Command {
	var f decryptFlags
	c := &cobra.Command{
		Use:   "decrypt",
		Short: "Have KMS decrypt a secret for this machine alone",
		Long: `decrypt sends a ciphertext of KMS, binary or in base64, with a fresh attestation document, and opens the answer with
a key in the TPM. Nothing has to be prepared: without --recipient the key is made for this call.

The steps may be taken on different machines: --document takes a document that another one made for its key
(attest document --public-key KEY), --cms-out keeps KMS's answer closed, and open-cms opens it where the key is.
A file with the secret is written readable by its owner alone.`,
		Example: `  tpm2-p11 kms decrypt --key-id alias/fleet --context purpose=db --in password.kms --out password
  tpm2-p11 kms decrypt --recipient recipient --context purpose=db --in password.kms --cms-out answer.cms
  tpm2-p11 kms open-cms --recipient recipient --in answer.cms --out password`,
		Args: exactly(),
		RunE: a.verb(func(ctx context.Context, _ []string) error {
			if f.keep != "" && f.out != "" {
				return usagef("--out and --cms-out exclude each other: the answer is opened or it is kept closed")
			}
			if f.keep != "" {
				if err := a.binaryFits(f.keep); err != nil {
					return err
				}
			}
			conf, err := a.configuration()
			if err != nil {
				return err
			}
			q, err := f.request.complete(a, conf.KMS)
			if err != nil {
				return err
			}
			if q.keyID == "" {
				a.note("no KMS key is named: a ciphertext of any key that these credentials may use is decrypted, also a stranger's")
			}
			return a.kmsDecrypt(ctx, conf, f, q)
		}),
	}
	f.request.register(c)
	pinFlag(c, &f.recipient.pin)
	f.recipient.register(c, a, recipientUsage)
	flags := c.Flags()
	flags.StringVarP(&f.in, "in", "i", "", "input `FILE` with the ciphertext, binary or in base64 (default: standard input)")
	flags.StringVarP(&f.out, "out", "o", "", "output `FILE` for the secret (default: standard output)")
	flags.StringVar(&f.document, "document", "", "`FILE` with an attestation document that was made elsewhere, in place of a fresh one")
	flags.StringVar(&f.keep, "cms-out", "", "`FILE` for KMS's answer, which stays closed (CMS EnvelopedData)")
	return c
}

func (a *app) kmsDecrypt(ctx context.Context, conf config.Config, f decryptFlags, q request) error {
	named := f.recipient.key(conf.KMS)
	switch {
	case f.document == "" && f.keep != "" && named == "":
		return withHint(usagef("--cms-out keeps an answer for a key that is made for this call, and nothing could open it"), "name a key by --recipient KEY")
	case f.document != "" && f.keep == "" && named == "":
		return withHint(usagef("--document is for a key, and none is named"), "name it by --recipient KEY, or keep the answer closed with --cms-out FILE")
	}
	ciphertext, err := a.readBlob("--in", f.in)
	if err != nil {
		return err
	}
	service, err := a.kmsService(ctx, conf)
	if err != nil {
		return err
	}
	wanted := kms.DecryptRequest{Ciphertext: ciphertext, Context: q.context, KeyID: q.keyID}
	send := func(document []byte) (kms.Answer, error) {
		defer a.progress(ctx, "waiting for KMS")()
		return service.Decrypt(ctx, document, wanted)
	}
	if f.document == "" && f.keep == "" {
		return a.withRecipient(ctx, f.recipient, conf.KMS, func(r attested.Recipient) error {
			return a.unwrap(ctx, service, conf.KMS, r, ciphertext, q, f.out)
		})
	}
	if f.document == "" {
		return a.withRecipient(ctx, f.recipient, conf.KMS, func(r attested.Recipient) error {
			document, err := r.Document(ctx)
			if err != nil {
				return explainKMS(fmt.Errorf("%w: none was made: %w", kms.ErrDocument, err))
			}
			return a.kmsAnswer(ctx, document, send, r, f)
		})
	}
	document, err := a.readDocument("--document", f.document)
	if err != nil {
		return err
	}
	if f.keep != "" {
		return a.kmsAnswer(ctx, document, send, attested.Recipient{}, f)
	}
	return a.withKey(ctx, named, f.recipient.pin, func(r attested.Recipient) error {
		if err := documentIsFor(document, r); err != nil {
			return fmt.Errorf("%s: %w", inputName(f.document), err)
		}
		return a.kmsAnswer(ctx, document, send, r, f)
	})
}

// unwrap is all steps at once, with the copies that [kms.offline] asks for.
func (a *app) unwrap(ctx context.Context, service *kms.Service, c config.KMS, r attested.Recipient, ciphertext []byte, q request, out string) error {
	c.KeyID = q.keyID
	unwrapper, err := attested.Unwrapper(service, c, r)
	if err != nil {
		return err
	}
	defer unwrapper.Close()
	done := a.progress(ctx, "waiting for KMS")
	plaintext, err := unwrapper.Unwrap(ctx, ciphertext, q.context)
	done()
	if err != nil {
		return explainKMS(err)
	}
	defer plaintext.Wipe()
	if reason := plaintext.Offline(); reason != nil {
		if err := a.warn(fmt.Sprintf("a copy that is kept in this machine's TPM is used: %v", reason)); err != nil {
			return err
		}
	}
	return a.deliverSecret("plaintext", out, plaintext.Bytes())
}

// documentIsFor refuses, before KMS is asked, a document for another key.
func documentIsFor(document []byte, r attested.Recipient) error {
	claims, err := attest.Parse(document)
	if err != nil {
		return err
	}
	public, err := kms.RecipientPublicKey(r.Key)
	if err != nil {
		return err
	}
	if !bytes.Equal(claims.PublicKey, public) {
		return withHint(fmt.Errorf("%w: its public key is not the recipient's", kms.ErrDocument),
			"make it with `tpm2-p11 attest document --public-key KEY` for the key that --recipient names")
	}
	return nil
}

// kmsAnswer sends a document and opens the answer, or keeps it closed.
func (a *app) kmsAnswer(ctx context.Context, document []byte, send func([]byte) (kms.Answer, error), r attested.Recipient, f decryptFlags) error {
	answer, err := send(document)
	if err != nil {
		return err
	}
	if f.keep != "" {
		return a.deliver(map[string]any{"cms": base64.StdEncoding.EncodeToString(answer.Closed), "key_id": answer.KeyID}, f.keep, answer.Closed, 0o644)
	}
	plaintext, err := answer.Open(ctx, r.Key)
	if err != nil {
		return err
	}
	defer plaintext.Wipe()
	return a.deliverSecret("plaintext", f.out, plaintext.Bytes())
}

func kmsOpenCMSCommand(a *app) *cobra.Command {
	var r recipientFlags
	var in, out string
	c := &cobra.Command{
		Use:   "open-cms",
		Short: "Open an answer of KMS that was kept closed",
		Long: `open-cms opens what kms decrypt --cms-out, or the AWS CLI as CiphertextForRecipient, kept: CMS EnvelopedData, binary or
in base64. It asks the TPM and nobody else. A file is written readable by its owner alone.

Nothing in such an answer is signed: that it is KMS's is known to whoever kept it.`,
		Example: `  tpm2-p11 kms open-cms --recipient recipient --in answer.cms --out password`,
		Args:    exactly(),
		RunE: a.verb(func(ctx context.Context, _ []string) error {
			conf, err := a.configuration()
			if err != nil {
				return err
			}
			name := r.key(conf.KMS)
			if name == "" {
				return withHint(usagef("the recipient key is missing"), "name it by --recipient KEY, or as recipient in the configuration's [kms]")
			}
			closed, err := a.readBlob("--in", in)
			if err != nil {
				return err
			}
			return a.withKey(ctx, name, r.pin, func(recipient attested.Recipient) error {
				plaintext, err := kms.Open(ctx, closed, recipient.Key)
				if err != nil {
					return err
				}
				defer plaintext.Wipe()
				return a.deliverSecret("plaintext", out, plaintext.Bytes())
			})
		}),
	}
	pinFlag(c, &r.pin)
	r.register(c, a, "RSA `KEY` that the answer is for (default: that of the configuration's [kms])")
	c.Flags().StringVarP(&in, "in", "i", "", "input `FILE` with the closed answer, binary or in base64 (default: standard input)")
	c.Flags().StringVarP(&out, "out", "o", "", "output `FILE` for the secret (default: standard output)")
	return c
}
