package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/google/go-tpm/tpm2"
	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/keystore"
)

func keyListCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the keys, and what else is kept secret for PKCS #11 programs",
		Example: "  tpm2-p11 key list\n  tpm2-p11 key list --json",
		Args:    exactly(),
		RunE: a.verb(func(context.Context, []string) error {
			l := keyList{Keys: []keyJSON{}, Secrets: []secretJSON{}}
			chosen, err := a.selected()
			if err != nil {
				return err
			}
			if len(chosen) == 1 {
				t, err := a.initialized()
				if err != nil {
					return err
				}
				if err := l.add(a, t, ""); err != nil {
					return err
				}
				return l.print(a, "the store has no key yet: `tpm2-p11 key create LABEL` makes one")
			}
			for _, i := range chosen {
				t := a.set.Tokens[i]
				if err := t.Check(); errors.Is(err, keystore.ErrNotInitialized) {
					a.note("%s: %v: `tpm2-p11 init --token %s` makes it", t.Dir(), keystore.ErrNotInitialized, shellWord(a.tokenLabel(i)))
					continue
				}
				if err := l.add(a, t, a.tokenLabel(i)); err != nil {
					return err
				}
			}
			return l.print(a, "no token has a key yet: `tpm2-p11 key create LABEL --token TOKEN` makes one")
		}),
	}
}

// keyList is what tokens keep.
type keyList struct {
	Keys    []keyJSON    `json:"keys"`
	Secrets []secretJSON `json:"secrets"`

	rows   [][]string
	tokens bool // the first column
}

// add lists a token's keys, under its label where there are several tokens.
func (l *keyList) add(a *app, t *keystore.Token, token string) error {
	entries, err := t.Entries()
	if err != nil {
		return err
	}
	problems, err := t.Problems()
	if err != nil {
		return err
	}
	if len(problems) > 0 {
		a.note("files of the store that cannot be used: %d; `tpm2-p11 doctor` names them", len(problems))
	}
	l.tokens = token != ""
	row := func(cells ...string) {
		if l.tokens {
			cells = append([]string{token}, cells...)
		}
		l.rows = append(l.rows, cells)
	}
	for _, e := range entries {
		if e.Secret != nil {
			k := describeSecret(e)
			k.Token = token
			l.Secrets = append(l.Secrets, k)
			row(k.Label, k.Type, dash(strings.Join(k.Use, ",")), "-", k.PIN, policySummary(e), dash(k.CKAID), "-")
			continue
		}
		k := describe(t, e)
		k.Token = token
		l.Keys = append(l.Keys, k)
		row(k.Label, k.Type, strings.Join(k.Use, ","), dash(k.Handle), k.PIN, policySummary(e), k.CKAID, dash(k.Certificate))
	}
	return nil
}

func (l *keyList) print(a *app, none string) error {
	return a.print(l, func(w io.Writer) {
		if len(l.rows) == 0 {
			a.note("%s", none)
			return
		}
		columns := []string{"LABEL", "TYPE", "USE", "HANDLE", "PIN", "POLICY", "CKA_ID", "CERTIFICATE"}
		if l.tokens {
			columns = append([]string{"TOKEN"}, columns...)
		}
		table(w, columns, l.rows)
	})
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func keyShowCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "show KEY",
		Short:   "Show everything about a key",
		Example: "  tpm2-p11 key show web\n  tpm2-p11 key show 'pkcs11:token=tpm2-p11;object=web'",
		Args:    exactly("KEY"), ValidArgsFunction: a.completeKeys,
		RunE: a.verb(func(_ context.Context, args []string) error {
			k, err := a.find(args[0])
			if err != nil {
				return err
			}
			return a.showKey(k)
		}),
	}
}

func (a *app) showKey(k target) error {
	d, public := describe(k.token, k.entry), k.entry.Object.Public
	attributes := attributeNames(public.Attributes())
	answer := struct {
		Key        keyJSON  `json:"key"`
		Attributes []string `json:"attributes"`
		AuthPolicy string   `json:"auth_policy,omitempty"`
		Chain      []string `json:"certificates"`
	}{d, attributes, hex.EncodeToString(public.AuthPolicy()), []string{}}
	for _, c := range k.entry.Certificates {
		answer.Chain = append(answer.Chain, c.Subject.String())
	}
	return a.print(answer, func(w io.Writer) {
		line := func(name, format string, args ...any) {
			fmt.Fprintf(w, "%-12s %s\n", name, fmt.Sprintf(format, args...))
		}
		line("label", "%s", d.Label)
		line("CKA_ID", "%s", d.CKAID)
		line("URI", "%s", d.URI)
		line("type", "%s for %s", d.Type, strings.Join(d.Use, " and "))
		line("handle", "%s", dash(d.Handle))
		line("Name", "%s", d.Name)
		line("attributes", "%s", strings.Join(attributes, " "))
		line("PIN", "%s", d.PIN)
		showPolicy(line, k.entry)
		for i, c := range k.entry.Certificates {
			line([]string{"certificate", "  issued by"}[min(i, 1)], "%s, until %s", c.Subject, c.NotAfter.Format("2006-01-02"))
		}
		if d.Created != nil {
			line("created", "%s", d.Created.Format("2006-01-02 15:04:05 MST"))
		}
		if k.entry.State != keystore.Ready {
			line("state", "%s: `tpm2-p11 doctor` finishes what was interrupted", d.State)
		}
	})
}

func showPolicy(line func(name, format string, args ...any), e keystore.Entry) {
	digest := e.Object.Public.AuthPolicy()
	if len(digest) == 0 {
		line("policy", "none")
		return
	}
	if e.Object.Public.Attributes().UserWithAuth {
		line("policy", "not enforced: userWithAuth is set, so the key also works without it")
	}
	if e.Policy.IsZero() {
		line("policy", "digest %x: what gives it is not known", digest)
		return
	}
	for text := range strings.Lines(e.Policy.Explain()) {
		line("policy", "%s", strings.TrimRight(text, "\n"))
	}
}

// attributeNames are the set bits of TPMA_OBJECT (TPM 2.0 Part 2, 8.3) by the specification's names.
func attributeNames(at tpm2.TPMAObject) []string {
	names := []string{}
	for _, bit := range []struct {
		set  bool
		name string
	}{
		{at.FixedTPM, "fixedTPM"}, {at.STClear, "stClear"}, {at.FixedParent, "fixedParent"},
		{at.SensitiveDataOrigin, "sensitiveDataOrigin"}, {at.UserWithAuth, "userWithAuth"},
		{at.AdminWithPolicy, "adminWithPolicy"}, {at.NoDA, "noDA"}, {at.EncryptedDuplication, "encryptedDuplication"},
		{at.Restricted, "restricted"}, {at.Decrypt, "decrypt"}, {at.SignEncrypt, "sign"},
	} {
		if bit.set {
			names = append(names, bit.name)
		}
	}
	return names
}
