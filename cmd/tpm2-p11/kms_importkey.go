package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/internal/attested"
	"github.com/tpm2-p11/tpm2-p11/internal/privatekey"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/kms"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// pairSpecs are the kinds of key pairs of KMS that a TPM can hold.
var pairSpecs = map[string]provider.KeyType{
	"RSA_2048": provider.RSA2048, "RSA_3072": provider.RSA3072, "RSA_4096": provider.RSA4096,
	"ECC_NIST_P256": provider.P256, "ECC_NIST_P384": provider.P384, "ECC_NIST_P521": provider.P521,
}

type importKeyFlags struct {
	request                                       requestFlags
	recipient                                     recipientFlags
	key                                           specFlags
	in, certificate, public, generate, ciphertext string
	replace                                       bool
}

func kmsImportKeyCommand(a *app) *cobra.Command {
	var f importKeyFlags
	c := &cobra.Command{
		Use:   "import-key NAME",
		Short: "Bring a fleet's private key, which KMS keeps, into this machine's TPM",
		Long: `import-key has KMS decrypt a private key (PKCS#8, PKCS#1 or SEC 1, in DER or PEM) for this machine alone, compares it with
its certificate, and imports it into the TPM as a key of the token. It is never on disk or in the clear.

It is meant for every boot. What the TPM holds already is found by the certificate's public key and the policy, and KMS is
not asked; a store that is gone is made again, without a PIN. With --replace a key that was imported before makes room, as when
an update of the image changed the PCRs, or the certificate was renewed. Keys that were born in the TPM always stay.

With --generate KMS makes a new key pair. Keep its ciphertext: other machines import the key from it.`,
		Example: `  tpm2-p11 kms import-key web --key-id alias/fleet --context purpose=tls --in web.key.kms --certificate web.crt --handle 0x81000100 --pcr sha384:4,7 --replace
  tpm2-p11 kms import-key web --key-id alias/fleet --context purpose=tls --generate ECC_NIST_P256 --ciphertext-out web.key.kms
  tpm2-p11 key csr web --subject CN=www.example.com --dns www.example.com`,
		Args: exactly("NAME"),
		RunE: a.verb(func(ctx context.Context, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			spec, err := f.key.spec(args[0])
			if err != nil {
				return err
			}
			conf, err := a.configuration()
			if err != nil {
				return err
			}
			q, err := f.request.complete(a, conf.KMS)
			if err != nil {
				return err
			}
			f.recipient.pin = f.key.pin
			if f.generate != "" {
				return a.generateKey(ctx, conf, &f, q, spec)
			}
			return a.importWrapped(ctx, conf, &f, q, spec)
		}),
	}
	f.request.register(c)
	f.recipient.register(c, a, recipientUsage)
	f.key.register(c)
	flags := c.Flags()
	flags.StringVarP(&f.in, "in", "i", "", "`FILE` with the private key as KMS encrypted it, binary or in base64 (- is standard input)")
	flags.StringVar(&f.certificate, "certificate", "", "`FILE` with the key's certificate chain, its own first; it is stored with the key")
	flags.StringVar(&f.public, "public-key", "", "`FILE` with the public key, where there is no certificate yet")
	flags.StringVar(&f.generate, "generate", "", "have KMS make the key pair: RSA_2048, RSA_3072, RSA_4096, ECC_NIST_P256, ECC_NIST_P384 or ECC_NIST_P521")
	flags.StringVar(&f.ciphertext, "ciphertext-out", "", "output `FILE` for the ciphertext of a pair that KMS made")
	flags.BoolVar(&f.replace, "replace", false, "let a key that was imported before make room: one of this label, at this handle, or of this public key")
	choices(c, "generate", slices.Sorted(maps.Keys(pairSpecs))...)
	return c
}

func (f *importKeyFlags) check() error {
	switch {
	case (f.in == "") == (f.generate == ""):
		return usagef("import-key takes --in FILE or --generate SPEC")
	case f.generate == "" && (f.certificate == "") == (f.public == ""):
		return withHint(usagef("--certificate is missing, or --public-key"), "KMS's answer is not signed: which key it must be has to be said by one of them")
	case f.generate == "" && f.ciphertext != "":
		return usagef("--ciphertext-out is for a pair that KMS makes, by --generate")
	case f.generate == "":
		return nil
	case f.certificate != "" || f.public != "":
		return usagef("--generate makes a new key, and there is no certificate of it")
	case pairSpecs[f.generate] == "":
		return usagef("--generate %s: there is %s", f.generate, strings.Join(slices.Sorted(maps.Keys(pairSpecs)), ", "))
	case toStdout(f.ciphertext):
		return withHint(usagef("--ciphertext-out is missing"), "without its ciphertext no other machine could have the key, nor this one again")
	}
	if _, err := os.Lstat(f.ciphertext); !errors.Is(err, fs.ErrNotExist) {
		return withHint(fmt.Errorf("%s is there already", f.ciphertext), "it may be the only copy of another key: name another file")
	}
	return nil
}

