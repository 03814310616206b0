package main

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/google/go-tpm/tpm2"
	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/policy/policyfile"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

func policyApproveCommand(a *app) *cobra.Command {
	var nv string
	var force, remove bool
	c := &cobra.Command{
		Use:   "approve FILE",
		Short: "Let this machine's keys use an approved policy",
		Long: `approve puts a file that policy sign wrote, or systemd's tpm2-pcr-signature.json, into the store's folder approved.d. Keys whose
policy has its signer use it from then on; the newest file that fits comes first. An approval that is there is never replaced: the file
of another one with the same name gets a name of its own, which approve prints.

With --nv, FILE is a policy without a signature: its digest is written into the NV index, and keys whose policy is
authorize_nv with that index can be used by it from then on, and by nothing else. The index is made if there is none. That
takes the owner's authorisation.

With --remove, what is in FILE is taken out of the folder again, or the folder's file of that name if there is no such FILE here. That
revokes nothing: whoever has a copy can put it back.`,
		Example: `  tpm2-p11 policy approve ami-2026-11-20.json
  tpm2-p11 policy approve ami-2026-11-20.toml --nv 0x01800001`,
		Args: exactly("FILE"),
		RunE: a.verb(func(ctx context.Context, args []string) error {
			t, err := a.initialized()
			if err != nil {
				return err
			}
			switch {
			case nv != "" && remove:
				return usagef("--nv and --remove exclude each other")
			case remove:
				return a.disapprove(ctx, t, args[0])
			case nv != "":
				return a.approveInNV(ctx, t, args[0], nv, force)
			}
			text, err := a.read("FILE", args[0], maxInput)
			if err != nil {
				return err
			}
			approved, err := policyfile.ParseApproved(inputName(args[0]), text)
			if errors.Is(err, policyfile.ErrNotApproved) {
				err = withHint(err, "sign it with `tpm2-p11 policy sign %s --key KEY --out FILE.json` and approve that, or approve it in an NV index with --nv", shellWord(args[0]))
			}
			if err != nil {
				return err
			}
			path, err := a.approve(ctx, t, approvedName(args[0]), text)
			if err != nil {
				return err
			}
			return a.printApproved(t, approved, path)
		}),
	}
	c.Flags().StringVar(&nv, "nv", "", "write the digest of the policy in FILE into this NV `INDEX`")
	c.Flags().BoolVar(&remove, "remove", false, "take FILE out of the store's folder")
	c.Flags().BoolVar(&force, "force", false, "with --nv: approve even PCRs that look as if nothing had measured into them")
	return c
}

// approvedName is the name that a file has in the store's folder.
func approvedName(path string) string {
	name := filepath.Base(path)
	if ext := filepath.Ext(name); ext != ".json" && ext != ".toml" && ext != ".pcrsig" {
		name += ".json"
	}
	return name
}

// approve puts a file into the store's folder.
func (a *app) approve(ctx context.Context, t *keystore.Token, name string, text []byte) (path string, err error) {
	path, err = t.Approve(ctx, name, text)
	if err == nil && filepath.Base(path) != name {
		a.note("%s is kept: it is another approval", filepath.Join(filepath.Dir(path), name))
	}
	return path, err
}

func (a *app) disapprove(ctx context.Context, t *keystore.Token, file string) error {
	text, err := a.read("FILE", file, maxInput)
	if err != nil && !(errors.Is(err, fs.ErrNotExist) && file == filepath.Base(file)) {
		return err
	}
	path, err := t.Disapprove(ctx, approvedName(file), text)
	if err != nil {
		return err
	}
	name := filepath.Base(path)
	return a.print(struct {
		Removed string `json:"removed"`
	}{name}, func(w io.Writer) { fmt.Fprintf(w, "%s is no longer among the approved policies\n", name) })
}

