package p11

import (
	"crypto"
	"crypto/ecdsa"
	"encoding/binary"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/keystore"
)

// deriveMechanisms are ECDH in the TPM (PKCS #11 v3.2, section 6.3.17), with the KDF of ANSI X9.63 here.
var deriveMechanisms = []mechanism{
	{id: CKM_ECDH1_DERIVE, flags: CKF_HW | CKF_DERIVE | ecFlags, keys: CKK_EC, scheme: tpm2.TPMAlgECDH, sizes: ecSizes},
}

// kdfs are the key derivation functions by their hash; CKD_NULL has none.
var kdfs = map[uint64]crypto.Hash{CKD_NULL: 0, CKD_SHA256_KDF: crypto.SHA256, CKD_SHA384_KDF: crypto.SHA384, CKD_SHA512_KDF: crypto.SHA512}

// agreement is CK_ECDH1_DERIVE_PARAMS.
type agreement struct {
	kdf    crypto.Hash
	shared []byte
	peer   *ecdsa.PublicKey
}

// DeriveKey is C_DeriveKey (PKCS #11 v3.2, section 5.18): a secret key from an EC key of the TPM and a peer's public key.
func (m *Module) DeriveKey(h SessionHandle, mechanism Mechanism, base ObjectHandle, list []Attribute) (derived ObjectHandle, err error) {
	s, err := m.session(h)
	if err != nil {
		return 0, err
	}
	defer s.lib.report("C_DeriveKey", &err)
	o, _, err := s.key(base, mechanism, CKF_DERIVE, CKA_DERIVE)
	if err != nil {
		return 0, err
	}
	a, err := parseAgreement(o, parameter{rest: mechanism.Parameter})
	if err != nil {
		return 0, err
	}
	t, n, err := derivedTemplate(list, (a.peer.Params().BitSize+7)/8, a.kdf)
	if err != nil {
		return 0, err
	}
	// What cannot be made is refused before the TPM works.
	if _, err := secretKeyInfo(t, n, origin{}); err != nil {
		return 0, err
	}
	if _, err := s.place(t); err != nil {
		return 0, err
	}
	if o.entry.AsksOwnPIN() {
		return 0, refuse(CKR_USER_NOT_LOGGED_IN, "key %q has a PIN of its own, which nobody can give for a derivation", o.entry.Label)
	}
	auth, err := s.slot.token.Auth(o.entry, nil)
	if err != nil {
		return 0, err
	}
	defer auth.Value.Wipe()
	var z *secret.Bytes
	if err := s.lib.use(s.slot.token.TPM(), o.entry, func() (err error) {
		z, err = s.slot.token.TPM().ECDH(s.lib.ctx, o.entry.Object, auth, a.peer)
		return err
	}); err != nil {
		return 0, keyFault(err)
	}
	defer z.Wipe()
	return s.makeSecretKey(t, a.derive(z, n), origin{base: o.attributes})
}

func parseAgreement(o *object, p parameter) (agreement, error) {
	own, ok := o.public.(*ecdsa.PublicKey)
	if !ok {
		return agreement{}, CKR_KEY_TYPE_INCONSISTENT
	}
	kdf, shared, point := p.number(), p.bytes(), p.bytes()
	if err := p.end(); err != nil {
		return agreement{}, err
	}
	hash, known := kdfs[kdf]
	switch {
	case !known:
		return agreement{}, refuse(CKR_MECHANISM_PARAM_INVALID, "key derivation function %d: there are CKD_NULL and those of SHA-256, SHA-384 and SHA-512", kdf)
	case hash == 0 && len(shared) != 0:
		return agreement{}, refuse(CKR_MECHANISM_PARAM_INVALID, "CKD_NULL takes no shared data")
	}
	peer, err := parsePoint(own.Curve, point)
	if err != nil {
		return agreement{}, refuse(CKR_MECHANISM_PARAM_INVALID, "the peer's public key: %v", err)
	}
	return agreement{hash, shared, peer}, nil
}

// derivedTemplate reads the template of a derived key and its length in bytes: without a wish as long as the shared secret.
func derivedTemplate(list []Attribute, most int, kdf crypto.Hash) (template, int, error) {
	t, err := parseTemplate(list)
	if err != nil {
		return nil, 0, err
	}
	if t.has(CKA_VALUE) {
		return nil, 0, refuse(CKR_TEMPLATE_INCONSISTENT, "the value is what is derived")
	}
	if err := t.mustEqual(CKA_CLASS, ulong(uint64(CKO_SECRET_KEY))); err != nil {
		return nil, 0, err
	}
	t[CKA_CLASS] = ulong(uint64(CKO_SECRET_KEY))
	if !t.has(CKA_KEY_TYPE) {
		t[CKA_KEY_TYPE] = ulong(CKK_GENERIC_SECRET)
	}
	n, err := t.ulong(CKA_VALUE_LEN, uint64(most))
	if err != nil {
		return nil, 0, err
	}
	if n < 1 || n > keystore.MaxSecretKey || kdf == 0 && n > uint64(most) {
		return nil, 0, refuse(CKR_KEY_SIZE_RANGE, "a key of %d bytes: the shared secret has %d", n, most)
	}
	return t, int(n), nil
}

// derive makes a key of n bytes from the shared secret: its end, or what the KDF of ANSI X9.63 (SEC 1, section 3.6.1) makes of it.
func (a agreement) derive(z *secret.Bytes, n int) *secret.Bytes {
	key := secret.New(n)
	if a.kdf == 0 {
		copy(key.Bytes(), z.Bytes()[z.Len()-n:])
		return key
	}
	for counter, done := uint32(1), 0; done < n; counter++ {
		h := a.kdf.New()
		h.Write(z.Bytes())
		h.Write(binary.BigEndian.AppendUint32(nil, counter))
		h.Write(a.shared)
		block := h.Sum(nil)
		done += copy(key.Bytes()[done:], block)
		clear(block)
	}
	return key
}
