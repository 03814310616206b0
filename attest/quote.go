package attest

import (
	"bytes"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// checkQuote checks a quote, and that it is of the wanted PCRs and no others.
func (v statements) checkQuote(e provider.Evidence, want []provider.PCRValues) error {
	if len(e.Quote.Attest) == 0 {
		if len(want) > 0 {
			return fmt.Errorf("%w: no PCRs were quoted", ErrPCR)
		}
		if len(e.PCRs) > 0 {
			return fmt.Errorf("%w: PCR values without a quote", ErrMalformed)
		}
		return nil
	}
	a, err := v.open(e.Quote, tpm2.TPMSTAttestQuote)
	if err != nil {
		return err
	}
	info, err := a.Attested.Quote()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	quoted, err := quotedValues(info.PCRSelect, e.PCRs)
	if err != nil {
		return err
	}
	if !bytes.Equal(info.PCRDigest.Buffer, provider.PCRDigest(quoted)) {
		return fmt.Errorf("%w: the values are not those that were quoted", ErrPCR)
	}
	if want == nil {
		return nil
	}
	return comparePCRs(quoted, want)
}

// quotedValues are the given values in the order of the quoted selection. They
// must be of the very same PCRs, and as long as their hash.
func quotedValues(selection tpm2.TPMLPCRSelection, given []provider.PCRValues) ([]provider.PCRValues, error) {
	byBank := map[tpm2.TPMIAlgHash]map[uint][]byte{}
	for _, g := range given {
		hash, err := g.Hash.Hash()
		if err != nil {
			return nil, fmt.Errorf("%w: PCR bank: %w", ErrMalformed, err)
		}
		if byBank[g.Hash] != nil {
			return nil, fmt.Errorf("%w: the %s bank twice", ErrMalformed, policy.BankName(g.Hash))
		}
		byBank[g.Hash] = g.Values
		for i, value := range g.Values {
			if len(value) != hash.Size() {
				return nil, fmt.Errorf("%w: %s PCR%d has %d bytes", ErrMalformed, policy.BankName(g.Hash), i, len(value))
			}
		}
	}
	var ordered []provider.PCRValues
	for _, s := range selection.PCRSelections {
		bank, name := byBank[s.Hash], policy.BankName(s.Hash)
		delete(byBank, s.Hash)
		n := 0
		for i := range uint(len(s.PCRSelect)) * 8 {
			if s.PCRSelect[i/8]&(1<<(i%8)) == 0 {
				continue
			}
			if bank[i] == nil {
				return nil, fmt.Errorf("%w: %s PCR%d was quoted, and its value is missing", ErrPCR, name, i)
			}
			n++
		}
		if n != len(bank) {
			return nil, fmt.Errorf("%w: of %d values in the %s bank %d were quoted", ErrPCR, len(bank), name, n)
		}
		ordered = append(ordered, provider.PCRValues{Hash: s.Hash, Values: bank})
	}
	for hash := range byBank {
		return nil, fmt.Errorf("%w: the %s bank was not quoted", ErrPCR, policy.BankName(hash))
	}
	return ordered, nil
}

// comparePCRs compares values with the wanted ones, which must be of the same PCRs.
func comparePCRs(have, want []provider.PCRValues) error {
	left := map[tpm2.TPMIAlgHash]map[uint][]byte{}
	for _, h := range have {
		left[h.Hash] = h.Values
	}
	for _, w := range want {
		bank, name := left[w.Hash], policy.BankName(w.Hash)
		delete(left, w.Hash)
		for i, value := range w.Values {
			if bank[i] == nil {
				return fmt.Errorf("%w: %s PCR%d was not quoted", ErrPCR, name, i)
			}
			if !bytes.Equal(bank[i], value) {
				return fmt.Errorf("%s bank: %w", name, &PCRError{PCR: int(i), Want: value, Have: bank[i]})
			}
		}
		if len(bank) != len(w.Values) {
			return fmt.Errorf("%w: more %s PCRs were quoted than expected", ErrPCR, name)
		}
	}
	for hash := range left {
		return fmt.Errorf("%w: %s PCRs were quoted, and none expected", ErrPCR, policy.BankName(hash))
	}
	return nil
}
