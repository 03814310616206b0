package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

type handleJSON struct {
	Handle string `json:"handle"`
	Type   string `json:"type"`
	Name   string `json:"name"`
	Owner  string `json:"owner"`           // key, srk, foreign
	Label  string `json:"label,omitempty"` // of a key
	Token  string `json:"token,omitempty"` // that a key belongs to
}

func handlesCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "handles",
		Short:   "List the TPM's persistent objects and whose they are",
		Example: "  tpm2-p11 handles",
		Args:    exactly(),
		RunE: a.verb(func(ctx context.Context, _ []string) error {
			t, err := a.tpm()
			if err != nil {
				return err
			}
			found, err := a.persistentObjects(ctx, t)
			if err != nil {
				return err
			}
			return a.print(struct {
				Handles []handleJSON `json:"handles"`
			}{found}, func(w io.Writer) {
				if len(found) == 0 {
					a.note("the TPM holds no persistent object")
					return
				}
				var rows [][]string
				for _, h := range found {
					rows = append(rows, []string{h.Handle, h.Type, abbreviate(h.Name), h.whose(a)})
				}
				table(w, []string{"HANDLE", "TYPE", "NAME", "WHOSE"}, rows)
			})
		}),
	}
}

// whose is the owner in words. The token is named where a reader would not look for the key.
func (h handleJSON) whose(a *app) string {
	switch {
	case h.Owner == "srk":
		return "storage root key"
	case h.Owner == "foreign":
		return "another tool's, or of a store that is not configured here"
	case len(a.set.Tokens) == 1 && a.set.Tokens[0].Label() == h.Token:
		return "key " + h.Label
	}
	return fmt.Sprintf("key %s of token %s", h.Label, h.Token)
}

// abbreviate shows as much of a Name as tells it from others.
func abbreviate(name string) string {
	const shown = 12
	if len(name) <= shown {
		return dash(name)
	}
	return name[:shown] + "…"
}

func (a *app) persistentObjects(ctx context.Context, t *provider.TPM) ([]handleJSON, error) {
	handles, err := t.PersistentHandles(ctx)
	if err != nil {
		return nil, err
	}
	owners, err := a.ownersByName(t)
	if err != nil {
		return nil, err
	}
	found := []handleJSON{}
	for _, h := range handles {
		public, err := t.ReadPublic(ctx, h)
		if errors.Is(err, provider.ErrNoObject) {
			continue // removed since the list was read
		}
		if errors.Is(err, provider.ErrUnsupported) {
			found = append(found, handleJSON{Handle: formatHandle(h), Type: "unknown", Owner: "foreign"})
			continue
		}
		if err != nil {
			return nil, err
		}
		entry := handleJSON{Handle: formatHandle(h), Type: public.Describe(), Name: hex.EncodeToString(public.Name()), Owner: "foreign"}
		if k, ok := owners[entry.Name]; ok && k.entry.Object.Handle == h {
			entry.Owner, entry.Label, entry.Token = "key", k.entry.Label, k.token.Label()
		} else if isSRK(public) {
			entry.Owner = "srk"
		}
		found = append(found, entry)
	}
	return found, nil
}

// ownersByName are the keys by their Names in hex: those of all configured stores, and of the one that --store names.
func (a *app) ownersByName(t *provider.TPM) (map[string]target, error) {
	all, open := slices.Clone(a.set.Tokens), map[string]bool{}
	for _, t := range all {
		open[t.Dir()] = true
	}
	for _, c := range a.loaded.Tokens {
		if open[c.Store] {
			continue
		}
		// What cannot be read here is another's affair.
		if other, err := keystore.Open(keystore.Options{Dir: c.Store, TPM: t}); err == nil {
			all = append(all, other)
		}
	}
	owners := map[string]target{}
	for i, t := range all {
		if !t.Initialized() {
			continue
		}
		entries, err := t.Keys()
		if err != nil && i < len(a.set.Tokens) {
			return nil, err
		}
		for _, e := range entries {
			owners[hex.EncodeToString(e.Object.Public.Name())] = target{token: t, entry: e}
		}
	}
	return owners, nil
}
