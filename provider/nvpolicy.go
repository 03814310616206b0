package provider

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/policy"
)

// NV indices that policies look at are readable by everybody and written by the owner alone.
var policyIndexAttributes = tpm2.TPMANV{OwnerWrite: true, OwnerRead: true, AuthRead: true, NoDA: true}

// WritePolicyIndex has an NV index (0x01…) hold a policy's digest, of SHA-256 or SHA-384: objects whose policy is
// policy.AuthorizeNV of the index can be used by that policy from then on, and by no other. It makes the index if there is
// none. policy.NoPolicy is the digest that approves nothing; zeros, which approve everybody, are refused. It takes the owner's
// authorisation.
func (t *TPM) WritePolicyIndex(ctx context.Context, index Handle, digest []byte) error {
	hash, ok := map[int]tpm2.TPMIAlgHash{32: tpm2.TPMAlgSHA256, 48: tpm2.TPMAlgSHA384}[len(digest)]
	if !ok {
		return fmt.Errorf("%w: a policy digest has 32 or 48 bytes, not %d", ErrUnsupported, len(digest))
	}
	if bytes.Count(digest, []byte{0}) == len(digest) {
		return fmt.Errorf("%w: a digest of zeros is that of every session as it begins, and approves everybody", ErrUnsupported)
	}
	content := append(put16(nil, uint16(hash)), digest...)
	return t.withPolicyIndex(ctx, "write", index, policyIndexAttributes, uint16(len(content)), func(c *connection, x nvIndex, owner authorization) error {
		return c.nvWrite(ctx, permanent(tpm2.TPMRHOwner), owner, x, 0, content)
	})
}

// AdvanceCounter adds one to a counter in an NV index (0x01…) and gives its value. It makes the counter if there is none: a new
// one begins above all that the TPM ever had. What is there and is no such counter is ErrOtherIndex. It takes the owner's
// authorisation.
func (t *TPM) AdvanceCounter(ctx context.Context, index Handle) (value uint64, err error) {
	attributes := policyIndexAttributes
	attributes.NT = tpm2.TPMNTCounter
	const size = 8
	err = t.withPolicyIndex(ctx, "advance", index, attributes, size, func(c *connection, x nvIndex, owner authorization) error {
		if _, err := c.run(ctx, command{ // TPM2_NV_Increment (Part 3, section 31.8)
			code:  tpm2.TPMCCNVIncrement,
			in:    []entity{permanent(tpm2.TPMRHOwner), x.entity()},
			auths: []authorization{owner},
			whole: true,
		}); err != nil {
			return err
		}
		b, err := c.nvRead(ctx, x.written().entity(), authorization{}, x.written(), 0, size)
		if err == nil {
			r := reader{b: b}
			value = r.u64()
		}
		return err
	})
	return value, err
}

// RemovePolicyIndex undefines an NV index that policies look at: no object with that index in its policy can be used until it is
// made again. A counter begins above all values then, so that what it ended stays ended. It takes the owner's authorisation.
func (t *TPM) RemovePolicyIndex(ctx context.Context, index Handle) error {
	err := t.doOnce(ctx, func(ctx context.Context, c *connection) error {
		x, err := c.nvReadPublic(ctx, index)
		if err != nil {
			return err
		}
		return c.asHierarchy(ctx, tpm2.TPMRHOwner, c.tpm.ownerAuth, func(owner authorization) error {
			return c.nvUndefine(ctx, owner, x)
		})
	})
	if err != nil {
		return fmt.Errorf("remove NV index 0x%08X: %w", uint32(index), err)
	}
	return nil
}

// withPolicyIndex calls work with an NV index that is as it should be, made for it if there is none, and the owner's
// authorisation.
func (t *TPM) withPolicyIndex(ctx context.Context, what string, index Handle, attributes tpm2.TPMANV, size uint16,
	work func(*connection, nvIndex, authorization) error) error {
	want, err := newNVIndex(tpm2.TPMSNVPublic{NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, Attributes: attributes, DataSize: size})
	if err != nil {
		return err
	}
	err = t.doOnce(ctx, func(ctx context.Context, c *connection) error {
		return c.asHierarchy(ctx, tpm2.TPMRHOwner, c.tpm.ownerAuth, func(owner authorization) error {
			x, err := c.nvReadPublic(ctx, index)
			switch {
			case errors.Is(err, ErrNoObject):
				if err := c.nvDefine(ctx, owner, nil, want); err != nil {
					return err
				}
				x = want
			case err != nil:
				return err
			case string(x.written().name) != string(want.written().name):
				return fmt.Errorf("%w: %s", ErrOtherIndex, x.notOf(want.kind()))
			}
			return work(c, x, owner)
		})
	})
	if err != nil {
		return fmt.Errorf("%s NV index 0x%08X: %w", what, uint32(index), err)
	}
	return nil
}

// kind says what an index that policies look at is for.
func (x nvIndex) kind() string {
	attributes, size := x.area.Attributes, x.area.DataSize
	attributes.Written = false
	switch {
	case attributes.NT == tpm2.TPMNTCounter:
		return "a counter"
	case attributes == policyIndexAttributes && (size == 2+32 || size == 2+48):
		return "an index of approvals"
	}
	return "an index for something else"
}

// notOf says why an index is not the one of a kind that is wanted.
func (x nvIndex) notOf(kind string) string {
	if is := x.kind(); is != kind {
		return fmt.Sprintf("it is %s, not %s", is, kind)
	}
	return fmt.Sprintf("it is %s, but of another size or with other attributes", kind)
}

// ReadPolicyIndex reads an NV index that policies look at; policy.ErrNoIndex when it is not there or not written yet.
func (t *TPM) ReadPolicyIndex(ctx context.Context, index Handle) (policy.NVIndex, error) {
	x, err := t.PolicyState(ctx).NV(index)
	if err != nil {
		return x, fmt.Errorf("read NV index 0x%08X: %w", uint32(index), err)
	}
	return x, nil
}
