package p11

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"errors"
	"math/big"

	"github.com/tpm2-p11/tpm2-p11/internal/privatekey"
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// What the templates of private keys that come from outside may say besides storageAttributes and pairPrivateTemplate.
var (
	rsaPrivateTemplate = append([]AttributeType{CKA_MODULUS, CKA_PUBLIC_EXPONENT, CKA_PUBLIC_KEY_INFO}, secrets...)
	ecPrivateTemplate  = []AttributeType{CKA_EC_PARAMS, CKA_EC_POINT, CKA_VALUE, CKA_PUBLIC_KEY_INFO}
)

// createPrivateKey imports a private key into the TPM (TPM2_Import), as a token object with its public half. CKA_SIGN and CKA_DECRYPT
// say what it is for, as in C_GenerateKeyPair. The key's CKA_LOCAL is false: whoever has seen it has it still.
func (s *session) createPrivateKey(t template) (ObjectHandle, error) {
	defer func() {
		for _, a := range append([]AttributeType{CKA_VALUE}, secrets...) {
			clear(t[a])
		}
	}()
	if err := s.mayImport(t); err != nil {
		return 0, err
	}
	kind, err := t.ulong(CKA_KEY_TYPE, CK_UNAVAILABLE_INFORMATION)
	if err != nil {
		return 0, err
	}
	var key crypto.PrivateKey
	row := &keyGenerations[0]
	switch kind {
	case CKK_RSA:
		key, err = rsaPrivate(t)
	case CKK_EC:
		key, err = ecPrivate(t)
		row = &keyGenerations[1]
	case CK_UNAVAILABLE_INFORMATION:
		return 0, CKR_TEMPLATE_INCOMPLETE
	default:
		return 0, refuse(CKR_TEMPLATE_INCONSISTENT, "keys of type %d are not offered", kind)
	}
	if err != nil {
		return 0, err
	}
	return s.importKey(t, row, key)
}

// mayImport refuses a template of what no imported key is, and a session that may not import.
func (s *session) mayImport(t template) error {
	if token, err := t.bool(CKA_TOKEN, false); err != nil {
		return err
	} else if !token {
		return refuse(CKR_TEMPLATE_INCONSISTENT, "private keys are token objects: CKA_TOKEN must be true")
	}
	if err := t.mayNotChoose(); err != nil {
		return err
	}
	// NSS asks every RSA key that it brings to unwrap. The key made says what it does.
	if _, err := t.bool(CKA_UNWRAP, false); err != nil {
		return err
	}
	delete(t, CKA_UNWRAP)
	if err := checkPrivate(s.slot.token.HasPIN(), t); err != nil {
		return err
	}
	return s.mayChange()
}

// importWrapped imports what was unwrapped, and wipes it.
func (s *session) importWrapped(t template, value *secret.Bytes) (ObjectHandle, error) {
	defer value.Wipe()
	if err := t.only(storageAttributes, pairPrivateTemplate); err != nil {
		return 0, err
	}
	key, err := privatekey.Parse(value.Bytes())
	if err != nil {
		return 0, refuse(CKR_WRAPPED_KEY_INVALID, "what was unwrapped: %v", err)
	}
	defer privatekey.Wipe(key)
	row := &keyGenerations[0]
	if _, ok := key.(*ecdsa.PrivateKey); ok {
		row = &keyGenerations[1]
	}
	if err := t.mustEqual(CKA_KEY_TYPE, ulong(row.keys)); err != nil {
		return 0, err
	}
	return s.importKey(t, row, key)
}

// importKey imports a key, in a session and for a template that mayImport found good.
func (s *session) importKey(t template, row *mechanism, key crypto.PrivateKey) (ObjectHandle, error) {
	spec, err := specWanted(row, template{}, t)
	if err != nil {
		return 0, err
	}
	entry, err := s.slot.token.ImportKey(s.lib.ctx, key, spec)
	switch {
	case errors.Is(err, provider.ErrUnsupported) && row.keys == CKK_EC:
		return 0, refuse(CKR_CURVE_NOT_SUPPORTED, "%v", err)
	case errors.Is(err, provider.ErrUnsupported):
		return 0, refuse(CKR_ATTRIBUTE_VALUE_INVALID, "%v", err)
	case err != nil:
		return 0, err
	}
	s.lib.forget(s.slot)
	handle, _ := tokenHandle(s.slot.token.Serial(), CKO_PRIVATE_KEY, entry.Object.Public.Name())
	return handle, nil
}

