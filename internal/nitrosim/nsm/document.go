package nsm

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha512"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// Field is one entry of a document's payload. Value is anything that CBOR encodes.
type Field struct {
	Name  string
	Value any
}

// Draft is a document before it is signed, open to change: the payload's
// fields in order, the header, the signing key.
type Draft struct {
	Protected []byte // encoded protected header
	Fields    []Field
	Key       *ecdsa.PrivateKey
}

// Content is what a document states besides identity and time.
type Content struct {
	PCRs                       PCRs
	PublicKey, UserData, Nonce []byte // nil for null
}

// Draft prepares a document made at now.
func (a *Authority) Draft(now time.Time, c Content) (*Draft, error) {
	leaf, err := a.Leaf(now)
	if err != nil {
		return nil, err
	}
	pcrs := map[uint64][]byte{}
	for i, v := range c.PCRs {
		pcrs[uint64(i)] = v
	}
	return &Draft{
		Protected: []byte{0xa1, 0x01, 0x38, 0x22}, // {alg: ES384}
		Fields: []Field{
			{"module_id", a.ModuleID()},
			{"digest", "SHA384"},
			{"timestamp", uint64(now.UnixMilli())},
			{"nitrotpm_pcrs", pcrs},
			{"certificate", leaf.Certificate.Raw},
			{"cabundle", a.Bundle()},
			{"public_key", orNull(c.PublicKey)},
			{"user_data", orNull(c.UserData)},
			{"nonce", orNull(c.Nonce)},
		},
		Key: leaf.Key,
	}, nil
}

// Set changes a field's value, or adds the field.
func (d *Draft) Set(name string, value any) {
	for i := range d.Fields {
		if d.Fields[i].Name == name {
			d.Fields[i].Value = value
			return
		}
	}
	d.Fields = append(d.Fields, Field{name, value})
}

// Payload encodes the fields as real documents do: an indefinite map.
func (d *Draft) Payload() ([]byte, error) {
	payload := []byte{0xbf}
	for _, f := range d.Fields {
		for _, v := range []any{f.Name, f.Value} {
			b, err := cbor.Marshal(v)
			if err != nil {
				return nil, err
			}
			payload = append(payload, b...)
		}
	}
	return append(payload, 0xff), nil
}

// Sign encodes and signs the draft: an untagged COSE_Sign1 with ES384.
func (d *Draft) Sign() ([]byte, error) {
	payload, err := d.Payload()
	if err != nil {
		return nil, err
	}
	toBeSigned, err := cbor.Marshal([]any{"Signature1", d.Protected, []byte{}, payload})
	if err != nil {
		return nil, err
	}
	digest := sha512.Sum384(toBeSigned)
	r, s, err := ecdsa.Sign(rand.Reader, d.Key, digest[:])
	if err != nil {
		return nil, err
	}
	size := (d.Key.Curve.Params().BitSize + 7) / 8
	signature := make([]byte, 2*size)
	r.FillBytes(signature[:size])
	s.FillBytes(signature[size:])
	return cbor.Marshal([]any{d.Protected, map[int]int{}, payload, signature})
}

func orNull(b []byte) any {
	if b == nil {
		return nil
	}
	return b
}
