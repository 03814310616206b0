package main

import (
	"context"
	"encoding/hex"
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

type handleJSON struct {
	Handle string `json:"handle"`
	Type   string `json:"type"`
	Name   string `json:"name"`
	Owner  string `json:"owner"` // key, srk, foreign
	Label  string `json:"label,omitempty"`
}

func handlesCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "handles",
		Short:   "List the TPM's persistent objects and whose they are",
		Example: "  tpm2-p11 handles",
		Args:    exactly(),
		RunE: a.verb(func(ctx context.Context, _ []string) error {
			t, err := a.token()
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
					whose := map[string]string{"key": "key " + h.Label, "srk": "storage root key", "foreign": "another tool's"}[h.Owner]
					rows = append(rows, []string{h.Handle, h.Type, abbreviate(h.Name), whose})
				}
				table(w, []string{"HANDLE", "TYPE", "NAME", "WHOSE"}, rows)
			})
		}),
	}
}

// abbreviate shows as much of a Name as tells it from others.
func abbreviate(name string) string {
	const shown = 12
	if len(name) <= shown {
		return dash(name)
	}
	return name[:shown] + "…"
}

func (a *app) persistentObjects(ctx context.Context, t *keystore.Token) ([]handleJSON, error) {
	handles, err := t.TPM().PersistentHandles(ctx)
	if err != nil {
		return nil, err
	}
	owners, err := a.ownersByName()
	if err != nil {
		return nil, err
	}
	found := []handleJSON{}
	for _, h := range handles {
		public, err := t.TPM().ReadPublic(ctx, h)
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
		if e, ok := owners[entry.Name]; ok && e.Object.Handle == h {
			entry.Owner, entry.Label = "key", e.Label
		} else if isSRK(public) {
			entry.Owner = "srk"
		}
		found = append(found, entry)
	}
	return found, nil
}

// ownersByName are the keys of all configured stores by their Names in hex.
func (a *app) ownersByName() (map[string]keystore.Entry, error) {
	owners := map[string]keystore.Entry{}
	for _, t := range a.set.Tokens {
		if !t.Initialized() {
			continue
		}
		entries, err := t.Keys()
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			owners[hex.EncodeToString(e.Object.Public.Name())] = e
		}
	}
	return owners, nil
}
