package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/keystore/tss2"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// parentFlag registers which key the two files of tpm2-tools are wrapped to.
func parentFlag(c *cobra.Command, parent *string) {
	c.Flags().StringVar(parent, "parent", "", "persistent `HANDLE` of the storage key that --public and --private belong to (default: the storage root key)")
}

// readTools reads the two files of a wrapped object as tpm2-tools writes them.
func (a *app) readTools(public, private, parent string) (o provider.Object, err error) {
	if parent != "" {
		if o.Parent, err = parseHandle(parent); err != nil {
			return o, err
		}
	}
	const hint = "--public takes what `tpm2_create -u` wrote, --private what `tpm2_create -r` wrote"
	b, err := a.read("--public", public, math.MaxUint16+2)
	if err != nil {
		return o, err
	}
	if o.Public, err = tss2.DecodePublic(b); err != nil {
		return o, withHint(fmt.Errorf("%s: %w", inputName(public), err), hint)
	}
	if b, err = a.read("--private", private, math.MaxUint16+2); err != nil {
		return o, err
	}
	if o.Private, err = tss2.DecodePrivate(b); err != nil {
		return o, withHint(fmt.Errorf("%s: %w", inputName(private), err), hint)
	}
	return o, nil
}

// otherParent adds to an error about the two files what their parent may have been.
func otherParent(err error) error {
	if errors.Is(err, provider.ErrWrongTPM) {
		return withHint(err, "name the storage key that was `tpm2_create -C`'s by --parent HANDLE: `tpm2-p11 handles` shows those of this TPM, and "+
			"`tpm2_evictcontrol -C o -c primary.ctx 0x81000002` gives a handle to one that is but a context file")
	}
	return err
}

// writeTools writes stem.pub and stem.priv as tpm2-tools read them, stem.policy with the policy if there is one, and says so.
func (a *app) writeTools(stem string, k tss2.Key) error {
	files := []string{stem + ".pub", stem + ".priv"}
	if err := writeFile(files[0], tss2.EncodePublic(k.Object.Public), 0o644); err != nil {
		return err
	}
	if err := writeFile(files[1], tss2.EncodePrivate(k.Object.Private), 0o600); err != nil {
		return err
	}
	if !k.Policy.IsZero() {
		tree, err := json.Marshal(k.Policy)
		if err != nil {
			return err
		}
		files = append(files, stem+".policy")
		if err := writeFile(files[2], append(tree, '\n'), 0o644); err != nil {
			return err
		}
	}
	return a.printFiles(files)
}