// importWrapped imports the key of --in, unless it is there.
func (a *app) importWrapped(ctx context.Context, conf config.Config, f *importKeyFlags, q request, spec keystore.KeySpec) error {
	wanted := keystore.Imported{Replace: f.replace}
	var err error
	if f.certificate != "" {
		if wanted.Chain, err = a.readChain(f.certificate); err != nil {
			return err
		}
		wanted.Public = wanted.Chain[0].PublicKey
	} else if wanted.Public, err = a.readPublic("--public-key", f.public); err != nil {
		return err
	}
	ciphertext, err := a.readBlob("--in", f.in)
	if err != nil {
		return err
	}
	t, err := a.tokenForImport(ctx, f, wanted.Public, &spec)
	if err != nil {
		return err
	}
	defer spec.OwnPIN.Wipe()
	wanted.Spec = spec
	return a.ensureImported(ctx, t, f, wanted, func(ctx context.Context) (key crypto.PrivateKey, err error) {
		service, err := a.kmsService(ctx, conf)
		if err != nil {
			return nil, err
		}
		err = a.withRecipient(ctx, f.recipient, conf.KMS, func(r attested.Recipient) error {
			client, err := attested.Client(service, r)
			if err != nil {
				return err
			}
			done := a.progress(ctx, "waiting for KMS")
			plaintext, err := client.Decrypt(ctx, kms.DecryptRequest{Ciphertext: ciphertext, Context: q.context, KeyID: q.keyID})
			done()
			if err != nil {
				return explainKMS(err)
			}
			defer plaintext.Wipe()
			key, err = parsePlain(plaintext)
			return err
		})
		return key, err
	})
}

// generateKey has KMS make a pair, keeps its ciphertext and imports it.
func (a *app) generateKey(ctx context.Context, conf config.Config, f *importKeyFlags, q request, spec keystore.KeySpec) error {
	if err := q.needKey(); err != nil {
		return err
	}
	t, err := a.tokenForImport(ctx, f, nil, &spec)
	if err != nil {
		return err
	}
	defer spec.OwnPIN.Wipe()
	if e, err := t.Find(keystore.Query{Label: spec.Label}); err == nil && !f.replace {
		return fmt.Errorf("%w: %s", keystore.ErrLabelTaken, e)
	}
	if err := supported(ctx, t, pairSpecs[f.generate]); err != nil {
		return err
	}
	service, err := a.kmsService(ctx, conf)
	if err != nil {
		return err
	}
	return a.withRecipient(ctx, f.recipient, conf.KMS, func(r attested.Recipient) error {
		client, err := attested.Client(service, r)
		if err != nil {
			return err
		}
		done := a.progress(ctx, "waiting for KMS")
		pair, err := client.GenerateDataKeyPair(ctx, kms.KeyPairRequest{KeyID: q.keyID, Context: q.context, Spec: f.generate})
		done()
		if err != nil {
			return explainKMS(err)
		}
		defer pair.PrivateKey.Wipe()
		wanted := keystore.Imported{Spec: spec, Replace: f.replace}
		if wanted.Public, err = x509.ParsePKIXPublicKey(pair.PublicKey); err != nil || len(pair.Ciphertext) == 0 {
			return fmt.Errorf("%w: a key pair without its public key or its ciphertext", kms.ErrAnswer)
		}
		// First of all the ciphertext: a key that is in use must not be without it.
		if err := writeFile(f.ciphertext, pair.Ciphertext, 0o644); err != nil {
			return err
		}
		err = a.ensureImported(ctx, t, f, wanted, func(context.Context) (crypto.PrivateKey, error) { return parsePlain(pair.PrivateKey) })
		if err != nil {
			err = errors.Join(err, os.Remove(f.ciphertext))
		}
		return err
	})
}

// tokenForImport is the token that the key goes to, made if it is not there, and what guards the key in it.
func (a *app) tokenForImport(ctx context.Context, f *importKeyFlags, public crypto.PublicKey, spec *keystore.KeySpec) (*keystore.Token, error) {
	i, err := a.tokenIndex("")
	if err != nil {
		return nil, err
	}
	t := a.set.Tokens[i]
	if public != nil {
		kind := provider.KeyType(publicTypeName(public))
		if !slices.Contains(provider.KeyTypes(), kind) {
			return nil, fmt.Errorf("a public key of type %T %s: tpm2-p11 takes in keys of type %s", public, kind, joined(provider.KeyTypes()))
		}
		if err := supported(ctx, t, kind); err != nil {
			return nil, err
		}
	}
	if err := usable(t); errors.Is(err, keystore.ErrNotInitialized) {
		err = a.initForEnsure(ctx, i)
		if err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	return t, a.readGuards(t, &f.key, spec)
}

// ensureImported imports a key or finds it, and prints what was done.
func (a *app) ensureImported(ctx context.Context, t *keystore.Token, f *importKeyFlags, wanted keystore.Imported, private func(context.Context) (crypto.PrivateKey, error)) error {
	var e keystore.Entry
	var outcome keystore.Outcome
	err := a.withLogin(ctx, t, f.key.pin, func() (err error) {
		var key crypto.PrivateKey
		defer func() { privatekey.Wipe(key) }()
		e, outcome, err = t.EnsureImported(ctx, wanted, func(ctx context.Context) (crypto.PrivateKey, error) {
			key, err = private(ctx)
			return key, err
		})
		return err
	})
	switch {
	case errors.Is(err, keystore.ErrConflict) && !f.replace:
		return withHint(err, "--replace lets a key that was imported before make room; or choose another NAME or --handle")
	case errors.Is(err, keystore.ErrConflict):
		return withHint(err, "choose another NAME or --handle, or delete the key by `tpm2-p11 key delete`")
	case err != nil:
		return err
	}
	k := describe(t, e)
	return a.print(struct {
		Key     keyJSON          `json:"key"`
		Outcome keystore.Outcome `json:"outcome"`
	}{k, outcome}, func(w io.Writer) {
		fmt.Fprintf(w, "%s: %s, %s for %s, %s\n", k.Label, outcome, k.Type, strings.Join(k.Use, " and "), k.place())
	})
}

// parsePlain reads the private key that KMS decrypted.
func parsePlain(plaintext *kms.Secret) (crypto.PrivateKey, error) {
	key, err := privatekey.Parse(plaintext.Bytes())
	if err != nil {
		return nil, fmt.Errorf("what KMS decrypted: %w", err)
	}
	return key, nil
}
