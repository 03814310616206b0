package policy

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// MaxPCR is the highest PCR index that a selection can name.
const MaxPCR = 23

// selectSize is the length of a PCR bitmap in bytes (PCR_SELECT_MIN of the PC Client platform).
const selectSize = 3

// ParsePCR reads a PCR selection as people write it, "sha256:0,1,2,7" or "sha256:0-2,7", all values current. It refuses sha1.
func ParsePCR(s string) (PCR, error) {
	bank, indices, err := ParseSelection(s)
	if err != nil {
		return PCR{}, err
	}
	pcr := PCR{Bank: bank, Values: make(map[uint][]byte, len(indices))}
	for _, i := range indices {
		pcr.Values[i] = nil
	}
	if err := pcr.validate(); err != nil {
		return PCR{}, fmt.Errorf("PCR selection %q: %w", s, err)
	}
	return pcr, nil
}

// Parse reads a policy as people write it in a line: a PCR selection, as ParsePCR reads it, or a tree in JSON.
func Parse(s string) (Policy, error) {
	if strings.HasPrefix(strings.TrimSpace(s), "{") {
		var p Policy
		err := p.UnmarshalJSON([]byte(s))
		return p, err
	}
	pcr, err := ParsePCR(s)
	if err != nil {
		return Policy{}, err
	}
	return Policy{Root: pcr}, nil
}

// ParseSelection reads a PCR selection of any known bank; the indices are in the order written.
func ParseSelection(s string) (bank tpm2.TPMIAlgHash, indices []uint, err error) {
	fail := func(err error) (tpm2.TPMIAlgHash, []uint, error) {
		return 0, nil, fmt.Errorf("PCR selection %q: %w", s, err)
	}
	name, list, found := strings.Cut(s, ":")
	if !found {
		return fail(fmt.Errorf("%w: it is written bank:indices, as in sha256:0,1,2,7", ErrInvalid))
	}
	if bank, err = ParseBank(name); err != nil {
		return fail(err)
	}
	if list == "" {
		return fail(fmt.Errorf("%w: no PCR is named", ErrInvalid))
	}
	seen := make(map[uint]bool)
	for part := range strings.SplitSeq(list, ",") {
		first, last, err := parseRange(part)
		if err != nil {
			return fail(err)
		}
		for i := first; i <= last; i++ {
			if seen[i] {
				return fail(fmt.Errorf("%w: PCR %d is named twice", ErrInvalid, i))
			}
			seen[i] = true
			indices = append(indices, i)
		}
	}
	return bank, indices, nil
}

// parseRange reads "7" or "0-2".
func parseRange(s string) (first, last uint, err error) {
	low, high, isRange := strings.Cut(s, "-")
	if first, err = parseIndex(low); err != nil {
		return 0, 0, err
	}
	if !isRange {
		return first, first, nil
	}
	if last, err = parseIndex(high); err != nil {
		return 0, 0, err
	}
	if last < first {
		return 0, 0, fmt.Errorf("%w: the range %q runs backwards", ErrInvalid, s)
	}
	return first, last, nil
}

// parseIndex reads a PCR index in its one spelling: decimal, no sign, no leading zero.
func parseIndex(s string) (uint, error) {
	i, _ := strconv.ParseUint(s, 10, 32) // what is no number is not written so
	if strconv.FormatUint(i, 10) != s {
		return 0, fmt.Errorf("%w: %q is not a PCR index", ErrInvalid, s)
	}
	return uint(i), validIndex(uint(i))
}

func validIndex(i uint) error {
	if i > MaxPCR {
		return fmt.Errorf("%w: there is no PCR %d (0 to %d)", ErrInvalid, i, MaxPCR)
	}
	return nil
}

// selection is the TPM's form of a selection in one bank.
func selection(bank tpm2.TPMIAlgHash, indices []uint) tpm2.TPMLPCRSelection {
	bitmap := make([]byte, selectSize)
	for _, i := range indices {
		bitmap[i/8] |= 1 << (i % 8)
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: bank, PCRSelect: bitmap}}}
}
