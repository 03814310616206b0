package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
)

func keyPublicCommand(a *app) *cobra.Command {
	var format, out string
	c := &cobra.Command{
		Use:   "public KEY",
		Short: "Write a key's public half",
		Example: `  tpm2-p11 key public web --out web.pub
  tpm2-p11 key public web --format ssh >>~/.ssh/authorized_keys`,
		Args: exactly("KEY"), ValidArgsFunction: a.completeKeys,
		RunE: a.verb(func(_ context.Context, args []string) error {
			k, err := a.find(args[0])
			if err != nil {
				return err
			}
			key, err := k.entry.Object.Public.Key()
			if err != nil {
				return err
			}
			data, err := encodePublic(key, format, k.entry.Label)
			if err != nil {
				return err
			}
			text := string(data)
			if format == "der" {
				if err := a.binaryFits(out); err != nil {
					return err
				}
				text = base64.StdEncoding.EncodeToString(data)
			}
			return a.deliver(map[string]any{"format": format, "public_key": text}, out, data, 0o644)
		}),
	}
	c.Flags().StringVar(&format, "format", "pem", "pem, der or ssh")
	c.Flags().StringVarP(&out, "out", "o", "", "output `FILE`")
	choices(c, "format", "pem", "der", "ssh")
	return c
}

// encodePublic encodes a public key; label becomes an OpenSSH key's comment.
func encodePublic(key crypto.PublicKey, format, label string) ([]byte, error) {
	switch format {
	case "pem", "der":
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil || format == "der" {
			return der, err
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
	case "ssh":
		k, err := ssh.NewPublicKey(key)
		if err != nil {
			return nil, err
		}
		line := strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(k)), "\n")
		// A line break in a label must not begin another entry of authorized_keys.
		return []byte(line + " " + strings.Join(strings.Fields(label), " ") + "\n"), nil
	}
	return nil, usagef("--format %s: there is pem, der and ssh", format)
}
