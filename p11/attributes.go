package p11

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// attributes are an object's attributes in the form they travel in.
type attributes map[AttributeType][]byte

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

// GetAttributeValue is C_GetAttributeValue (PKCS #11 v3.1, section 5.7). Every query is answered, whatever became of the others.
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
	for i, q := range queries {
		result, failure := s.answer(o, q)
		results[i] = result
		if failure != nil {
			err = failure
		}
	}
	return results, err
}

func (s *session) answer(o *object, q AttributeQuery) (AttributeResult, error) {
	value, ok := o.attributes[q.Type]
	switch {
	case o.sensitive(q.Type):
		return AttributeResult{Unavailable: true}, CKR_ATTRIBUTE_SENSITIVE
	case o.hides(q.Type):
		return s.answerHidden(o, q)
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
func (s *session) answerHidden(o *object, q AttributeQuery) (AttributeResult, error) {
	length := uint64(o.info.Length)
	switch {
	case q.Query:
		return AttributeResult{Length: length}, nil
	case q.Capacity < length:
		return AttributeResult{Unavailable: true}, CKR_BUFFER_TOO_SMALL
	}
	value, err := s.reveal(o, CKF_DECRYPT)
	if err != nil {
		s.lib.report("C_GetAttributeValue", &err)
		return AttributeResult{Unavailable: true}, err
	}
	defer value.Wipe()
	return AttributeResult{Length: length, Value: append([]byte{}, value.Bytes()...), Secret: true}, nil
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
	var size uint64
	for _, value := range o.attributes {
		size += uint64(len(value))
	}
	if o.hides(CKA_VALUE) {
		size += uint64(o.info.Length)
	}
	return size, nil
}
