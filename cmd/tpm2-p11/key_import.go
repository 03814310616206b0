package main

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

func keyImportCommand(a *app) *cobra.Command {
	var s specFlags
	var label, public, private, parent string
	c := &cobra.Command{
		Use:   "import [FILE]",
		Short: "Take a private key, or a key that other tools wrapped, into the store",
		Long: `import takes into the store
  - a private key in PEM (PKCS#8, PKCS#1 or SEC 1), which is wrapped to the TPM; the file is still a copy outside of it;
  - a TSS2 PRIVATE KEY file of tpm2-openssl, the tss engine or this command;
  - with --public and --private, the two files of tpm2-tools.`,
		Example: `  tpm2-p11 key import server.key --label web
  tpm2-p11 key import --public key.pub --private key.priv --label web`,
		RunE: a.verb(func(ctx context.Context, args []string) error {
			if label == "" {
				return withHint(usagef("the label is missing"), "name the key with --label LABEL")
			}
			spec, err := s.spec(label)
			if err != nil {
				return err
			}
			source, err := a.importSource(args, public, private, parent, s.ownPINFile == "")
			if err != nil {
				return err
			}
			return a.addKey(ctx, &s, spec, func(t *keystore.Token, spec keystore.KeySpec) (keystore.Entry, error) {
				return source(ctx, t, spec)
			})
		}),
	}
	f := c.Flags()
	f.StringVar(&label, "label", "", "the key's `LABEL`")
	f.StringVar(&public, "public", "", "`FILE` with tpm2-tools' public part (TPM2B_PUBLIC)")
	f.StringVar(&private, "private", "", "`FILE` with tpm2-tools' private part (TPM2B_PRIVATE)")
	parentFlag(c, &parent)
	s.register(c)
	return c
}

type importer func(context.Context, *keystore.Token, keystore.KeySpec) (keystore.Entry, error)

// importSource reads what shall be imported.
func (a *app) importSource(args []string, public, private, parent string, emptyAuth bool) (importer, error) {
	switch {
	case len(args) == 1 && public == "" && private == "" && parent == "":
		return a.importPEM(args[0])
	case len(args) == 0 && public != "" && private != "":
		o, err := a.readTools(public, private, parent)
		if err != nil {
			return nil, err
		}
		return a.importObject(o, emptyAuth), nil
	}
	return nil, usagef("import takes one FILE, or --public and --private")
}

func (a *app) importObject(o provider.Object, emptyAuth bool) importer {
	return func(ctx context.Context, t *keystore.Token, spec keystore.KeySpec) (keystore.Entry, error) {
		e, err := t.AddObject(ctx, o, emptyAuth, spec)
		if err == nil && counted(e) {
			a.note("the key is under the TPM's dictionary-attack protection: if it has a password after all, each use counts as a wrong try. " +
				"Then delete it, and import it with --own-pin-file")
		}
		return e, otherParent(err)
	}
}

func (a *app) importPEM(path string) (importer, error) {
	text, err := a.read("FILE", path, maxInput)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	for rest := text; ; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			return nil, withHint(fmt.Errorf("%s: no private key in PEM form", inputName(path)), "it begins with a line like -----BEGIN PRIVATE KEY-----; "+
				"one in DER or PKCS #12 is brought into it on the way: "+fromOpenSSL, shellWord(path))
		}
		defer clear(block.Bytes)
		switch block.Type {
		case "TSS2 PRIVATE KEY":
			return importTSS2(path, text)
		case "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY":
			if block.Headers["DEK-Info"] != "" {
				return nil, encrypted(path)
			}
			key, err := parsePrivateKey(block)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", inputName(path), err)
			}
			kind, err := importable(key)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", inputName(path), err)
			}
			return func(ctx context.Context, t *keystore.Token, spec keystore.KeySpec) (keystore.Entry, error) {
				if err := supported(ctx, t, kind); err != nil {
					return keystore.Entry{}, err
				}
				return t.ImportKey(ctx, key, spec)
			}, nil
		case "ENCRYPTED PRIVATE KEY":
			return nil, encrypted(path)
		case "OPENSSH PRIVATE KEY":
			return nil, withHint(fmt.Errorf("%s: a private key in OpenSSH's own form", inputName(path)),
				"have a copy of it written in PKCS #8, and import that: `ssh-keygen -p -m PKCS8 -f COPY`, with an empty passphrase")
		}
	}
}

// fromOpenSSL takes a file of another form.
const fromOpenSSL = "`openssl pkey -in %s | tpm2-p11 key import - --label …`"

func encrypted(path string) error {
	return withHint(fmt.Errorf("%s: the private key is encrypted", inputName(path)), "decrypt it on the way: "+fromOpenSSL, shellWord(path))
}

func importTSS2(path string, text []byte) (importer, error) {
	k, err := decodeTSS2(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", inputName(path), err)
	}
	if k.Sealed {
		return nil, withHint(fmt.Errorf("%s: sealed data, not a key", inputName(path)), "`tpm2-p11 unseal %s` opens it", path)
	}
	return func(ctx context.Context, t *keystore.Token, spec keystore.KeySpec) (keystore.Entry, error) {
		if spec.Policy.IsZero() {
			spec.Policy, spec.Approved = k.Policy, k.Approved
		}
		return t.AddObject(ctx, k.Object, k.EmptyAuth, spec)
	}, nil
}

// importable is the type of a private key that this program can bring into a TPM.
func importable(key crypto.PrivateKey) (provider.KeyType, error) {
	found := fmt.Sprintf("a key of type %T", key)
	if k, ok := key.(interface{ Public() crypto.PublicKey }); ok {
		if kind := provider.KeyType(publicTypeName(k.Public())); kind != "" {
			if slices.Contains(provider.KeyTypes(), kind) {
				return kind, nil
			}
			found = "a key of type " + string(kind)
		} else if _, ok := key.(ed25519.PrivateKey); ok {
			found = "an Ed25519 key"
		}
	}
	return "", fmt.Errorf("%s: tpm2-p11 takes in keys of type %s", found, joined(provider.KeyTypes()))
}

// parsePrivateKey reads a private key's block by what its type says.
func parsePrivateKey(block *pem.Block) (crypto.PrivateKey, error) {
	switch block.Type {
	case "RSA PRIVATE KEY":
		return x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		return x509.ParseECPrivateKey(block.Bytes)
	}
	return x509.ParsePKCS8PrivateKey(block.Bytes)
}
