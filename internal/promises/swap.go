package promises

import (
	"encoding/asn1"
	"encoding/pem"
	"errors"
)

// SwapPrivateParts gives two TSS2 keys in PEM form the private parts of each other.
func SwapPrivateParts(a, b []byte) (bWithinA, aWithinB []byte, err error) {
	first, err := fields(a)
	if err != nil {
		return nil, nil, err
	}
	second, err := fields(b)
	if err != nil {
		return nil, nil, err
	}
	// The public part is the last field but one, the private part the last.
	i, j := len(first)-1, len(second)-1
	first[i], second[j] = second[j], first[i]
	if bWithinA, err = encode(first); err != nil {
		return nil, nil, err
	}
	aWithinB, err = encode(second)
	return bWithinA, aWithinB, err
}

func fields(text []byte) (all []asn1.RawValue, err error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("not in PEM form")
	}
	_, err = asn1.Unmarshal(block.Bytes, &all)
	return all, err
}

func encode(all []asn1.RawValue) ([]byte, error) {
	der, err := asn1.Marshal(all)
	return pem.EncodeToMemory(&pem.Block{Type: "TSS2 PRIVATE KEY", Bytes: der}), err
}