// printApproved says which keys take what was approved.
func (a *app) printApproved(t *keystore.Token, approved []policy.Approved, path string) error {
	entries, err := t.Keys()
	if err != nil {
		return err
	}
	keys := []string{}
	for _, e := range entries {
		if e.Policy.Takes(approved) {
			keys = append(keys, e.Label)
		}
	}
	if len(keys) == 0 {
		a.note("no key of this token has a policy with its signer and ref yet")
	}
	return a.print(struct {
		File     string   `json:"file"`
		Policies int      `json:"policies"`
		Keys     []string `json:"keys"`
	}{path, len(approved), keys}, func(w io.Writer) {
		fmt.Fprintf(w, "%s in %s\n", count(len(approved), "approved policy", "approved policies"), path)
		if len(keys) > 0 {
			fmt.Fprintf(w, "for %s\n", strings.Join(keys, ", "))
		}
	})
}

func (a *app) approveInNV(ctx context.Context, t *keystore.Token, path, nv string, force bool) error {
	index, err := parseNVIndex("--nv", nv)
	if err != nil {
		return err
	}
	f, err := a.readPolicy("FILE", path)
	if err != nil {
		return err
	}
	switch {
	case f.Policy.IsZero():
		return withHint(fmt.Errorf("%s: there is no [policy] in it", inputName(path)), "name the policy itself, as it is before `tpm2-p11 policy sign`")
	case f.Policy.NeedsApproval():
		return withHint(fmt.Errorf("%s: %s is no policy that an index approves", inputName(path), f.Policy),
			"name what the keys shall be used by, such as PCRs; keys that follow the index are made with authorize_nv = { index = 0x%08x }", uint32(index))
	}
	p, err := f.Policy.Resolve(t.PolicyState(ctx), force)
	if err != nil {
		return err
	}
	digest, err := p.Digest(f.Hash)
	if err != nil {
		return err
	}
	name := strings.TrimSuffix(filepath.Base(inputName(path)), filepath.Ext(path))
	text, err := policyfile.EncodeApproved([]policy.Approved{{Name: name, Policy: p}})
	if err != nil {
		return err
	}
	// The file first: the index alone would keep every key from working.
	file, err := a.approve(ctx, t, name+".json", text)
	if err != nil {
		return err
	}
	if err := t.TPM().WritePolicyIndex(ctx, index, digest); err != nil {
		return err
	}
	x, err := t.TPM().ReadPolicyIndex(ctx, index)
	if err != nil {
		return err
	}
	return a.print(struct {
		File   string `json:"file"`
		Index  string `json:"nv_index"`
		Name   string `json:"name"`
		Digest string `json:"digest"`
	}{file, nv, hex.EncodeToString(x.Name), hex.EncodeToString(digest)}, func(w io.Writer) {
		fmt.Fprintf(w, "NV index %s approves %s, and nothing else, for keys with\n", nv, p)
		fmt.Fprintf(w, "authorize_nv = { index = \"0x%08x\", name = \"%x\" }\n", uint32(index), x.Name)
	})
}

