package attest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha512"
	"fmt"
	"math/big"

	"github.com/fxamacker/cbor/v2"
)

// MaxSize is the most that a document may measure, in bytes. Real ones have about 5,000.
const MaxSize = 16 << 10

// decoder bounds everything before it is decoded, and refuses duplicate keys
// and tags. Indefinite lengths are what real documents are made of.
var decoder = must(cbor.DecOptions{
	DupMapKey:        cbor.DupMapKeyEnforcedAPF,
	IndefLength:      cbor.IndefLengthAllowed,
	TagsMd:           cbor.TagsForbidden,
	UTF8:             cbor.UTF8RejectInvalid,
	MaxNestedLevels:  4,
	MaxArrayElements: 16,
	MaxMapPairs:      32,
}.DecMode())

func must(m cbor.DecMode, err error) cbor.DecMode {
	if err != nil {
		panic(err)
	}
	return m
}

const (
	tagSign1      = 0xd2 // tag 18, RFC 9052 section 4.2
	headerAlg     = uint64(1)
	algES384      = int64(-35)
	signatureSize = 96
)

// sign1 is a COSE_Sign1 structure (RFC 9052, section 4.2). The byte slices are exactly what was signed.
type sign1 struct {
	protected, payload, signature []byte
}

// parseSign1 reads a COSE_Sign1, tagged or not, signed with ES384 and with no
// other header: whatever a header could change is refused.
func parseSign1(b []byte) (sign1, error) {
	var parts []any
	if len(b) > 0 && b[0] == tagSign1 {
		b = b[1:]
	}
	if err := decoder.Unmarshal(b, &parts); err != nil {
		return sign1{}, fmt.Errorf("%w: COSE_Sign1: %w", ErrMalformed, err)
	}
	if len(parts) != 4 {
		return sign1{}, fmt.Errorf("%w: COSE_Sign1 has %d parts, not 4", ErrMalformed, len(parts))
	}
	var s sign1
	var ok [3]bool
	s.protected, ok[0] = parts[0].([]byte)
	s.payload, ok[1] = parts[2].([]byte)
	s.signature, ok[2] = parts[3].([]byte)
	if ok != [3]bool{true, true, true} {
		return sign1{}, fmt.Errorf("%w: protected header, payload and signature must be byte strings", ErrMalformed)
	}
	if unprotected, ok := parts[1].(map[any]any); !ok || len(unprotected) != 0 {
		return sign1{}, fmt.Errorf("%w: the unprotected header is not an empty map", ErrMalformed)
	}
	var header map[any]any
	if err := decoder.Unmarshal(s.protected, &header); err != nil {
		return sign1{}, fmt.Errorf("%w: protected header: %w", ErrMalformed, err)
	}
	if len(header) != 1 || header[headerAlg] != algES384 {
		return sign1{}, fmt.Errorf("%w: the protected header is not {alg: ES384}", ErrMalformed)
	}
	if len(s.signature) != signatureSize {
		return sign1{}, fmt.Errorf("%w: the signature has %d bytes, not %d", ErrMalformed, len(s.signature), signatureSize)
	}
	return s, nil
}

// verify checks the signature with a P-384 key.
func (s sign1) verify(key *ecdsa.PublicKey) bool {
	digest := sha512.Sum384(s.toBeSigned())
	r := new(big.Int).SetBytes(s.signature[:signatureSize/2])
	t := new(big.Int).SetBytes(s.signature[signatureSize/2:])
	return ecdsa.Verify(key, digest[:], r, t)
}

// toBeSigned is the encoded Sig_structure (RFC 9052, section 4.4).
func (s sign1) toBeSigned() []byte {
	var b bytes.Buffer
	b.WriteString("\x84\x6aSignature1")
	writeBytes(&b, s.protected)
	writeBytes(&b, nil) // external_aad
	writeBytes(&b, s.payload)
	return b.Bytes()
}

// writeBytes writes a CBOR byte string in its shortest form.
func writeBytes(b *bytes.Buffer, v []byte) {
	const major = 2 << 5
	switch n := len(v); {
	case n < 24:
		b.WriteByte(major | byte(n))
	case n < 1<<8:
		b.Write([]byte{major | 24, byte(n)})
	default: // MaxSize fits in 16 bits
		b.Write([]byte{major | 25, byte(n >> 8), byte(n)})
	}
	b.Write(v)
}
