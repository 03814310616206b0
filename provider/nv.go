package provider

import (
	"bytes"
	"context"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// NV indices begin here (TPM 2.0 Part 2, section 7.2).
const firstNVIndex Handle = 0x01000000

// nvIndex is an NV index with the Name that follows from its public area as it is now.
type nvIndex struct {
	area tpm2.TPMSNVPublic
	name Name
}

func newNVIndex(area tpm2.TPMSNVPublic) (nvIndex, error) {
	hash, err := area.NameAlg.Hash()
	if err != nil {
		return nvIndex{}, fmt.Errorf("NV index: %w: name algorithm: %w", ErrUnsupported, err)
	}
	h := hash.New()
	h.Write(tpm2.Marshal(area))
	return nvIndex{area, h.Sum(put16(nil, uint16(area.NameAlg)))}, nil
}

// written is the index after its first write, which changes its Name.
func (x nvIndex) written() nvIndex {
	area := x.area
	area.Attributes.Written = true
	w, err := newNVIndex(area)
	if err != nil {
		panic(err) // the algorithm is the one that x has
	}
	return w
}

func (x nvIndex) entity() entity { return entity{x.area.NVIndex, x.name} }

func (x nvIndex) String() string { return fmt.Sprintf("NV index 0x%08X", uint32(x.area.NVIndex)) }

// nvDefine is TPM2_NV_DefineSpace (Part 3, section 31.3) by the owner. The session encrypts the index's authValue,
// if it has one.
func (c *connection) nvDefine(ctx context.Context, owner authorization, value []byte, x nvIndex) error {
	owner.decrypt = len(value) > 0
	_, err := c.run(ctx, command{
		code:   tpm2.TPMCCNVDefineSpace,
		in:     []entity{permanent(tpm2.TPMRHOwner)},
		auths:  []authorization{owner},
		params: put2B(put2B(nil, value), tpm2.Marshal(x.area)),
		whole:  true,
	})
	if isCode(err, tpm2.TPMRCNVDefined) {
		return err
	}
	return hierarchyError(tpm2.TPMRHOwner, err)
}

// nvUndefine is TPM2_NV_UndefineSpace (Part 3, section 31.4).
func (c *connection) nvUndefine(ctx context.Context, owner authorization, x nvIndex) error {
	_, err := c.run(ctx, command{
		code:  tpm2.TPMCCNVUndefineSpace,
		in:    []entity{permanent(tpm2.TPMRHOwner), x.entity()},
		auths: []authorization{owner},
		whole: true,
	})
	return err
}

// nvWrite is TPM2_NV_Write (Part 3, section 31.7), authorised by the index itself or the owner.
func (c *connection) nvWrite(ctx context.Context, by entity, auth authorization, x nvIndex, offset int, data []byte) error {
	_, err := c.run(ctx, command{
		code:   tpm2.TPMCCNVWrite,
		in:     []entity{by, x.entity()},
		auths:  []authorization{auth},
		params: put16(put2B(nil, data), uint16(offset)),
		whole:  true,
	})
	return err
}

// nvRead is TPM2_NV_Read (Part 3, section 31.13), authorised by the index itself or the owner. The answer is valid
// until the next command.
func (c *connection) nvRead(ctx context.Context, by entity, auth authorization, x nvIndex, offset, size int) ([]byte, error) {
	r, err := c.run(ctx, command{
		code:   tpm2.TPMCCNVRead,
		in:     []entity{by, x.entity()},
		auths:  []authorization{auth},
		params: put16(put16(nil, uint16(size)), uint16(offset)),
		whole:  true,
	})
	if err != nil {
		return nil, err
	}
	b := r.sized()
	if r.err == nil && len(b) != size {
		r.fail("TPM2_NV_Read: %d bytes for %d", len(b), size)
	}
	return b, r.end()
}

// nvReadPublic is TPM2_NV_ReadPublic (Part 3, section 31.6); it checks the TPM's Name against the public area.
func (c *connection) nvReadPublic(ctx context.Context, h Handle) (nvIndex, error) {
	r, err := c.run(ctx, command{code: tpm2.TPMCCNVReadPublic, in: []entity{{handle: h}}, whole: true})
	if err != nil {
		return nvIndex{}, fmt.Errorf("NV index 0x%08X: %w", uint32(h), err)
	}
	b, name := r.sized(), r.sized()
	if err := r.end(); err != nil {
		return nvIndex{}, fmt.Errorf("NV index 0x%08X: TPM2_NV_ReadPublic: %w", uint32(h), err)
	}
	area, err := Unmarshal[tpm2.TPMSNVPublic](b)
	if err != nil {
		return nvIndex{}, fmt.Errorf("NV index 0x%08X: %w", uint32(h), err)
	}
	x, err := newNVIndex(*area)
	if err != nil {
		return nvIndex{}, err
	}
	if area.NVIndex != h || !bytes.Equal(x.name, name) {
		return nvIndex{}, fmt.Errorf("%w: NV index 0x%08X: the TPM says its Name is %x, its public area gives %v", ErrIntegrity, uint32(h), name, x.name)
	}
	return x, nil
}

// nvLimits are sizes in bytes.
type nvLimits struct {
	index int // of the largest NV index
	chunk int // of the most that one command reads or writes
}

func (c *connection) nvLimits(ctx context.Context) (nvLimits, error) {
	have := make(map[tpm2.TPMPT]uint32)
	if err := c.properties(ctx, tpm2.TPMPTFamilyIndicator, have); err != nil {
		return nvLimits{}, err
	}
	const leastChunk, mostChunk = 64, 2048
	return nvLimits{
		index: int(have[tpm2.TPMPTNVIndexMax]),
		chunk: int(min(max(have[tpm2.TPMPTNVBufferMax], leastChunk), mostChunk)),
	}, nil
}