func policyRevokeCommand(a *app) *cobra.Command {
	var remove bool
	c := &cobra.Command{
		Use:   "revoke INDEX",
		Short: "Revoke, at once and for every key, what an NV index approves",
		Long: `revoke writes a digest into the NV index that no policy has: no key whose policy is authorize_nv with this index can be used
until policy approve --nv writes another one. With --remove the index, or a counter, itself is removed: what is bound to it cannot be
used until it is made again, and what a counter ended not even then. It takes the owner's authorisation.

What a signer approved cannot be taken back by removing its file, since somebody may have a copy. Where that matters, bind
approved policies to a counter: nv = { index = …, op = "le", value = N }, and advance it with policy counter --advance.`,
		Example: "  tpm2-p11 policy revoke 0x01800001",
		Args:    exactly("INDEX"),
		RunE: a.verb(func(ctx context.Context, args []string) error {
			index, err := parseNVIndex("INDEX", args[0])
			if err != nil {
				return err
			}
			t, err := a.tpm()
			if err != nil {
				return err
			}
			x, err := t.ReadPolicyIndex(ctx, index)
			if errors.Is(err, policy.ErrNoIndex) {
				return withHint(err, "`tpm2-p11 policy approve FILE --nv %s` makes it", args[0])
			}
			if err != nil {
				return err
			}
			if remove {
				err = t.RemovePolicyIndex(ctx, index)
			} else {
				size := 32
				if len(x.Data) == 2+48 {
					size = 48
				}
				err = t.WritePolicyIndex(ctx, index, policy.NoPolicy(size))
			}
			if errors.Is(err, provider.ErrOtherIndex) {
				return withHint(err, "name an index that policy approve --nv made; what is bound to a counter's value ends by `tpm2-p11 policy counter %s --advance`", args[0])
			}
			if err != nil {
				return err
			}
			return a.print(struct {
				Index string `json:"nv_index"`
			}{args[0]}, func(w io.Writer) { fmt.Fprintf(w, "NV index %s approves nothing any more\n", args[0]) })
		}),
	}
	c.Flags().BoolVar(&remove, "remove", false, "remove the index")
	return c
}

func policyCounterCommand(a *app) *cobra.Command {
	var advance bool
	c := &cobra.Command{
		Use:   "counter INDEX",
		Short: "Show or advance a counter that policies are bound to",
		Long: `counter shows the value of a counter in an NV index, and the line of a policy that is met until the counter passes it. Nobody can
set it back. --advance adds one, and makes the counter if there is none: a new one begins above all that the TPM ever had. That takes
the owner's authorisation.

The line holds the index's name, which a policy must give where it is signed or hashed without this TPM. It stays the same
for as long as the counter is there, and is that of any counter that this command makes at this index.`,
		Example: "  tpm2-p11 policy counter 0x01800010 --advance",
		Args:    exactly("INDEX"),
		RunE: a.verb(func(ctx context.Context, args []string) error {
			index, err := parseNVIndex("INDEX", args[0])
			if err != nil {
				return err
			}
			t, err := a.tpm()
			if err != nil {
				return err
			}
			value, name, err := counter(ctx, t, index, advance)
			if errors.Is(err, policy.ErrNoIndex) {
				return withHint(err, "--advance makes it")
			}
			if err != nil {
				return err
			}
			return a.print(struct {
				Index string `json:"nv_index"`
				Name  string `json:"name"`
				Value uint64 `json:"value"`
			}{args[0], hex.EncodeToString(name), value}, func(w io.Writer) {
				fmt.Fprintf(w, "%d\nnv = { index = \"0x%08x\", name = \"%x\", op = \"le\", value = %d }\n", value, uint32(index), name, value)
			})
		}),
	}
	c.Flags().BoolVar(&advance, "advance", false, "add one, and make the counter if there is none")
	return c
}

// counter is a counter's value and Name.
func counter(ctx context.Context, t *provider.TPM, index provider.Handle, advance bool) (value uint64, name []byte, err error) {
	if advance {
		if _, err := t.AdvanceCounter(ctx, index); err != nil {
			return 0, nil, err
		}
	}
	x, err := t.ReadPolicyIndex(ctx, index)
	switch {
	case err != nil:
		return 0, nil, err
	case len(x.Data) != 8:
		return 0, nil, fmt.Errorf("NV index 0x%08x is no counter: it has %d bytes", uint32(index), len(x.Data))
	}
	return binary.BigEndian.Uint64(x.Data), x.Name, nil
}

// parseNVIndex reads "0x01800001".
func parseNVIndex(flag, s string) (tpm2.TPMHandle, error) {
	index, err := policy.ParseNVIndex(s)
	if err != nil {
		return 0, usagef("%s %s: %w", flag, s, err)
	}
	return index, nil
}
