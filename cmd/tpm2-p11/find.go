package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/internal/tokens"
)

// find gives the one key that answers to a name: a label, a CKA_ID in hex, a handle or a PKCS#11 URI, whose pin-source
// then stands for --pin-file. Where no token is chosen, all are searched.
func (a *app) find(name string) (target, error) {
	n, slots, err := a.named(name)
	if err != nil {
		return target{}, err
	}
	k, err := a.set.Find(n, slots)
	if err != nil {
		return target{}, fmt.Errorf("%s: %w", tokens.QuoteName(name), err)
	}
	found := target{token: k.Token, entry: k.Entry}
	if n.URI != nil {
		found.pin.uri = *n.URI
	}
	return found, nil
}

// findKept is find for what is no key of the TPM's: secret keys, data, and certificates of nobody's. Nothing, and no error, where there
// is none of the name.
func (a *app) findKept(name string) (found target, err error) {
	n, slots, err := a.named(name)
	if err != nil {
		return target{}, err
	}
	var uris []string
	for _, slot := range slots {
		t := a.set.Tokens[slot]
		kept, err := t.Secrets()
		if err != nil {
			continue // find has told of it
		}
		for _, e := range kept {
			traits := tokens.Traits{Label: e.Label, CKAID: e.CKAID, Slot: slot, Token: t.Label(), Serial: t.Serial()}
			if n.Matches(traits) {
				found = target{token: t, entry: e}
				uris = append(uris, traits.URI())
			}
		}
	}
	if len(uris) > 1 {
		return target{}, fmt.Errorf("%s: %w", tokens.QuoteName(name), tokens.Ambiguous(uris))
	}
	return found, nil
}

// named reads a name, and gives the tokens that it is looked for in.
func (a *app) named(name string) (n tokens.Name, slots []int, err error) {
	if n, err = tokens.ParseName(name); err != nil {
		return n, nil, usageError{err}
	}
	slots, err = a.selected()
	return n, slots, err
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
		return nil, usable(a.set.Tokens[all[0]])
	}
	return slots, nil
}

// pinOf is where a key's PIN comes from: the flag, or else the URI's pin-source.
func (k target) pinOf(flag pinSource) pinSource {
	flag.uri = k.pin.uri
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
