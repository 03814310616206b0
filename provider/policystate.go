package provider

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/policy"
)

// PolicyState is what the TPM says now, for package policy. Each function of it waits for its turn. It knows
// neither files nor approved policies.
func (t *TPM) PolicyState(ctx context.Context) policy.State {
	return policy.State{
		PCRs: func(bank tpm2.TPMIAlgHash, indices []uint) (map[uint][]byte, error) {
			return t.ReadPCRs(ctx, bank, indices)
		},
		Clock: func() (info policy.ClockInfo, err error) {
			err = t.do(ctx, func(ctx context.Context, c *connection) (err error) {
				info, err = c.readClock(ctx)
				return err
			})
			return info, err
		},
		NV: func(index Handle) (x policy.NVIndex, err error) {
			err = t.do(ctx, func(ctx context.Context, c *connection) (err error) {
				x, err = c.policyIndex(ctx, index)
				return err
			})
			return x, err
		},
		Authorised: func(hierarchy Handle) (at bool, err error) {
			err = t.do(ctx, func(ctx context.Context, c *connection) (err error) {
				at, err = c.authorised(ctx, hierarchy)
				return err
			})
			return at, err
		},
	}
}

// pcrValues are PCRs' values by bank.
type pcrValues map[tpm2.TPMIAlgHash]map[uint][]byte

// authorised tells whether a hierarchy has no auth value, or one was given: not whether it is the right one.
func (c *connection) authorised(ctx context.Context, hierarchy Handle) (bool, error) {
	if len(authValue(c.tpm.given(hierarchy))) > 0 {
		return true, nil
	}
	have := make(map[tpm2.TPMPT]uint32)
	if err := c.properties(ctx, tpm2.TPMPTPermanent, have); err != nil {
		return false, err
	}
	set := map[Handle]uint32{tpm2.TPMRHOwner: permanentOwnerAuthSet, tpm2.TPMRHEndorsement: permanentEndorsementAuthSet}[hierarchy]
	return have[tpm2.TPMPTPermanent]&set == 0, nil
}

// policyState is PolicyState within a use of an object, and notes in its plan what it is asked. What is asked twice is read once, and of
// PCRs all in a bank that the policy and the approved ones name, unless the plan has them already.
func (c *connection) policyState(ctx context.Context, u *policyUse) policy.State {
	indices := make(map[Handle]policy.NVIndex)
	return policy.State{
		Hash:     u.nameAlg,
		Command:  u.code,
		NoPIN:    u.auth.Value == nil,
		Approved: u.approved,
		Clock: func() (policy.ClockInfo, error) {
			u.plan.passing = true
			return c.readClock(ctx)
		},
		PCRs: func(bank tpm2.TPMIAlgHash, wanted []uint) (map[uint][]byte, error) {
			if values, known := u.plan.pcrs[bank]; known && (values == nil || hasAll(values, wanted)) {
				return values, nil
			}
			values, err := c.readPCRs(ctx, bank, u.selected(bank))
			if err == nil || errors.Is(err, policy.ErrBankInactive) {
				u.plan.pcrs[bank] = values
			}
			return values, err
		},
		NV: func(index Handle) (policy.NVIndex, error) {
			u.plan.passing = true
			if x, known := indices[index]; known {
				return x, nil
			}
			x, err := c.policyIndex(ctx, index)
			if err == nil {
				indices[index] = x
			}
			return x, err
		},
		Authorised: func(hierarchy Handle) (bool, error) {
			u.plan.passing = true
			return c.authorised(ctx, hierarchy)
		},
	}
}

func hasAll(values map[uint][]byte, wanted []uint) bool {
	return !slices.ContainsFunc(wanted, func(i uint) bool { return values[i] == nil })
}

// approved gives the approved policies that the TPM may take; a plan reads them once.
func (u *policyUse) approved() (all []policy.Approved, err error) {
	if u.plan.looked {
		return u.plan.approved, nil
	}
	if all, err = u.readApproved(); err != nil {
		return nil, err
	}
	u.plan.looked, u.plan.approved = true, all
	return all, nil
}

func (u *policyUse) readApproved() ([]policy.Approved, error) {
	if u.auth.Approved == nil {
		return nil, nil
	}
	all, err := u.auth.Approved()
	if err != nil || len(u.broken) == 0 {
		return all, err
	}
	return slices.DeleteFunc(slices.Clone(all), func(a policy.Approved) bool { return u.broken[string(a.Signature)] != nil }), nil
}

// selected are the PCRs of a bank that the policy or an approved one names.
func (u *policyUse) selected(bank tpm2.TPMIAlgHash) []uint {
	pcrs := u.auth.Policy.PCRs()
	if u.auth.Policy.NeedsApproval() {
		all, _ := u.approved() // whose error the plan tells
		for _, a := range all {
			pcrs = append(pcrs, a.Policy.PCRs()...)
		}
	}
	var indices []uint
	for _, pcr := range pcrs {
		if pcr.Bank == bank {
			indices = append(indices, pcr.Indices()...)
		}
	}
	slices.Sort(indices)
	return slices.Compact(indices)
}

// readClock is TPM2_ReadClock (Part 3, section 29.1).
func (c *connection) readClock(ctx context.Context) (policy.ClockInfo, error) {
	r, err := c.run(ctx, command{code: tpm2.TPMCCReadClock})
	if err != nil {
		return policy.ClockInfo{}, err
	}
	r.u64() // time since the TPM was started
	info := policy.ClockInfo{Clock: r.u64(), Resets: r.u32(), Restarts: r.u32()}
	r.u8() // safe
	return info, r.end()
}

// policyIndex reads an NV index and its Name. One that is not there, or was not written, is a policy.ErrNoIndex.
func (c *connection) policyIndex(ctx context.Context, index Handle) (policy.NVIndex, error) {
	x, err := c.nvReadPublic(ctx, index)
	if errors.Is(err, ErrNoObject) {
		return policy.NVIndex{}, policy.ErrNoIndex
	}
	if err != nil {
		return policy.NVIndex{}, err
	}
	var data []byte
	err = c.asReader(ctx, x, func(by entity, auth authorization) error {
		b, err := c.nvRead(ctx, by, auth, x, 0, min(int(x.area.DataSize), policy.MaxNVIndex))
		data = bytes.Clone(b)
		return err
	})
	if isCode(err, tpm2.TPMRCNVUninitialized) {
		err = policy.ErrNoIndex
	}
	return policy.NVIndex{Name: x.name, Data: data}, err
}

// asReader calls use with who may read an index: anybody, by its empty authValue, where a guess at one that is not empty would not count
// as a wrong PIN, or else the owner.
func (c *connection) asReader(ctx context.Context, x nvIndex, use func(by entity, auth authorization) error) error {
	switch attrs := x.area.Attributes; {
	case attrs.AuthRead && attrs.NoDA:
		return use(x.entity(), authorization{})
	case attrs.OwnerRead:
		return c.asHierarchy(ctx, tpm2.TPMRHOwner, c.tpm.ownerAuth, func(auth authorization) error {
			return use(permanent(tpm2.TPMRHOwner), auth)
		})
	case attrs.AuthRead:
		return fmt.Errorf("%w: %v is read by its own authorisation, and a wrong one would count as a wrong PIN: define it with no_da", ErrWrongUse, x)
	}
	return fmt.Errorf("%w: %v can be read by neither its own authorisation nor the owner's", ErrWrongUse, x)
}
