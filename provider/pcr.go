package provider

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/policy"
)

const (
	pcrCount      = 24 // of the PC Client platform
	pcrSelectSize = pcrCount / 8
	maxPCRReads   = 16 // times that a moving update counter is borne
)

// Bank is a PCR bank with the PCRs that are allocated in it.
type Bank struct {
	Hash tpm2.TPMIAlgHash
	PCRs []uint
}

// Banks lists the active PCR banks.
func (t *TPM) Banks(ctx context.Context) (banks []Bank, err error) {
	err = t.do(ctx, func(ctx context.Context, c *connection) (err error) {
		banks, err = c.banks(ctx)
		return err
	})
	return banks, err
}

// ReadPCRs reads PCRs of a bank, in as many commands as needed, from one update counter.
func (t *TPM) ReadPCRs(ctx context.Context, bank tpm2.TPMIAlgHash, indices []uint) (values map[uint][]byte, err error) {
	err = t.do(ctx, func(ctx context.Context, c *connection) (err error) {
		values, err = c.readPCRs(ctx, bank, indices)
		return err
	})
	return values, err
}

func (c *connection) banks(ctx context.Context) ([]Bank, error) {
	var banks []Bank
	_, err := c.capability(ctx, tpm2.TPMCapPCRs, 0, 1, func(r *reader) {
		for _, s := range readSelections(r) {
			if len(s.PCRs) > 0 {
				banks = append(banks, s)
			}
		}
	})
	return banks, err
}

func (c *connection) readPCRs(ctx context.Context, bank tpm2.TPMIAlgHash, indices []uint) (map[uint][]byte, error) {
	for _, i := range indices {
		if i >= pcrCount {
			return nil, fmt.Errorf("%w: PCR %d: there are 0 to %d", ErrUnsupported, i, pcrCount-1)
		}
	}
	for range maxPCRReads {
		values, err := c.readPCRsOnce(ctx, bank, indices)
		if err != errPCRMoved {
			return values, err
		}
	}
	return nil, fmt.Errorf("read PCRs: %w: %w: PCRs do not come to rest", ErrBusy, errPCRMoved)
}

// readPCRsOnce reads PCRs, or fails with errPCRMoved if one was extended between two commands.
func (c *connection) readPCRsOnce(ctx context.Context, bank tpm2.TPMIAlgHash, indices []uint) (map[uint][]byte, error) {
	values := make(map[uint][]byte, len(indices))
	missing := slices.Clone(indices)
	var counter uint32
	for len(missing) > 0 {
		now, err := c.pcrRead(ctx, bank, missing, values)
		if err != nil {
			return nil, err
		}
		left := slices.DeleteFunc(slices.Clone(missing), func(i uint) bool { return values[i] != nil })
		switch {
		case len(left) == len(missing):
			return nil, c.inactive(ctx, bank, missing)
		case len(missing) < len(indices) && now != counter:
			return nil, errPCRMoved
		}
		counter, missing = now, left
	}
	return values, nil
}

// pcrRead is TPM2_PCR_Read (Part 3, section 22.4). It puts as many values as the TPM gave into values.
func (c *connection) pcrRead(ctx context.Context, bank tpm2.TPMIAlgHash, indices []uint, values map[uint][]byte) (counter uint32, err error) {
	r, err := c.run(ctx, command{code: tpm2.TPMCCPCRRead, params: putSelection(put32(nil, 1), bank, indices)})
	if isCode(err, tpm2.TPMRCHash) || isCode(err, tpm2.TPMRCValue) { // a bank the TPM never heard of
		return 0, c.inactive(ctx, bank, indices)
	}
	if err != nil {
		return 0, err
	}
	hash, err := bank.Hash()
	if err != nil {
		return 0, fmt.Errorf("%w: PCR bank: %w", ErrUnsupported, err)
	}
	counter = r.u32()
	var given []uint
	for _, s := range readSelections(&r.reader) {
		if s.Hash == bank {
			given = append(given, s.PCRs...)
		}
	}
	n := r.u32()
	if int64(n) != int64(len(given)) {
		r.fail("TPM2_PCR_Read: %d values for %d PCRs", n, len(given))
	}
	for _, i := range given {
		v := r.sized()
		if r.err == nil && (len(v) != hash.Size() || !slices.Contains(indices, i)) {
			r.fail("TPM2_PCR_Read: PCR %d with %d bytes", i, len(v))
		}
		values[i] = bytes.Clone(v)
	}
	return counter, r.end()
}

// inactive says that PCRs are not there, and which banks are.
func (c *connection) inactive(ctx context.Context, bank tpm2.TPMIAlgHash, indices []uint) error {
	banks, err := c.banks(ctx)
	if err != nil {
		return err
	}
	var names []string
	for _, b := range banks {
		names = append(names, policy.BankName(b.Hash))
		if b.Hash == bank {
			return fmt.Errorf("%w: the %s bank has no PCR among %d", ErrUnsupported, policy.BankName(bank), indices)
		}
	}
	return inactiveBank{policy.BankName(bank), strings.Join(names, ", ")}
}

// inactiveBank is an ErrUnsupported.
type inactiveBank struct{ bank, active string }

func (e inactiveBank) Error() string {
	return fmt.Sprintf("%v: the PCR bank %s is not active: active are %s", ErrUnsupported, e.bank, e.active)
}

func (e inactiveBank) Unwrap() []error { return []error{ErrUnsupported, policy.ErrBankInactive} }

// putSelection appends a TPMS_PCR_SELECTION.
func putSelection(b []byte, bank tpm2.TPMIAlgHash, indices []uint) []byte {
	var bits [pcrSelectSize]byte
	for _, i := range indices {
		bits[i/8] |= 1 << (i % 8)
	}
	b = put16(b, uint16(bank))
	b = append(b, pcrSelectSize)
	return append(b, bits[:]...)
}

// readSelections reads a TPML_PCR_SELECTION, PCRs ascending.
func readSelections(r *reader) []Bank {
	var banks []Bank
	for n := r.u32(); n > 0 && r.err == nil; n-- {
		b := Bank{Hash: tpm2.TPMIAlgHash(r.u16())}
		b.PCRs = selected(r.take(int(r.u8())))
		banks = append(banks, b)
	}
	return banks
}

// selected are the PCRs in a selection's bit field.
func selected(bits []byte) (indices []uint) {
	for i := range uint(len(bits)) * 8 {
		if bits[i/8]&(1<<(i%8)) != 0 {
			indices = append(indices, i)
		}
	}
	return indices
}

// selectionText is a selection as people write it: "sha256:0,7".
func selectionText(sel tpm2.TPMLPCRSelection) string {
	var text []string
	for _, s := range sel.PCRSelections {
		var indices []string
		for _, i := range selected(s.PCRSelect) {
			indices = append(indices, fmt.Sprint(i))
		}
		text = append(text, policy.BankName(s.Hash)+":"+strings.Join(indices, ","))
	}
	return strings.Join(text, "+")
}
