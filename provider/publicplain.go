package provider

import (
	"bytes"

	"github.com/google/go-tpm/tpm2"
)

// Bits of TPMA_OBJECT (TPM 2.0 Part 2, section 8.3).
const (
	bitFixedTPM            = 1 << 1
	bitSTClear             = 1 << 2
	bitFixedParent         = 1 << 4
	bitSensitiveDataOrigin = 1 << 5
	bitUserWithAuth        = 1 << 6
	bitAdminWithPolicy     = 1 << 7
	bitNoDA                = 1 << 10
	bitDecrypt             = 1 << 17
	bitSign                = 1 << 18

	plainBits = bitFixedTPM | bitSTClear | bitFixedParent | bitSensitiveDataOrigin | bitUserWithAuth | bitAdminWithPolicy | bitNoDA |
		bitDecrypt | bitSign
)

// readPlain reads the public area of an ordinary key: RSA or on a curve, for no scheme and no symmetric algorithm, with attributes that
// such keys have. It is all that a store of a thousand keys has a thousand of, and go-tpm takes a hundred times as long for one, by
// reflection. Whatever else the bytes are, they are not plain, and left to go-tpm: what this reads, it reads as that does.
func readPlain(b []byte) (area tpm2.TPMTPublic, plain bool) {
	r := reader{b: b}
	area.Type, area.NameAlg = tpm2.TPMIAlgPublic(r.u16()), tpm2.TPMIAlgHash(r.u16())
	bits := r.u32()
	area.AuthPolicy.Buffer = bytes.Clone(r.sized())
	null := func() bool { return tpm2.TPMAlgID(r.u16()) == tpm2.TPMAlgNull }
	if bits&^plainBits != 0 || !null() || !null() { // symmetric, scheme
		return area, false
	}
	area.ObjectAttributes = tpm2.TPMAObject{
		FixedTPM: bits&bitFixedTPM != 0, STClear: bits&bitSTClear != 0, FixedParent: bits&bitFixedParent != 0,
		SensitiveDataOrigin: bits&bitSensitiveDataOrigin != 0, UserWithAuth: bits&bitUserWithAuth != 0,
		AdminWithPolicy: bits&bitAdminWithPolicy != 0, NoDA: bits&bitNoDA != 0, Decrypt: bits&bitDecrypt != 0, SignEncrypt: bits&bitSign != 0,
	}
	switch area.Type {
	case tpm2.TPMAlgRSA:
		keyBits, exponent := r.u16(), r.u32()
		modulus := tpm2.TPM2BPublicKeyRSA{Buffer: bytes.Clone(r.sized())}
		area.Parameters = rsaParameters(tpm2.TPMKeyBits(keyBits), exponent)
		area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &modulus)
	case tpm2.TPMAlgECC:
		curve := r.u16()
		if !null() { // key derivation
			return area, false
		}
		point := tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: bytes.Clone(r.sized())}, Y: tpm2.TPM2BECCParameter{Buffer: bytes.Clone(r.sized())},
		}
		area.Parameters = eccParameters(tpm2.TPMECCCurve(curve))
		area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &point)
	default:
		return area, false
	}
	return area, r.end() == nil
}
