package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/internal/p11uri"
	"github.com/tpm2-p11/tpm2-p11/keystore"
)

// find gives the one key that answers to a name: a label, a CKA_ID in hex, a handle or a PKCS#11 URI, whose pin-source
// then stands for --pin-file. Where no token is chosen, all are searched.
func (a *app) find(name string) (target, error) {
	answers, pin, err := parseKeyName(name)
	if err != nil {
		return target{}, err
	}
	slots, err := a.searched()
	if err != nil {
		return target{}, err
	}
	var found []target
	for _, slot := range slots {
		t := a.set.Tokens[slot]
		entries, err := t.Keys()
		if err != nil {
			return target{}, err
		}
		for _, e := range entries {
			if answers(slot, t, e) {
				found = append(found, target{token: t, entry: e, pin: pinSource{file: pin}})
			}
		}
	}
	switch shown, _, _ := strings.Cut(name, "?"); len(found) {
	case 0:
		return target{}, fmt.Errorf("%q: %w", shown, keystore.ErrNotFound)
	case 1:
		return found[0], nil
	default:
		var uris []string
		for _, k := range found {
			uris = append(uris, keyURI(k.token, k.entry))
		}
		slices.Sort(uris)
		return target{}, fmt.Errorf("%q: %w: %s", shown, keystore.ErrAmbiguous, strings.Join(uris, ", "))
	}
}

// searched are the slots of the initialised tokens among the selected ones.
func (a *app) searched() (slots []int, err error) {
	all, err := a.selected()
	if err != nil {
		return nil, err
	}
	for _, i := range all {
		if a.set.Tokens[i].Initialized() {
			slots = append(slots, i)
		}
	}
	if len(slots) == 0 {
		return nil, fmt.Errorf("%s: %w", a.set.Tokens[all[0]].Dir(), keystore.ErrNotInitialized)
	}
	return slots, nil
}

type answersTo func(slot int, t *keystore.Token, e keystore.Entry) bool

// parseKeyName reads a user's name for a key. It gives the URI's pin-source as well.
func parseKeyName(name string) (answers answersTo, pin string, err error) {
	if p11uri.Is(name) {
		u, err := p11uri.Parse(name)
		if err != nil {
			return nil, "", usageError{err}
		}
		return func(slot int, t *keystore.Token, e keystore.Entry) bool {
			return u.Matches(uriAttributes(slot, t, e, u.Path[p11uri.Type]))
		}, u.PINSource, nil
	}
	if name == "" {
		return nil, "", usagef("the key's name is empty")
	}
	handle, badHandle := parseHandle(name)
	id, badID := hex.DecodeString(name)
	return func(_ int, _ *keystore.Token, e keystore.Entry) bool {
		return e.Label == name ||
			badHandle == nil && e.Object.Handle == handle ||
			badID == nil && bytes.Equal(e.CKAID, id)
	}, "", nil
}

// uriAttributes is what a URI can select a key by. Each of a key's objects stands for the key.
func uriAttributes(slot int, t *keystore.Token, e keystore.Entry, kind string) p11uri.Attributes {
	have := p11uri.Attributes{
		p11uri.Token: t.Label(), p11uri.Serial: t.Serial(), p11uri.SlotID: strconv.Itoa(slot),
		p11uri.Object: e.Label, p11uri.ID: string(e.CKAID),
	}
	if kind == "private" || kind == "public" || kind == "cert" && len(e.Certificates) > 0 {
		have[p11uri.Type] = kind
	}
	return have
}

// keyURI names a key unmistakably.
func keyURI(t *keystore.Token, e keystore.Entry) string {
	return p11uri.URI{Path: p11uri.Attributes{
		p11uri.Token: t.Label(), p11uri.Object: e.Label, p11uri.ID: string(e.CKAID),
	}}.String()
}

// pinOf is where a key's PIN comes from: the flag, or else the URI's pin-source.
func (k target) pinOf(flag pinSource) pinSource {
	if flag.file == "" {
		flag.file = k.pin.file
	}
	return flag
}

// completeKeys completes labels of keys from the stores; it never touches the TPM.
func (a *app) completeKeys(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	slots, err := a.searched()
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []cobra.Completion
	for _, slot := range slots {
		entries, err := a.set.Tokens[slot].Keys()
		if err != nil {
			continue
		}
		for _, e := range entries {
			names = append(names, cobra.CompletionWithDesc(e.Label, typeName(e.Object.Public)+" "+formatHandle(e.Object.Handle)))
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) completeTokens(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if _, err := a.open(); err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var labels []cobra.Completion
	for i := range a.set.Tokens {
		if l := a.tokenLabel(i); l != "" {
			labels = append(labels, l)
		}
	}
	return labels, cobra.ShellCompDirectiveNoFileComp
}
