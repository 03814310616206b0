package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tpm2-p11/tpm2-p11/attest"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

func attestCommand(a *app) *cobra.Command {
	return group("attest", "Prove what this machine runs, and check such proofs",
		attestDocumentCommand(a), attestShowCommand(a), attestVerifyCommand(a), attestSelfCommand(a),
		attestIdentityCommand(a), attestChallengeCommand(a), attestActivateCommand(a),
	)
}

func attestDocumentCommand(a *app) *cobra.Command {
	var content documentFlags
	var format, out string
	var c *cobra.Command
	c = &cobra.Command{
		Use:   "document",
		Short: "Ask an AWS NitroTPM for an attestation document",
		Long: `document asks the NitroTPM of an EC2 instance for an attestation document: the machine's PCRs, and what the flags
put beside them, signed under AWS's root. Whoever demands it gives the nonce, so that no old document will do.

It takes the owner hierarchy's authorisation and room for an NV index of 8 KiB, which is there while the command runs.`,
		Example: `  tpm2-p11 attest document --nonce 7d0f…c2 --public-key web --out document.cbor
  tpm2-p11 attest document --nonce-file challenge --format base64`,
		Args: exactly(),
		RunE: a.verb(func(ctx context.Context, _ []string) error {
			if err := filled(c); err != nil {
				return err
			}
			encode, ok := documentFormats[format]
			if !ok {
				return usagef("--format %s: there is raw, base64 and hex", format)
			}
			if format == "raw" {
				if err := a.binaryFits(out); err != nil {
					return err
				}
			}
			request, err := content.request(a)
			if err != nil {
				return err
			}
			t, err := a.token()
			if err != nil {
				return err
			}
			document, err := attest.Document(ctx, t.TPM(), request)
			if err != nil {
				return explainDocument(err)
			}
			data, text := encode(document), base64.StdEncoding.EncodeToString(document)
			if format != "raw" {
				text = string(bytes.TrimSuffix(data, []byte("\n")))
			}
			return a.deliver(map[string]any{"format": format, "document": text}, out, data, 0o644)
		}),
	}
	content.register(c, a)
	c.Flags().StringVar(&format, "format", "raw", "raw, base64 or hex")
	c.Flags().StringVarP(&out, "out", "o", "", "output `FILE` (default: standard output)")
	choices(c, "format", "raw", "base64", "hex")
	return c
}

var documentFormats = map[string]func([]byte) []byte{
	"raw":    func(b []byte) []byte { return b },
	"base64": func(b []byte) []byte { return []byte(base64.StdEncoding.EncodeToString(b) + "\n") },
	"hex":    func(b []byte) []byte { return []byte(hex.EncodeToString(b) + "\n") },
}

// explainDocument says what to do about a document that the TPM did not give.
func explainDocument(err error) error {
	switch {
	case errors.Is(err, provider.ErrUnsupported):
		return withHint(err, "for other TPMs there is `tpm2-p11 key attest`")
	case errors.Is(err, provider.ErrNoSpace):
		return withHint(err, "`tpm2_getcap handles-nv-index` shows what takes the TPM's NV memory")
	}
	return explainEndorsement(err)
}

// explainEndorsement says what to do about an endorsement hierarchy that somebody has closed.
func explainEndorsement(err error) error {
	if errors.Is(err, provider.ErrHierarchyAuth) && strings.Contains(err.Error(), "endorsement") {
		return withHint(err, "the endorsement hierarchy's authorisation must be empty: `tpm2_changeauth -c endorsement -p OLD`")
	}
	return err
}

// documentFlags are a document's content, to be put in or to be compared with.
type documentFlags struct {
	nonce               nonceFlags
	userData, publicKey string
}

