package p11

import (
	"unicode/utf8"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/keystore"
)

var dataTemplate = []AttributeType{CKA_APPLICATION, CKA_OBJECT_ID, CKA_VALUE, CKA_TPM2_POLICY}

// createData makes a data object (PKCS #11 v3.1, section 4.5): private ones of the token are sealed in the TPM, public ones lie in the
// store as they are. The value is wiped.
func (s *session) createData(t template, value *secret.Bytes) (ObjectHandle, error) {
	defer value.Wipe()
	if err := t.only(storageAttributes, dataTemplate); err != nil {
		return 0, err
	}
	if value.Len() > keystore.MaxSecretData {
		return 0, refuse(CKR_ATTRIBUTE_VALUE_INVALID, "data of %d bytes: at most %d are kept", value.Len(), keystore.MaxSecretData)
	}
	if !utf8.Valid(t[CKA_APPLICATION]) {
		return 0, refuse(CKR_ATTRIBUTE_VALUE_INVALID, "an application's name is UTF-8")
	}
	p, err := s.place(t)
	if err != nil {
		return 0, err
	}
	return s.keep(p, CKO_DATA, keystore.SecretInfo{
		Kind: keystore.SecretData, Length: value.Len(), Application: string(t[CKA_APPLICATION]), ObjectID: t[CKA_OBJECT_ID],
	}, value)
}
