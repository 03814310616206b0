package provider

import (
	"bytes"
	"context"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// Object is something the TPM can use: persistent at Handle, or wrapped (Private) under a parent.
// With both set the persistent handle is used.
type Object struct {
	Public  Public
	Handle  Handle // persistent handle, 0 for none
	Parent  Handle // of a wrapped object; TPM_RH_OWNER (0x40000001) or 0 stand for the SRK
	Private []byte // contents of TPM2B_PRIVATE, without its size
}

// OtherObjectError is an ErrOtherObject: an object at a persistent handle is not the one that was meant.
type OtherObjectError struct {
	Handle     Handle
	Want, Have Name
}

func (e *OtherObjectError) Error() string {
	return fmt.Sprintf("%v: 0x%08X has the Name %v, wanted was %v", ErrOtherObject, uint32(e.Handle), e.Have, e.Want)
}

// Unwrap gives ErrOtherObject.
func (e *OtherObjectError) Unwrap() error { return ErrOtherObject }

// Load checks that the TPM accepts a wrapped object, and flushes it again.
func (t *TPM) Load(ctx context.Context, o Object) error {
	o.Handle = 0
	return t.do(ctx, func(ctx context.Context, c *connection) error {
		return c.withObject(ctx, o, func(entity) error { return nil })
	})
}

// withObject calls use with an object that is ready for use, and leaves nothing loaded.
func (c *connection) withObject(ctx context.Context, o Object, use func(entity) error) error {
	if o.Public.IsZero() {
		return fmt.Errorf("%w: an object without public area", ErrNoObject)
	}
	if o.Handle != 0 {
		if err := c.checkName(ctx, o.Handle, o.Public.name); err != nil {
			return err
		}
		return use(entity{o.Handle, o.Public.name})
	}
	if len(o.Private) == 0 {
		return fmt.Errorf("%w: an object with neither handle nor private area", ErrNoObject)
	}
	return c.withParent(ctx, o.Parent, func(parent entity) error {
		h, err := c.load(ctx, parent, o)
		if err != nil {
			return err
		}
		defer c.flush(ctx, h)
		return use(entity{h, o.Public.name})
	})
}

// checkName makes sure, once for each handle, that a persistent object is the one that is meant.
func (c *connection) checkName(ctx context.Context, h Handle, want Name) error {
	have, ok := c.tpm.names[h]
	if !ok || !bytes.Equal(have, want) {
		p, err := c.readPublic(ctx, h)
		if err != nil {
			return err
		}
		have = p.name
		c.tpm.names[h] = have
	}
	if !bytes.Equal(have, want) {
		return &OtherObjectError{Handle: h, Want: want, Have: have}
	}
	return nil
}

// withParent calls use with a storage key: the SRK or a persistent one.
func (c *connection) withParent(ctx context.Context, parent Handle, use func(entity) error) error {
	switch {
	case parent == 0 || parent == tpm2.TPMRHOwner:
		return c.withSRK(ctx, func(srk *loadedSRK) error { return use(srk.entity()) })
	case c.pinned != nil && parent == c.pinned.Handle:
		return c.withSRK(ctx, func(srk *loadedSRK) error { return use(srk.entity()) })
	case !isPersistent(parent):
		return fmt.Errorf("%w: parent 0x%08X: keys load under the owner hierarchy's SRK or a persistent key", ErrUnsupported, uint32(parent))
	}
	p, err := c.readPublic(ctx, parent)
	if err != nil {
		return fmt.Errorf("parent: %w", err)
	}
	if !p.IsStorageKey() {
		return fmt.Errorf("%w: parent 0x%08X is no storage key (%s)", ErrWrongUse, uint32(parent), p.Describe())
	}
	return use(entity{parent, p.name})
}

// load is TPM2_Load (Part 3, section 12.2). The private area is encrypted to the parent: nothing secret travels.
func (c *connection) load(ctx context.Context, parent entity, o Object) (Handle, error) {
	r, err := c.run(ctx, command{
		code:   tpm2.TPMCCLoad,
		in:     []entity{parent},
		auths:  []authorization{{}},
		params: put2B(put2B(nil, o.Private), o.Public.bytes),
		loads:  true,
	})
	if err != nil {
		return 0, err
	}
	name := r.sized()
	if err := r.end(); err != nil || !bytes.Equal(name, o.Public.name) {
		c.flush(ctx, r.handle)
		return 0, fmt.Errorf("%w: TPM2_Load: Name %x", ErrIntegrity, name)
	}
	return r.handle, nil
}
