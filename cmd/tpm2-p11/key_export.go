package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/keystore/tss2"
)

func keyExportCommand(a *app) *cobra.Command {
	var format, out string
	c := &cobra.Command{
		Use:   "export KEY",
		Short: "Write a wrapped key for other TPM tools",
		Long: `export writes a key as it is wrapped to the TPM: only that TPM can use it.

tss2 is one TSS2 PRIVATE KEY file; tpm2-tools is FILE.pub and FILE.priv, as tpm2_load takes them, and FILE.policy with the
policy of a key that has one. A TSS2 file also holds the policies that a key's signer approved so far.`,
		Example: `  tpm2-p11 key export web --out web.tss2
  tpm2-p11 key export web --format tpm2-tools --out web && tpm2_load -C 0x81000001 -u web.pub -r web.priv -c web.ctx`,
		Args: exactly("KEY"), ValidArgsFunction: a.completeKeys,
		RunE: a.verb(func(_ context.Context, args []string) error {
			if err := checkObjectFormat(format, out); err != nil {
				return err
			}
			k, err := a.find(args[0])
			if err != nil {
				return err
			}
			if len(k.entry.Object.Private) == 0 {
				return withHint(fmt.Errorf("key %q was linked: only the TPM has it", k.entry.Label), "its public half comes from `tpm2-p11 key public`")
			}
			if kind := pinKind(k.entry); kind == "token" {
				a.note("the key's authorisation is the token's secret: other tools cannot use it without")
			}
			exported := tss2.Key{Object: k.entry.Object, EmptyAuth: k.entry.EmptyAuth, Policy: k.entry.Policy}
			if format == "tpm2-tools" {
				return a.writeTools(out, exported)
			}
			if exported.Approved, err = k.token.ApprovedFor(k.entry.Approved)(); err != nil {
				return err
			}
			text, err := encodeTSS2(exported)
			if err != nil {
				return err
			}
			return a.deliver(map[string]any{"pem": string(text)}, out, text, 0o600)
		}),
	}
	objectFormatFlags(c, &format, &out)
	return c
}

// objectFormatFlags registers how a wrapped object is written.
func objectFormatFlags(c *cobra.Command, format, out *string) {
	c.Flags().StringVar(format, "format", "tss2", "tss2 or tpm2-tools")
	c.Flags().StringVarP(out, "out", "o", "", "output `FILE`; with tpm2-tools the names are FILE.pub and FILE.priv")
	choices(c, "format", "tss2", "tpm2-tools")
}

func checkObjectFormat(format, out string) error {
	switch {
	case format != "tss2" && format != "tpm2-tools":
		return usagef("--format %s: there is tss2 and tpm2-tools", format)
	case format == "tpm2-tools" && toStdout(out):
		return usagef("--format tpm2-tools writes two files: name them with --out NAME")
	}
	return nil
}

// printFiles says which files were written.
func (a *app) printFiles(files []string) error {
	return a.print(struct {
		Files []string `json:"files"`
	}{files}, func(w io.Writer) { fmt.Fprintln(w, strings.Join(files, "\n")) })
}
