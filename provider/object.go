package provider

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// Object is something the TPM can use: persistent at Handle, or wrapped (Private) under a parent.
// With both set the persistent handle is used, and the wrapped form once nothing is at the handle any more.
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

// Check tells whether the TPM has an object, or accepts its wrapped form, without using it. Nothing stays loaded.
func (t *TPM) Check(ctx context.Context, o Object) error {
	return t.do(ctx, func(ctx context.Context, c *connection) error {
		delete(c.names, o.Handle) // somebody may have evicted it since
		return c.withObject(ctx, o, func(entity) error { return nil })
	})
}

// Load checks that the TPM accepts a wrapped object, and flushes it again.
func (t *TPM) Load(ctx context.Context, o Object) error {
	o.Handle = 0
	return t.Check(ctx, o)
}

// withObject calls use with an object that is ready for use, and leaves nothing loaded.
func (c *connection) withObject(ctx context.Context, o Object, use func(entity) error) error {
	return c.withKept(ctx, o, false, use)
}

// withKept is withObject; a wrapped object may stay loaded.
func (c *connection) withKept(ctx context.Context, o Object, keep bool, use func(entity) error) error {
	if o.Public.IsZero() {
		return fmt.Errorf("%w: an object without public area", ErrNoObject)
	}
	if o.Handle != 0 {
		err := c.withPersistent(ctx, o, use)
		if _, there := c.names[o.Handle]; there || len(o.Private) == 0 || !errors.Is(err, ErrNoObject) {
			return err
		}
		c.tpm.warnEvicted(o.Handle)
	}
	if len(o.Private) == 0 {
		return fmt.Errorf("%w: an object with neither handle nor private area", ErrNoObject)
	}
	if keep {
		return c.withWrapped(ctx, o, use)
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

// withPersistent calls use with a persistent object. Its Name is known afterwards unless nothing is at its handle.
func (c *connection) withPersistent(ctx context.Context, o Object, use func(entity) error) error {
	if err := c.checkName(ctx, o.Handle, o.Public.name); err != nil {
		return err
	}
	err := use(entity{o.Handle, o.Public.name})
	if errors.Is(err, ErrNoObject) {
		// Somebody may have evicted it since its Name was read.
		delete(c.names, o.Handle)
		if err := c.checkName(ctx, o.Handle, o.Public.name); err != nil {
			return err
		}
	}
	return err
}

// warnEvicted logs, once, that a wrapped object takes the place of a persistent one, which costs more commands.
func (l *link) warnEvicted(h Handle) {
	if l.evicted[h] {
		return
	}
	if l.evicted == nil {
		l.evicted = make(map[Handle]bool)
	}
	l.evicted[h] = true
	l.log.Warn("nothing is at a key's persistent handle: its wrapped form is loaded instead; `tpm2-p11 doctor` says more",
		"tpm", l.String(), "handle", fmt.Sprintf("0x%08X", uint32(h)))
}

// proofAge is how long a persistent object that is in use is taken for the one that it was: another process may evict it meanwhile, and
// make another at its handle.
const proofAge = time.Second

// proofDue tells whether a signature is to show again that a key, if it is persistent, is the one that is meant.
func (c *connection) proofDue(h Handle) bool {
	shown, persistent := c.names[h]
	return persistent && time.Since(shown.at) >= proofAge
}

// checkName makes sure, once for each handle and connection, that a persistent object is the one that is meant.
func (c *connection) checkName(ctx context.Context, h Handle, want Name) error {
	have := c.names[h].name
	if !bytes.Equal(have, want) {
		p, err := c.readPublic(ctx, h)
		if err != nil {
			return err
		}
		have = p.name
		c.names[h] = shownName{have, time.Now()}
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
		return c.withSRK(ctx, func(srk *loadedKey) error { return use(srk.entity()) })
	case c.pinned != nil && parent == c.pinned.Handle:
		return c.withSRK(ctx, func(srk *loadedKey) error { return use(srk.entity()) })
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
