package p11

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sync"

	"github.com/tpm2-p11/tpm2-p11/internal/wire"
)

// attributes are an object's attributes in the form they travel in.
type attributes map[AttributeType][]byte

// mostHave is how many attributes there is room for from the start: growing costs more than they do.
const mostHave = 28

func ulong(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }

func boolean(v bool) []byte {
	if v {
		return []byte{1}
	}
	return []byte{0}
}

func (a attributes) setBools(v bool, types ...AttributeType) {
	for _, t := range types {
		a[t] = boolean(v)
	}
}

// is tells whether a CK_BBOOL attribute is there and true.
func (a attributes) is(t AttributeType) bool { return bytes.Equal(a[t], []byte{1}) }

// match tells whether an object has all of a template's values.
func (a attributes) match(t []Attribute) bool {
	for _, wanted := range t {
		value, ok := a[wanted.Type]
		if !ok || !bytes.Equal(value, wanted.Value) {
			return false
		}
	}
	return true
}

// secrets are what a private key object has and never shows.
var secrets = []AttributeType{
	CKA_PRIVATE_EXPONENT, CKA_PRIME_1, CKA_PRIME_2, CKA_EXPONENT_1, CKA_EXPONENT_2, CKA_COEFFICIENT,
}

// sensitive tells an attribute that exists in the TPM alone.
func (o *object) sensitive(t AttributeType) bool {
	if o.hides(t) {
		return o.guarded()
	}
	if o.class != CKO_PRIVATE_KEY {
		return false
	}
	if bytes.Equal(o.attributes[CKA_KEY_TYPE], ulong(CKK_EC)) {
		return t == CKA_VALUE
	}
	return slices.Contains(secrets, t)
}

// In a response with results, the return value and their number are of responseHead bytes, and what each has beside its value (whether it
// is there, and two lengths) of resultHead.
const (
	responseHead = 8 + 8
	resultHead   = 1 + 8 + 8
)

// GetAttributeValue is C_GetAttributeValue (PKCS #11 v3.1, section 5.7). Every query is answered, whatever became of the others, as long
// as the values fit into a message. What is hidden is opened once, however often it is asked for.
func (m *Module) GetAttributeValue(h SessionHandle, object ObjectHandle, queries []AttributeQuery) ([]AttributeResult, error) {
	s, err := m.session(h)
	if err != nil {
		return nil, err
	}
	o, err := s.object(object)
	if err != nil {
		return nil, err
	}
	results := make([]AttributeResult, len(queries))
	hidden := sync.OnceValues(func() ([]byte, error) { return s.copyHidden(o) })
	room := wire.MaxMessage - responseHead
	for i, q := range queries {
		result, failure := o.answer(q, hidden)
		results[i] = result
		if failure != nil {
			err = failure
		}
		if room -= resultHead + len(result.Value); room < 0 {
			wipeResults(results)
			err = refuse(CKR_GENERAL_ERROR, "the values of %d attributes at once are more than a message takes, which is %d bytes with %d for each: ask for fewer at once",
				len(queries), wire.MaxMessage, resultHead)
			s.lib.report("C_GetAttributeValue", &err)
			return nil, err
		}
	}
	return results, err
}

func (o *object) answer(q AttributeQuery, hidden func() ([]byte, error)) (AttributeResult, error) {
	value, ok := o.attributes[q.Type]
	switch {
	case o.sensitive(q.Type):
		return AttributeResult{Unavailable: true}, CKR_ATTRIBUTE_SENSITIVE
	case o.hides(q.Type):
		return o.answerHidden(q, hidden)
	case !ok:
		return AttributeResult{Unavailable: true}, CKR_ATTRIBUTE_TYPE_INVALID
	case q.Query:
		return AttributeResult{Length: uint64(len(value))}, nil
	case q.Capacity < uint64(len(value)):
		return AttributeResult{Unavailable: true}, CKR_BUFFER_TOO_SMALL
	}
	return AttributeResult{Length: uint64(len(value)), Value: value}, nil
}

// answerHidden answers with what has to be opened for it. A size query, and a buffer that is too small, open nothing.
func (o *object) answerHidden(q AttributeQuery, hidden func() ([]byte, error)) (AttributeResult, error) {
	length := uint64(o.info.Length)
	switch {
	case q.Query:
		return AttributeResult{Length: length}, nil
	case q.Capacity < length:
		return AttributeResult{Unavailable: true}, CKR_BUFFER_TOO_SMALL
	}
	value, err := hidden()
	if err != nil {
		return AttributeResult{Unavailable: true}, err
	}
	return AttributeResult{Length: length, Value: value, Secret: true}, nil
}

// copyHidden opens what an object hides.
func (s *session) copyHidden(o *object) ([]byte, error) {
	value, err := s.reveal(o, CKF_DECRYPT)
	if err != nil {
		s.lib.report("C_GetAttributeValue", &err)
		return nil, err
	}
	defer value.Wipe()
	return append([]byte{}, value.Bytes()...), nil
}

// wipeResults wipes what was opened for results.
func wipeResults(results []AttributeResult) {
	for _, r := range results {
		if r.Secret {
			clear(r.Value)
		}
	}
}

// GetObjectSize is C_GetObjectSize: the bytes of an object's attributes, which is all that is known of its size.
func (m *Module) GetObjectSize(h SessionHandle, object ObjectHandle) (uint64, error) {
	s, err := m.session(h)
	if err != nil {
		return 0, err
	}
	o, err := s.object(object)
	if err != nil {
		return 0, err
	}
	size := o.size()
	if o.hides(CKA_VALUE) {
		size += o.info.Length
	}
	return uint64(size), nil
}

// size is how many bytes an object's attributes have together.
func (o *object) size() (n int) {
	for _, value := range o.attributes {
		n += len(value)
	}
	return n
}
