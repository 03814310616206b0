package provider

import (
	"bytes"
	"context"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// keptKey is a wrapped key that stays loaded for its next use, as long as the connection is kept.
type keptKey struct {
	handle  Handle
	parent  Handle
	private []byte // which a changed authValue changes, other than the Name
	name    Name
}

// most is how many wrapped keys stay loaded. A TPM has three places, one of which a persistent key needs while it is used; behind a
// resource manager each makes every command dearer.
func (l *link) most() int {
	if l.dialer.Managed() {
		return 1
	}
	return 2
}

func (k keptKey) is(o Object) bool {
	return k.parent == o.Parent && bytes.Equal(k.name, o.Public.name) && bytes.Equal(k.private, o.Private)
}

// withWrapped calls use with a wrapped key, loaded if it is not kept from the use before.
func (c *connection) withWrapped(ctx context.Context, o Object, use func(entity) error) error {
	i := slices.IndexFunc(c.kept, func(k keptKey) bool { return k.is(o) })
	if i >= 0 {
		k := c.kept[i]
		c.kept = slices.Delete(c.kept, i, i+1)
		return c.useKept(ctx, k, use)
	}
	c.makeRoom(ctx, c.tpm.most()-1)
	return c.withParent(ctx, o.Parent, func(parent entity) error {
		h, err := c.load(ctx, parent, o)
		if err != nil {
			return err
		}
		return c.useKept(ctx, keptKey{h, o.Parent, o.Private, o.Public.name}, use)
	})
}

// useKept calls use with a loaded key and keeps it.
func (c *connection) useKept(ctx context.Context, k keptKey, use func(entity) error) error {
	err := use(entity{k.handle, k.name})
	c.kept = append(c.kept, k)
	return err
}

// unkeep forgets the kept key that had a handle which something else has now: the TPM was reset, and nothing showed it yet.
func (c *connection) unkeep(h Handle) {
	c.kept = slices.DeleteFunc(c.kept, func(k keptKey) bool { return k.handle == h })
}

// makeRoom unloads the keys that were used longest ago until no more than n are left.
func (c *connection) makeRoom(ctx context.Context, n int) {
	for len(c.kept) > n {
		k := c.kept[0]
		c.kept = slices.Delete(c.kept, 0, 1)
		c.flush(ctx, k.handle)
	}
}

// run sends a command and checks the response. Where the TPM has no place for an object, keys that are kept make room.
func (c *connection) run(ctx context.Context, cmd command) (*response, error) {
	if len(c.kept) == 0 {
		return c.send(ctx, cmd)
	}
	params := bytes.Clone(cmd.params) // which may be encrypted in place
	defer clear(params)
	for {
		r, err := c.send(ctx, cmd)
		full := isCode(err, tpm2.TPMRCObjectMemory) || isCode(err, tpm2.TPMRCObjectHandles) || isCode(err, tpm2.TPMRCMemory)
		if !full || len(c.kept) == 0 {
			return r, err
		}
		c.makeRoom(ctx, len(c.kept)-1)
		copy(cmd.params, params)
	}
}