func (d *documentFlags) register(c *cobra.Command, a *app) {
	d.nonce.register(c)
	c.Flags().StringVar(&d.userData, "user-data", "", "`FILE` with the user data, at most 512 bytes")
	c.Flags().StringVar(&d.publicKey, "public-key", "", "`KEY` of the store, or a file with a public key or certificate")
	cobra.CheckErr(c.RegisterFlagCompletionFunc("public-key", func(c *cobra.Command, _ []string, s string) ([]cobra.Completion, cobra.ShellCompDirective) {
		keys, _ := a.completeKeys(c, nil, s)
		return keys, cobra.ShellCompDirectiveDefault
	}))
}

// request reads what the flags name; what none names is nil.
func (d *documentFlags) request(a *app) (r attest.Request, err error) {
	if r.Nonce, err = d.nonce.read(a); err != nil {
		return r, err
	}
	if d.userData != "" {
		if r.UserData, err = a.read("--user-data", d.userData, maxInput); err != nil {
			return r, err
		}
	}
	r.PublicKey, err = a.subjectPublicKeyInfo(d.publicKey)
	return r, err
}

// nonceFlags are a nonce in hex or in a file.
type nonceFlags struct{ hex, file string }

func (n *nonceFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&n.hex, "nonce", "", "the nonce in `HEX`")
	c.Flags().StringVar(&n.file, "nonce-file", "", "`FILE` with the nonce")
}

func (n *nonceFlags) read(a *app) ([]byte, error) {
	switch {
	case n.hex != "" && n.file != "":
		return nil, usagef("--nonce and --nonce-file exclude each other")
	case n.hex != "":
		return parseHex("--nonce", n.hex)
	case n.file != "":
		return a.read("--nonce-file", n.file, maxInput)
	}
	return nil, nil
}

// filled refuses a flag that is given without a value, as by a variable that is not set: what was meant to be demanded
// would not be.
func filled(c *cobra.Command) (err error) {
	c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		values := []string{f.Value.String()}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			values = list.GetSlice()
		}
		if err == nil && f.Changed && slices.Contains(values, "") {
			err = usagef("--%s is empty", f.Name)
		}
	})
	return err
}

func parseHex(flag, s string) ([]byte, error) {
	b, err := hex.DecodeString(s)
	if err != nil {
		return nil, usagef("%s %s: not hex digits in pairs", flag, s)
	}
	return b, nil
}

// subjectPublicKeyInfo is the public half of a key of the store or else of a file, in DER; nil for no name.
func (a *app) subjectPublicKeyInfo(name string) ([]byte, error) {
	if name == "" {
		return nil, nil
	}
	k, err := a.find(name)
	if err == nil {
		key, err := k.entry.Object.Public.Key()
		if err != nil {
			return nil, err
		}
		return x509.MarshalPKIXPublicKey(key)
	}
	if errors.Is(err, keystore.ErrAmbiguous) {
		return nil, err
	}
	key, fileErr := a.readPublic("--public-key", name)
	if fileErr != nil {
		return nil, fmt.Errorf("neither a key of the store nor a file: %w; %w", err, fileErr)
	}
	return x509.MarshalPKIXPublicKey(key)
}

// bytesJSON is a byte string as --json shows it: in hex, and as text where it is text.
type bytesJSON struct {
	Hex  string `json:"hex"`
	Text string `json:"text,omitempty"`
}

func newBytesJSON(b []byte) *bytesJSON {
	if b == nil {
		return nil
	}
	j := &bytesJSON{Hex: hex.EncodeToString(b)}
	if isText(b) {
		j.Text = string(b)
	}
	return j
}

// String is the text in quotes, or the hex digits.
func (b *bytesJSON) String() string {
	switch {
	case b == nil:
		return "-"
	case b.Text != "":
		return fmt.Sprintf("%q", b.Text)
	}
	return b.Hex
}

// isText tells characters that a person can read from other bytes.
func isText(b []byte) bool {
	if len(b) == 0 || !utf8.Valid(b) {
		return false
	}
	return !bytes.ContainsFunc(b, func(r rune) bool { return !unicode.IsPrint(r) && !unicode.IsSpace(r) })
}
