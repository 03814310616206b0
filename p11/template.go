package p11

import (
	"bytes"
	"encoding/binary"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
)

// template is an application's wish for an object, each attribute at most once.
type template map[AttributeType][]byte

func parseTemplate(list []Attribute) (template, error) {
	t := make(template, len(list))
	for _, a := range list {
		if _, twice := t[a.Type]; twice {
			return nil, refuse(CKR_TEMPLATE_INCONSISTENT, "attribute 0x%x comes twice", uint64(a.Type))
		}
		t[a.Type] = a.Value
	}
	return t, nil
}

// bool gives a CK_BBOOL, and otherwise when it is absent.
func (t template) bool(a AttributeType, otherwise bool) (bool, error) {
	value, ok := t[a]
	if !ok {
		return otherwise, nil
	}
	if len(value) != 1 || value[0] > 1 {
		return false, refuse(CKR_ATTRIBUTE_VALUE_INVALID, "attribute 0x%x is no CK_BBOOL", uint64(a))
	}
	return value[0] == 1, nil
}

// ulong gives a CK_ULONG, and otherwise when it is absent.
func (t template) ulong(a AttributeType, otherwise uint64) (uint64, error) {
	value, ok := t[a]
	if !ok {
		return otherwise, nil
	}
	if len(value) != 8 {
		return 0, refuse(CKR_ATTRIBUTE_VALUE_INVALID, "attribute 0x%x is no CK_ULONG", uint64(a))
	}
	return binary.LittleEndian.Uint64(value), nil
}

func (t template) has(a AttributeType) bool { _, ok := t[a]; return ok }

// only refuses attributes outside of the allowed sets: CKR_ATTRIBUTE_READ_ONLY for those that describe an object's past,
// CKR_ATTRIBUTE_TYPE_INVALID for the rest.
func (t template) only(allowed ...[]AttributeType) error {
	known := map[AttributeType]bool{}
	for _, set := range allowed {
		for _, a := range set {
			known[a] = true
		}
	}
	for a := range t {
		switch {
		case known[a]:
		case a == CKA_LOCAL, a == CKA_ALWAYS_SENSITIVE, a == CKA_NEVER_EXTRACTABLE, a == CKA_KEY_GEN_MECHANISM, a == CKA_UNIQUE_ID, a == CKA_TPM2_NAME:
			return refuse(CKR_ATTRIBUTE_READ_ONLY, "attribute 0x%x is not the application's to set", uint64(a))
		default:
			return refuse(CKR_ATTRIBUTE_TYPE_INVALID, "attribute 0x%x does not belong to such an object", uint64(a))
		}
	}
	return nil
}

// mustBe refuses booleans that are there with the other value.
func (t template) mustBe(v bool, types ...AttributeType) error {
	for _, a := range types {
		got, err := t.bool(a, v)
		if err != nil {
			return err
		}
		if got != v {
			return refuse(CKR_TEMPLATE_INCONSISTENT, "attribute 0x%x can only be %v", uint64(a), v)
		}
	}
	return nil
}

// mustEqual refuses an attribute that is there with another value.
func (t template) mustEqual(a AttributeType, value []byte) error {
	if got, ok := t[a]; ok && !bytes.Equal(got, value) {
		return refuse(CKR_TEMPLATE_INCONSISTENT, "attribute 0x%x contradicts what it describes", uint64(a))
	}
	return nil
}

// secret moves a value out of a template, into locked memory.
func (t template) secret(a AttributeType) *secret.Bytes { return secret.From(t[a]) }
