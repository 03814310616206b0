package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

func verifyCommand(a *app) *cobra.Command {
	var in, public, signatureFile, hash, scheme string
	var isDigest bool
	c := &cobra.Command{
		Use:   "verify [KEY]",
		Short: "Verify a signature, without the TPM",
		Long: `verify checks a signature in software, by a key of the store or by a public key file. It reads both formats of sign.

A signature in the tss format says itself how it was made; for a plain one --hash and --scheme must be those of sign.`,
		Example: `  tpm2-p11 verify web --in contract.txt --signature contract.sig
  tpm2-p11 verify --public web.pub --in contract.txt --signature contract.sig`,
		ValidArgsFunction: a.completeKeys,
	}
	c.RunE = a.verb(func(_ context.Context, args []string) error {
		if signatureFile == "" {
			return usagef("--signature is missing")
		}
		key, err := a.publicKey(args, public)
		if err != nil {
			return err
		}
		wanted := signature{}
		if wanted.hash, err = parseHash("--hash", hash); err != nil {
			return err
		}
		if wanted.scheme, err = schemeFor(key, scheme); err != nil {
			return err
		}
		data, err := a.read("--signature", signatureFile, maxInput)
		if err != nil {
			return err
		}
		s, err := parseSignature(data, key)
		if err != nil {
			return withHint(fmt.Errorf("%s: %w", inputName(signatureFile), err), "name what `tpm2-p11 sign` wrote, and the key that signed")
		}
		told := s.hash != 0 // by the file
		if !told {
			s.hash = wanted.hash
		} else if c.Flags().Changed("hash") && s.hash != wanted.hash {
			return fmt.Errorf("%s was made with %s", inputName(signatureFile), hashName(s.hash))
		}
		if s.scheme == "" {
			s.scheme = wanted.scheme
		} else if scheme != "" && s.scheme != wanted.scheme {
			return fmt.Errorf("%s was made with %s", inputName(signatureFile), s.scheme)
		}
		digest, err := a.digest(in, s.hash, isDigest)
		if err != nil {
			return err
		}
		verdict := struct {
			Valid  bool   `json:"valid"`
			Scheme string `json:"scheme"`
			Hash   string `json:"hash"`
		}{true, s.scheme, hashName(s.hash)}
		if err := s.check(key, digest); err != nil {
			if a.global.json {
				verdict.Valid = false
				return errors.Join(a.print(verdict, nil), errReported)
			}
			if told {
				return err
			}
			return explainMismatch(err, s, c.Flags().Changed("hash"), scheme != "")
		}
		return a.print(verdict, func(w io.Writer) { fmt.Fprintf(w, "the signature is valid (%s, %s)\n", s.scheme, hashName(s.hash)) })
	})
	f := c.Flags()
	f.StringVarP(&in, "in", "i", "", "input `FILE` (default: standard input)")
	f.StringVar(&public, "public", "", "`FILE` with a public key or certificate, instead of KEY")
	f.StringVar(&signatureFile, "signature", "", "`FILE` with the signature")
	signatureFlags(c, &hash, &scheme, &isDigest)
	return c
}

// explainMismatch says which of the flags that were not given might have been needed for a signature that does not say
// itself how it was made.
func explainMismatch(err error, s signature, hashGiven, schemeGiven bool) error {
	var tries []string
	if s.scheme == schemePSS && !schemeGiven {
		tries = append(tries, "if it was made with PKCS#1 v1.5 add --scheme pkcs1")
	}
	if !hashGiven {
		tries = append(tries, "if with another hash than "+hashName(s.hash)+" name it by --hash")
	}
	if len(tries) == 0 {
		return err
	}
	return withHint(err, "%s", strings.Join(tries, "; "))
}

// publicKey is the public half of a key of the store, or what a file holds.
func (a *app) publicKey(args []string, file string) (crypto.PublicKey, error) {
	switch {
	case len(args) == 0 && file != "":
		return a.readPublic("--public", file)
	case len(args) == 1 && file == "":
		k, err := a.find(args[0])
		if err != nil {
			return nil, err
		}
		return k.entry.Object.Public.Key()
	}
	return nil, usagef("verify takes a KEY, or --public FILE")
}
