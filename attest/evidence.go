package attest

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// MaxEvidence is the most that an evidence file may measure, in bytes.
const MaxEvidence = 64 << 10

// evidenceJSON is provider.Evidence in a file: structures of the TPM in base64,
// PCRs in hex by bank and index.
type evidenceJSON struct {
	Format    string                       `json:"format"`
	AK        []byte                       `json:"ak"`           // TPMT_PUBLIC
	Hierarchy string                       `json:"ak_hierarchy"` // endorsement, owner
	Key       []byte                       `json:"key"`          // TPMT_PUBLIC
	Certify   *statementJSON               `json:"certify,omitempty"`
	Audit     *statementJSON               `json:"audit,omitempty"`
	Parent    []byte                       `json:"parent,omitempty"` // TPMT_PUBLIC
	Quote     *statementJSON               `json:"quote,omitempty"`
	PCRs      map[string]map[string]string `json:"pcrs,omitempty"`
}

type statementJSON struct {
	Attest    []byte `json:"attest"`    // TPMS_ATTEST
	Signature []byte `json:"signature"` // TPMT_SIGNATURE
}

const evidenceFormat = "tpm2-p11 key evidence 1"

var hierarchies = map[string]provider.Handle{"endorsement": tpm2.TPMRHEndorsement, "owner": tpm2.TPMRHOwner}

// MarshalEvidence gives evidence the form of a file, JSON.
func MarshalEvidence(e provider.Evidence) ([]byte, error) {
	j := evidenceJSON{
		Format: evidenceFormat, AK: e.AK.Marshal(), Key: e.Key.Marshal(), Parent: e.Parent.Marshal(),
		Certify: marshalStatement(e.Certify), Audit: marshalStatement(e.Audit), Quote: marshalStatement(e.Quote),
	}
	for name, h := range hierarchies {
		if h == e.AKHierarchy {
			j.Hierarchy = name
		}
	}
	for _, bank := range e.PCRs {
		if j.PCRs == nil {
			j.PCRs = map[string]map[string]string{}
		}
		values := map[string]string{}
		for i, v := range bank.Values {
			values[strconv.FormatUint(uint64(i), 10)] = hex.EncodeToString(v)
		}
		j.PCRs[policy.BankName(bank.Hash)] = values
	}
	b, err := json.MarshalIndent(j, "", "  ")
	return append(b, '\n'), err
}

func marshalStatement(s provider.Statement) *statementJSON {
	if len(s.Attest) == 0 {
		return nil
	}
	return &statementJSON{s.Attest, s.Signature}
}

// ParseEvidence reads what MarshalEvidence wrote, without trusting it. Errors
// are ErrMalformed.
func ParseEvidence(b []byte) (provider.Evidence, error) {
	e, err := parseEvidence(b)
	if err != nil {
		return provider.Evidence{}, fmt.Errorf("%w: evidence: %w", ErrMalformed, err)
	}
	return e, nil
}

func parseEvidence(b []byte) (e provider.Evidence, err error) {
	if len(b) > MaxEvidence {
		return e, fmt.Errorf("%d bytes are more than %d", len(b), MaxEvidence)
	}
	var j evidenceJSON
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&j); err != nil {
		return e, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return e, errors.New("something follows the JSON object")
	}
	if j.Format != evidenceFormat {
		return e, fmt.Errorf("its format is %q, not %q", j.Format, evidenceFormat)
	}
	var known bool
	if e.AKHierarchy, known = hierarchies[j.Hierarchy]; !known {
		return e, fmt.Errorf("ak_hierarchy %q", j.Hierarchy)
	}
	for _, p := range []struct {
		name string
		from []byte
		into *provider.Public
	}{{"ak", j.AK, &e.AK}, {"key", j.Key, &e.Key}, {"parent", j.Parent, &e.Parent}} {
		if len(p.from) == 0 && p.name == "parent" {
			continue
		}
		if *p.into, err = provider.ParsePublic(p.from); err != nil {
			return e, fmt.Errorf("%s: %w", p.name, err)
		}
	}
	for _, s := range []struct {
		from *statementJSON
		into *provider.Statement
	}{{j.Certify, &e.Certify}, {j.Audit, &e.Audit}, {j.Quote, &e.Quote}} {
		if s.from != nil {
			*s.into = provider.Statement{Attest: s.from.Attest, Signature: s.from.Signature}
		}
	}
	e.PCRs, err = parsePCRs(j.PCRs)
	return e, err
}

func parsePCRs(banks map[string]map[string]string) (pcrs []provider.PCRValues, err error) {
	for _, name := range slices.Sorted(maps.Keys(banks)) {
		bank := provider.PCRValues{Values: map[uint][]byte{}}
		if bank.Hash, err = policy.ParseBank(name); err != nil {
			return nil, err
		}
		for index, value := range banks[name] {
			i, _ := strconv.ParseUint(index, 10, 8) // what is no number is not written so
			if i > policy.MaxPCR || strconv.FormatUint(i, 10) != index {
				return nil, fmt.Errorf("%s PCR %q", name, index)
			}
			if bank.Values[uint(i)], err = hex.DecodeString(value); err != nil {
				return nil, fmt.Errorf("%s PCR%d: %w", name, i, err)
			}
		}
		pcrs = append(pcrs, bank)
	}
	return pcrs, nil
}
