package provider

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// Properties are facts about the TPM.
type Properties struct {
	Manufacturer, Vendor, Firmware, Revision string
	Lockout
	PersistentAvailable          uint32 // how many more persistent objects fit, by the TPM's own guess
	OwnerAuthSet, LockoutAuthSet bool
}

// Lockout is how near a TPM is to the lockout that wrong authorisations lead to, and for how long (Part 1, section 19.8).
type Lockout struct {
	InLockout                        bool
	LockoutCounter, MaxAuthFail      uint32 // wrong ones that it counts, and how many lock it
	LockoutInterval, LockoutRecovery uint32 // seconds
}

// Bits of TPMA_PERMANENT (TPM 2.0 Part 2, section 8.6).
const (
	permanentOwnerAuthSet       = 1 << 0
	permanentEndorsementAuthSet = 1 << 1
	permanentLockoutAuthSet     = 1 << 2
	permanentInLockout          = 1 << 9
)

// Properties reads them.
func (t *TPM) Properties(ctx context.Context) (Properties, error) {
	have, err := t.groups(ctx, tpm2.TPMPTFamilyIndicator, tpm2.TPMPTPermanent)
	if err != nil {
		return Properties{}, err
	}
	permanent := have[tpm2.TPMPTPermanent]
	revision := have[tpm2.TPMPTRevision]
	fw1, fw2 := have[tpm2.TPMPTFirmwareVersion1], have[tpm2.TPMPTFirmwareVersion2]
	return Properties{
		Manufacturer:        text(have[tpm2.TPMPTManufacturer]),
		Vendor:              text(have[tpm2.TPMPTVendorString1], have[tpm2.TPMPTVendorString2], have[tpm2.TPMPTVendorString3], have[tpm2.TPMPTVendorString4]),
		Firmware:            fmt.Sprintf("%d.%d.%d.%d", fw1>>16, fw1&0xFFFF, fw2>>16, fw2&0xFFFF),
		Revision:            fmt.Sprintf("%d.%02d", revision/100, revision%100),
		Lockout:             lockout(have),
		PersistentAvailable: have[tpm2.TPMPTHRPersistentAvail],
		OwnerAuthSet:        permanent&permanentOwnerAuthSet != 0,
		LockoutAuthSet:      permanent&permanentLockoutAuthSet != 0,
	}, nil
}

// Lockout reads it, with one command.
func (t *TPM) Lockout(ctx context.Context) (Lockout, error) {
	have, err := t.groups(ctx, tpm2.TPMPTPermanent)
	return lockout(have), err
}

func lockout(have map[tpm2.TPMPT]uint32) Lockout {
	return Lockout{
		InLockout:       have[tpm2.TPMPTPermanent]&permanentInLockout != 0,
		LockoutCounter:  have[tpm2.TPMPTLockoutCounter],
		MaxAuthFail:     have[tpm2.TPMPTMaxAuthFail],
		LockoutInterval: have[tpm2.TPMPTLockoutInterval],
		LockoutRecovery: have[tpm2.TPMPTLockoutRecovery],
	}
}

// groups reads the groups of properties that begin with some.
func (t *TPM) groups(ctx context.Context, first ...tpm2.TPMPT) (map[tpm2.TPMPT]uint32, error) {
	have := make(map[tpm2.TPMPT]uint32)
	err := t.do(ctx, func(ctx context.Context, c *connection) error {
		for _, group := range first {
			if err := c.properties(ctx, group, have); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the TPM's properties: %w", err)
	}
	return have, nil
}

// properties reads the group of properties that begins with first (Part 2, section 6.13).
func (c *connection) properties(ctx context.Context, first tpm2.TPMPT, into map[tpm2.TPMPT]uint32) error {
	const groupSize = 0x100
	next, end := uint32(first), uint32(first)+groupSize
	for more := true; more && next < end; {
		before := next
		var err error
		more, err = c.capability(ctx, tpm2.TPMCapTPMProperties, next, end-next, func(r *reader) {
			for n := r.u32(); n > 0 && r.err == nil; n-- {
				p := r.u32()
				into[tpm2.TPMPT(p)] = r.u32()
				next = p + 1
			}
		})
		if err != nil {
			return err
		}
		if next <= before {
			break
		}
	}
	return nil
}

// text reads characters that a TPM keeps in numbers.
func text(words ...uint32) string {
	var b []byte
	for _, w := range words {
		b = binary.BigEndian.AppendUint32(b, w)
	}
	return strings.TrimSpace(strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return -1
		}
		return c
	}, string(b)))
}

// capability is TPM2_GetCapability (Part 3, section 30.2), once. read takes the capability's list.
func (c *connection) capability(ctx context.Context, kind tpm2.TPMCap, property, count uint32, read func(*reader)) (more bool, err error) {
	r, err := c.run(ctx, command{
		code:   tpm2.TPMCCGetCapability,
		params: put32(put32(put32(nil, uint32(kind)), property), count),
	})
	if err != nil {
		return false, err
	}
	more = r.u8() != 0
	if got := r.u32(); r.err == nil && got != uint32(kind) {
		r.fail("TPM2_GetCapability: capability %d, asked was %d", got, kind)
	}
	read(&r.reader)
	return more, r.end()
}

// Supports tells whether the TPM has a key type (TPM2_TestParms, Part 3, section 30.3).
func (t *TPM) Supports(ctx context.Context, k KeyType) (bool, error) {
	kind, parms, err := k.parameters()
	if err != nil {
		return false, err
	}
	err = t.do(ctx, func(ctx context.Context, c *connection) error {
		_, err := c.run(ctx, command{
			code:   tpm2.TPMCCTestParms,
			params: tpm2.Marshal(tpm2.TPMTPublicParms{Type: kind, Parameters: parms}),
		})
		return err
	})
	if isCode(err, tpm2.TPMRCValue) || errors.Is(err, ErrUnsupported) {
		return false, nil
	}
	return err == nil, err
}
