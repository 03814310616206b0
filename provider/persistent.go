package provider

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// The range of persistent handles that belongs to the owner hierarchy (TPM 2.0 Part 2, section 7.5).
const (
	firstPersistent Handle = 0x81000000
	lastPersistent  Handle = 0x81FFFFFF
	lastOwners      Handle = 0x817FFFFF
)

func isPersistent(h Handle) bool { return h >= firstPersistent && h <= lastPersistent }

// Persist makes a wrapped object persistent at h: ErrHandleTaken when another object is there, nothing to do when it is there already.
func (t *TPM) Persist(ctx context.Context, o Object, h Handle) error {
	o.Handle = 0
	if h < firstPersistent || h > lastOwners {
		return fmt.Errorf("persist at 0x%08X: %w: the owner's handles are 0x%08X to 0x%08X",
			uint32(h), ErrUnsupported, uint32(firstPersistent), uint32(lastOwners))
	}
	err := t.do(ctx, func(ctx context.Context, c *connection) error {
		there, err := c.readPublic(ctx, h)
		switch {
		case err == nil && bytes.Equal(there.name, o.Public.name):
			return nil
		case err == nil:
			return fmt.Errorf("%w by an object with the Name %v (%s)", ErrHandleTaken, there.name, there.Describe())
		case errors.Is(err, ErrUnsupported):
			return fmt.Errorf("%w by an object of another kind", ErrHandleTaken)
		case !errors.Is(err, ErrNoObject):
			return err
		}
		return c.withObject(ctx, o, func(object entity) error { return c.evictControl(ctx, object, h) })
	})
	if err != nil {
		return fmt.Errorf("persist at 0x%08X: %w", uint32(h), err)
	}
	return nil
}

// Evict removes the persistent object at h if its Name is want; ErrNoObject when none is there, an *OtherObjectError
// (ErrOtherObject) when another one is.
func (t *TPM) Evict(ctx context.Context, h Handle, want Name) error {
	sent := false
	err := t.do(ctx, func(ctx context.Context, c *connection) error {
		there, err := c.readPublic(ctx, h)
		switch {
		case errors.Is(err, ErrNoObject) && sent: // the answer was lost, not the command
			return nil
		case err != nil:
			return err
		case !bytes.Equal(there.name, want):
			return &OtherObjectError{Handle: h, Want: want, Have: there.name}
		}
		sent = true
		return c.evictControl(ctx, entity{h, there.name}, h)
	})
	if err != nil {
		return fmt.Errorf("evict 0x%08X: %w", uint32(h), err)
	}
	return nil
}

// evictControl is TPM2_EvictControl (Part 3, section 28.5): it persists a transient object at h, or removes a persistent one.
func (c *connection) evictControl(ctx context.Context, object entity, h Handle) error {
	delete(c.names, h)
	return c.asHierarchy(ctx, tpm2.TPMRHOwner, c.tpm.ownerAuth, func(auth authorization) error {
		_, err := c.run(ctx, command{
			code:   tpm2.TPMCCEvictControl,
			in:     []entity{permanent(tpm2.TPMRHOwner), object},
			auths:  []authorization{auth},
			params: put32(nil, uint32(h)),
		})
		return err
	})
}

// PersistentHandles lists the persistent handles, ascending.
func (t *TPM) PersistentHandles(ctx context.Context) (handles []Handle, err error) {
	err = t.do(ctx, func(ctx context.Context, c *connection) (err error) {
		handles, err = c.persistentHandles(ctx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the persistent handles: %w", err)
	}
	return handles, nil
}

// FreeHandle is the first persistent handle at or above from that is not taken.
func (t *TPM) FreeHandle(ctx context.Context, from Handle) (Handle, error) {
	if from < firstPersistent || from > lastOwners {
		return 0, fmt.Errorf("%w: the owner's handles are 0x%08X to 0x%08X, not 0x%08X",
			ErrUnsupported, uint32(firstPersistent), uint32(lastOwners), uint32(from))
	}
	taken, err := t.PersistentHandles(ctx)
	if err != nil {
		return 0, err
	}
	h := firstFree(taken, from)
	if h > lastOwners {
		return 0, fmt.Errorf("%w: all from 0x%08X", ErrHandleTaken, uint32(from))
	}
	return h, nil
}

// firstFree is the first handle at or above from that is not among the ascending handles that are taken.
func firstFree(taken []Handle, from Handle) Handle {
	for _, h := range taken {
		if h == from {
			from++
		}
	}
	return from
}

func (c *connection) persistentHandles(ctx context.Context) ([]Handle, error) {
	return c.handles(ctx, firstPersistent)
}

// handles lists the TPM's handles from first up that are of first's type (Part 2, section 7.2), ascending.
func (c *connection) handles(ctx context.Context, first Handle) ([]Handle, error) {
	const page = 64
	var handles []Handle
	next := first
	for more := true; more; {
		before := len(handles)
		var err error
		more, err = c.capability(ctx, tpm2.TPMCapHandles, uint32(next), page, func(r *reader) {
			for n := r.u32(); n > 0 && r.err == nil; n-- {
				h := Handle(r.u32())
				if r.err == nil && h < next {
					r.fail("TPM2_GetCapability: handle 0x%08X after 0x%08X", uint32(h), uint32(next)-1)
				}
				if h>>24 == first>>24 {
					handles = append(handles, h)
				}
				next = h + 1
			}
		})
		if err != nil {
			return nil, err
		}
		if len(handles) == before {
			break
		}
	}
	return slices.Clip(handles), nil
}

// ReadPublic reads a persistent object's public area and checks the TPM's Name against it. ErrNoObject when there is none,
// ErrUnsupported for a kind of object that is not read here.
func (t *TPM) ReadPublic(ctx context.Context, h Handle) (p Public, err error) {
	err = t.do(ctx, func(ctx context.Context, c *connection) (err error) {
		p, err = c.readPublic(ctx, h)
		return err
	})
	return p, err
}

// readPublic is TPM2_ReadPublic (Part 3, section 12.4).
func (c *connection) readPublic(ctx context.Context, h Handle) (Public, error) {
	r, err := c.run(ctx, command{code: tpm2.TPMCCReadPublic, in: []entity{{handle: h}}})
	if err != nil {
		return Public{}, fmt.Errorf("0x%08X: %w", uint32(h), err)
	}
	area, name := r.sized(), r.sized()
	r.sized() // qualified name
	if err := r.end(); err != nil {
		return Public{}, fmt.Errorf("0x%08X: TPM2_ReadPublic: %w", uint32(h), err)
	}
	computed, err := nameOf(area)
	if err != nil {
		return Public{}, fmt.Errorf("0x%08X: %w", uint32(h), err)
	}
	if !bytes.Equal(computed, name) {
		return Public{}, fmt.Errorf("%w: 0x%08X: the TPM says its Name is %x, its public area gives %v", ErrIntegrity, uint32(h), name, computed)
	}
	p, err := ParsePublic(area)
	if err != nil { // it arrived whole, as the Name shows
		return Public{}, fmt.Errorf("0x%08X: %w: an object of another kind: %v", uint32(h), ErrUnsupported, err)
	}
	return p, nil
}