// rsaPrivate reads an RSA private key. The TPM takes in a prime, so there must be both.
func rsaPrivate(t template) (*rsa.PrivateKey, error) {
	if err := t.only(storageAttributes, pairPrivateTemplate, rsaPrivateTemplate); err != nil {
		return nil, err
	}
	for _, needed := range []AttributeType{CKA_MODULUS, CKA_PUBLIC_EXPONENT, CKA_PRIVATE_EXPONENT, CKA_PRIME_1, CKA_PRIME_2} {
		if !t.has(needed) {
			return nil, refuse(CKR_TEMPLATE_INCOMPLETE, "an RSA private key has its modulus, both exponents and both primes: attribute 0x%x is missing", uint64(needed))
		}
	}
	number := func(a AttributeType) *big.Int { return new(big.Int).SetBytes(t[a]) }
	n, e := number(CKA_MODULUS), number(CKA_PUBLIC_EXPONENT)
	if n.BitLen() > mostRSABits || e.BitLen() > 31 {
		return nil, refuse(CKR_ATTRIBUTE_VALUE_INVALID, "an RSA key of %d bits, with an exponent of %d", n.BitLen(), e.BitLen())
	}
	for _, a := range secrets {
		if number(a).CmpAbs(n) >= 0 {
			return nil, refuse(CKR_ATTRIBUTE_VALUE_INVALID, "the RSA key does not fit together: attribute 0x%x is larger than the modulus", uint64(a))
		}
	}
	key := &rsa.PrivateKey{
		PublicKey: rsa.PublicKey{N: n, E: int(e.Int64())},
		D:         number(CKA_PRIVATE_EXPONENT),
		Primes:    []*big.Int{number(CKA_PRIME_1), number(CKA_PRIME_2)},
	}
	if err := key.Validate(); err != nil {
		return nil, refuse(CKR_ATTRIBUTE_VALUE_INVALID, "the RSA key does not fit together: %v", err)
	}
	key.Precompute()
	for a, computed := range map[AttributeType]*big.Int{CKA_EXPONENT_1: key.Precomputed.Dp, CKA_EXPONENT_2: key.Precomputed.Dq, CKA_COEFFICIENT: key.Precomputed.Qinv} {
		if t.has(a) && number(a).Cmp(computed) != 0 {
			return nil, refuse(CKR_ATTRIBUTE_VALUE_INVALID, "the RSA key does not fit together: attribute 0x%x", uint64(a))
		}
	}
	return key, t.describes(&key.PublicKey)
}

// ecPrivate reads an EC private key, whose point follows from it.
func ecPrivate(t template) (*ecdsa.PrivateKey, error) {
	if err := t.only(storageAttributes, pairPrivateTemplate, ecPrivateTemplate); err != nil {
		return nil, err
	}
	if !t.has(CKA_EC_PARAMS) || !t.has(CKA_VALUE) {
		return nil, CKR_TEMPLATE_INCOMPLETE
	}
	curve, err := parseCurve(t[CKA_EC_PARAMS])
	if err != nil {
		return nil, err
	}
	// Some applications leave out leading zeros, others put one in front.
	size, scalar := (curve.Params().N.BitLen()+7)/8, new(big.Int).SetBytes(t[CKA_VALUE])
	if scalar.BitLen() > 8*size {
		return nil, refuse(CKR_ATTRIBUTE_VALUE_INVALID, "the EC key is longer than its curve's")
	}
	padded := scalar.FillBytes(make([]byte, size))
	defer clear(padded)
	key, err := ecdsa.ParseRawPrivateKey(curve, padded)
	if err != nil {
		return nil, refuse(CKR_ATTRIBUTE_VALUE_INVALID, "the EC key is not one of its curve's")
	}
	if t.has(CKA_EC_POINT) {
		point, err := ecPoint(curve, t[CKA_EC_POINT])
		if err != nil {
			return nil, err
		}
		if !point.Equal(&key.PublicKey) {
			return nil, refuse(CKR_TEMPLATE_INCONSISTENT, "the EC point is another key's")
		}
	}
	return key, t.describes(&key.PublicKey)
}

// describes refuses a CKA_PUBLIC_KEY_INFO of another key.
func (t template) describes(public crypto.PublicKey) error {
	material, err := keyMaterial(public)
	if err != nil {
		return refuse(CKR_ATTRIBUTE_VALUE_INVALID, "%v", err)
	}
	if len(t[CKA_PUBLIC_KEY_INFO]) == 0 {
		return nil
	}
	return t.mustEqual(CKA_PUBLIC_KEY_INFO, material[CKA_PUBLIC_KEY_INFO])
}
