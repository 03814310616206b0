package p11

import (
	"crypto/rand"
	"crypto/subtle"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/keystore"
)

// generateKey draws a secret key of n bytes, for a mechanism whose parameter is p.
type generateKey func(s *session, p parameter, n int) (*secret.Bytes, origin, error)

// GenerateKey is C_GenerateKey (PKCS #11 v3.1, section 5.18).
func (m *Module) GenerateKey(h SessionHandle, mechanism Mechanism, list []Attribute) (made ObjectHandle, err error) {
	s, err := m.session(h)
	if err != nil {
		return 0, err
	}
	defer s.lib.report("C_GenerateKey", &err)
	row, err := findMechanism(mechanism.Type, CKF_GENERATE)
	if err != nil {
		return 0, err
	}
	t, err := parseTemplate(list)
	if err != nil {
		return 0, err
	}
	if t.has(CKA_VALUE) {
		return 0, refuse(CKR_TEMPLATE_INCONSISTENT, "the value is what is generated")
	}
	for a, only := range map[AttributeType]uint64{CKA_CLASS: uint64(CKO_SECRET_KEY), CKA_KEY_TYPE: row.keys} {
		if err := t.mustEqual(a, ulong(only)); err != nil {
			return 0, err
		}
		t[a] = ulong(only)
	}
	if !t.has(CKA_VALUE_LEN) {
		return 0, CKR_TEMPLATE_INCOMPLETE
	}
	n, err := t.ulong(CKA_VALUE_LEN, 0)
	if err != nil {
		return 0, err
	}
	if row.keys == CKK_AES && n != 16 && n != 24 && n != 32 || n < 1 || n > keystore.MaxSecretKey {
		return 0, refuse(CKR_KEY_SIZE_RANGE, "a key of %d bytes", n)
	}
	// What cannot be made is refused before the TPM works.
	if _, err := s.place(t); err != nil {
		return 0, err
	}
	value, from, err := row.generate(s, parameter{rest: mechanism.Parameter}, int(n))
	if err != nil {
		return 0, err
	}
	from.mechanism = row.id
	return s.makeSecretKey(t, value, from)
}

// generateHere draws a key from the TPM's generator and the system's: it is as good as the better of both, and what travels in the clear
// between TPM and process is not the key.
func generateHere(s *session, p parameter, n int) (*secret.Bytes, origin, error) {
	if err := p.end(); err != nil {
		return nil, origin{}, err
	}
	drawn, err := s.slot.token.TPM().Random(s.lib.ctx, n)
	if err != nil {
		return nil, origin{}, err
	}
	defer clear(drawn)
	key := secret.New(n)
	rand.Read(key.Bytes())
	subtle.XORBytes(key.Bytes(), key.Bytes(), drawn)
	return key, origin{}, nil
}
