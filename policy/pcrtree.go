package policy

import (
	"encoding/hex"
	"maps"
	"slices"
	"strconv"
)

// A pcr node in a tree: {bank="sha256", "7"="00…"} with values, {bank="sha256", indices=[0,7]} for current ones (both may be
// mixed), {bank="sha256", indices=[0,7], digest="00…"} with a digest over the values, policy="00…" with that of their policy.

func (p PCR) appendJSON(b []byte) []byte {
	b = append(b, `{"pcr":{"bank":"`...)
	b = append(b, BankName(p.Bank)...)
	b = append(b, '"')
	var open []uint
	for _, i := range p.Indices() {
		if p.Values[i] == nil {
			open = append(open, i)
		}
	}
	if len(open) > 0 {
		b = append(b, `,"indices":[`...)
		b = append(b, joinIndices(open)...)
		b = append(b, ']')
	}
	if p.Digest != nil {
		b = appendHexMember(b, "digest", p.Digest)
	}
	if p.Policy != nil {
		b = appendHexMember(b, "policy", p.Policy)
	}
	for _, i := range p.Indices() {
		if value := p.Values[i]; value != nil {
			b = appendHexMember(b, strconv.FormatUint(uint64(i), 10), value)
		}
	}
	return append(b, "}}"...)
}

func appendHexMember(b []byte, name string, value []byte) []byte {
	b = append(b, `,"`...)
	b = append(b, name...)
	b = append(b, `":"`...)
	b = hex.AppendEncode(b, value)
	return append(b, '"')
}

func pcrFromTree(tree any, at path) (Node, error) {
	table, ok := tree.(map[string]any)
	if !ok {
		return nil, at.errorf("is a table {bank=…, …}, not %s", describe(tree))
	}
	p := PCR{Values: make(map[uint][]byte)}
	if _, ok := table["bank"]; !ok {
		return nil, at.errorf("has no bank")
	}
	// In order, so that the same mistakes give the same error.
	for _, key := range slices.Sorted(maps.Keys(table)) {
		if err := p.setMember(key, table[key], at.member(key)); err != nil {
			return nil, err
		}
	}
	if err := p.validate(); err != nil {
		return nil, at.wrap(err)
	}
	return p, nil
}

func (p *PCR) setMember(key string, value any, at path) (err error) {
	switch key {
	case "bank":
		name, ok := value.(string)
		if !ok {
			return at.errorf("is a name, not %s", describe(value))
		}
		if p.Bank, err = ParseBank(name); err != nil {
			return at.wrap(err)
		}
	case "digest":
		p.Digest, err = hexFromTree(value, at)
		return err
	case "policy":
		p.Policy, err = hexFromTree(value, at)
		return err
	case "indices":
		list, ok := asList(value)
		if !ok {
			return at.errorf("is a list of PCR indices, not %s", describe(value))
		}
		if len(list) == 0 {
			return at.errorf("is empty")
		}
		for n, v := range list {
			i, ok := asIndex(v)
			if !ok {
				return at.element(n).errorf("is a PCR index from 0 to %d, not %v", MaxPCR, v)
			}
			if err := p.set(i, nil, at.element(n)); err != nil {
				return err
			}
		}
	default:
		i, err := parseIndex(key)
		if err != nil {
			return at.errorf("is neither bank, indices, digest, policy nor a PCR index from 0 to %d", MaxPCR)
		}
		v, err := hexFromTree(value, at)
		if err != nil {
			return err
		}
		return p.set(i, v, at)
	}
	return nil
}

func (p *PCR) set(i uint, value []byte, at path) error {
	if _, twice := p.Values[i]; twice {
		return at.errorf("names PCR %d a second time", i)
	}
	p.Values[i] = value
	return nil
}

func hexFromTree(value any, at path) ([]byte, error) {
	text, ok := value.(string)
	if !ok {
		return nil, at.errorf("is a value in hexadecimal, not %s", describe(value))
	}
	b, err := hex.DecodeString(text)
	if err != nil || len(b) == 0 {
		return nil, at.errorf("is a value in hexadecimal, not %q", text)
	}
	return b, nil
}

func asIndex(v any) (uint, bool) {
	i, ok := asInteger(v)
	return uint(i), ok && i >= 0 && i <= MaxPCR
}
