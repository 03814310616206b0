package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

func keyLinkCommand(a *app) *cobra.Command {
	var s specFlags
	var label string
	c := &cobra.Command{
		Use:   "link HANDLE",
		Short: "Use a persistent key that other tools made",
		Long: `link takes the public half of a persistent key into the store; the key itself stays where it is.

A key that takes a password is linked with --own-pin-file; one with a PCR policy with the same --pcr it was made with.`,
		Example: `  tpm2-p11 key link 0x81000005 --label old-web`,
		Args:    exactly("HANDLE"),
		RunE: a.verb(func(ctx context.Context, args []string) error {
			h, err := parseHandle(args[0])
			if err != nil {
				return err
			}
			if label == "" {
				return withHint(usagef("the label is missing"), "name the key with --label LABEL")
			}
			spec, err := s.spec(label)
			if err != nil {
				return err
			}
			return a.addKey(ctx, &s, spec, func(t *keystore.Token, spec keystore.KeySpec) (keystore.Entry, error) {
				e, err := t.Link(ctx, h, spec)
				if err == nil && guessed(e) {
					a.note("the key is under the TPM's dictionary-attack protection: if it has a password after all, each use counts as a wrong try. Then link it with --own-pin-file")
				}
				return e, err
			})
		}),
	}
	f := c.Flags()
	f.StringVar(&label, "label", "", "the key's `LABEL`")
	f.StringVar(&s.id, "id", "", "CKA_ID in `HEX` (default: SHA-1 of the public key)")
	pinFlag(c, &s.pin)
	s.registerAccess(f)
	return c
}

// guessed tells a key that is taken to have no password, as nobody gave one, and whose wrong tries the TPM would count.
func guessed(e keystore.Entry) bool { return e.Linked() && counted(e) }

// counted tells a key that is used without a password, and where the TPM would count that as a wrong one if it had any.
func counted(e keystore.Entry) bool {
	return e.EmptyAuth && !e.Object.Public.Attributes().NoDA && (len(e.Object.Public.AuthPolicy()) == 0 || e.PolicyIgnored())
}

func keyPersistCommand(a *app) *cobra.Command {
	var handle string
	c := &cobra.Command{
		Use:     "persist KEY",
		Short:   "Give a wrapped key a persistent handle",
		Example: "  tpm2-p11 key persist web\n  tpm2-p11 key persist web --handle 0x81000200",
		Args:    exactly("KEY"), ValidArgsFunction: a.completeKeys,
		RunE: a.verb(func(ctx context.Context, args []string) error {
			var h provider.Handle
			if handle != "" {
				var err error
				if h, err = parseHandle(handle); err != nil {
					return err
				}
			}
			k, err := a.find(args[0])
			if err != nil {
				return err
			}
			e, err := k.token.Persist(ctx, k.entry, h)
			if err != nil {
				return err
			}
			return a.printKey(k.token, e)
		}),
	}
	c.Flags().StringVar(&handle, "handle", "", "the `HANDLE` (default: the first free one from 0x81000100 up)")
	return c
}

func keyEvictCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "evict KEY",
		Short:   "Take a key's persistent handle away and keep the wrapped key",
		Example: "  tpm2-p11 key evict web",
		Args:    exactly("KEY"), ValidArgsFunction: a.completeKeys,
		RunE: a.verb(func(ctx context.Context, args []string) error {
			k, err := a.find(args[0])
			if err != nil {
				return err
			}
			e, err := k.token.Evict(ctx, k.entry)
			if err != nil {
				return err
			}
			return a.printKey(k.token, e)
		}),
	}
}

func keyDeleteCommand(a *app) *cobra.Command {
	var yes, linked bool
	c := &cobra.Command{
		Use:   "delete KEY",
		Short: "Delete a key from TPM and store, or what else the store keeps",
		Long: `delete removes a key for good: nobody else has it. A linked key stays in the TPM unless --evict-linked is given.

Secret keys, data and certificates that PKCS #11 programs keep are deleted by their label or CKA_ID, too. A key comes first.`,
		Example: "  tpm2-p11 key delete web --yes",
		Args:    exactly("KEY"), ValidArgsFunction: a.completeKeys,
		RunE: a.verb(func(ctx context.Context, args []string) error {
			k, err := a.find(args[0])
			if errors.Is(err, keystore.ErrNotFound) {
				kept, err := a.findKept(args[0])
				if err != nil {
					return err
				}
				if kept.token != nil {
					return a.deleteKept(ctx, kept, yes)
				}
			}
			if err != nil {
				return err
			}
			if err := a.confirm(ctx, yes, fmt.Sprintf("Delete key %q (%s) for good?", k.entry.Label, typeName(k.entry.Object.Public))); err != nil {
				return err
			}
			if err := k.token.Delete(ctx, k.entry, linked); err != nil {
				return err
			}
			return a.print(struct {
				Deleted keyJSON `json:"deleted"`
			}{describe(k.token, k.entry)}, func(w io.Writer) { fmt.Fprintf(w, "key %q is deleted\n", k.entry.Label) })
		}),
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.Flags().BoolVar(&linked, "evict-linked", false, "remove a linked key from the TPM as well")
	return c
}

// deleteKept deletes a secret key, data or a certificate of nobody's.
func (a *app) deleteKept(ctx context.Context, k target, yes bool) error {
	if err := a.confirm(ctx, yes, fmt.Sprintf("Delete %q (%s) for good?", k.entry.Label, k.entry.Secret)); err != nil {
		return err
	}
	if err := k.token.Delete(ctx, k.entry, false); err != nil {
		return err
	}
	return a.print(struct {
		Deleted secretJSON `json:"deleted"`
	}{describeSecret(k.entry)}, func(w io.Writer) { fmt.Fprintf(w, "%q (%s) is deleted\n", k.entry.Label, k.entry.Secret) })
}

func keyCertificateCommand(a *app) *cobra.Command {
	var remove bool
	c := &cobra.Command{
		Use:   "certificate KEY [FILE]",
		Short: "Store a certificate chain with a key",
		Long:  "certificate stores a PEM chain, the key's own certificate first, with the key: the module and TLS servers offer it.",
		Example: `  tpm2-p11 key certificate web fullchain.pem
  tpm2-p11 key certificate web --remove`,
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return a.completeKeys(cmd, args, word)
			}
			return nil, cobra.ShellCompDirectiveDefault
		},
		RunE: a.verb(func(_ context.Context, args []string) error {
			if remove != (len(args) == 1) || !remove && len(args) != 2 {
				return usagef("certificate takes KEY and FILE, or KEY and --remove")
			}
			k, err := a.find(args[0])
			if err != nil {
				return err
			}
			var chain []*x509.Certificate
			if !remove {
				if chain, err = a.readChain(args[1]); err != nil {
					return err
				}
			}
			e, err := k.token.SetCertificates(k.entry, chain)
			if err != nil {
				return err
			}
			return a.printKey(k.token, e)
		}),
	}
	c.Flags().BoolVar(&remove, "remove", false, "remove the chain")
	return c
}
