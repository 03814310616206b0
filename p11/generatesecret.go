package p11

import (
	"crypto/rand"
	"crypto/subtle"
	"slices"

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
	row, err := s.lib.mechanism(mechanism.Type, CKF_GENERATE)
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
	if err := t.mustEqual(CKA_CLASS, ulong(uint64(CKO_SECRET_KEY))); err != nil {
		return 0, err
	}
	t[CKA_CLASS] = ulong(uint64(CKO_SECRET_KEY))
	kind, err := t.ulong(CKA_KEY_TYPE, row.keys)
	if err != nil {
		return 0, err
	}
	if kind != row.keys && !slices.Contains(row.alsoKeys, kind) {
		return 0, refuse(CKR_TEMPLATE_INCONSISTENT, "mechanism 0x%x makes no keys of type 0x%x", uint64(row.id), kind)
	}
	t[CKA_KEY_TYPE] = ulong(kind)
	if !t.has(CKA_VALUE_LEN) {
		return 0, CKR_TEMPLATE_INCOMPLETE
	}
	n, err := t.ulong(CKA_VALUE_LEN, 0)
	if err != nil {
		return 0, err
	}
	if kind == CKK_AES && n != 16 && n != 24 && n != 32 || n < 1 || n > keystore.MaxSecretKey {
		return 0, refuse(CKR_KEY_SIZE_RANGE, "a key of %d bytes", n)
	}
	// What cannot be made is refused before the TPM works.
	if _, err := s.place(t); err != nil {
		return 0, err
	}
	if row.guards != nil {
		if err := row.guards(s, t); err != nil {
			return 0, err
		}
	}
	value, from, err := row.generate(s, parameter{rest: mechanism.Parameter}, int(n))
	if err != nil {
		return 0, err
	}
	if from.ciphertext == nil { // what KMS made was not made here
		from.mechanism = row.id
	}
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
