package provider

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
)

// KeyType names an algorithm and size.
type KeyType string

// The key types; ParseKeyType also takes "rsa" (RSA2048) and "ec" (P256).
const (
	RSA2048 KeyType = "rsa2048"
	RSA3072 KeyType = "rsa3072"
	RSA4096 KeyType = "rsa4096"
	P256    KeyType = "p256"
	P384    KeyType = "p384"
	P521    KeyType = "p521"
)

// KeyTypes are all key types.
func KeyTypes() []KeyType { return []KeyType{RSA2048, RSA3072, RSA4096, P256, P384, P521} }

// EC tells the types of elliptic-curve keys. Which of them a TPM has it says itself (TPM.Supports).
func (k KeyType) EC() bool { return k == P256 || k == P384 || k == P521 }

// ParseKeyType reads a key type.
func ParseKeyType(s string) (KeyType, error) {
	switch k := KeyType(strings.ToLower(s)); k {
	case "rsa":
		return RSA2048, nil
	case "ec":
		return P256, nil
	default:
		if slices.Contains(KeyTypes(), k) {
			return k, nil
		}
	}
	return "", fmt.Errorf("%w: key type %q: there are %v", ErrUnsupported, s, KeyTypes())
}

// parameters are a key type's TPMT_PUBLIC_PARMS, all schemes TPM_ALG_NULL so that they are chosen at use.
func (k KeyType) parameters() (tpm2.TPMIAlgPublic, tpm2.TPMUPublicParms, error) {
	switch k {
	case RSA2048:
		return tpm2.TPMAlgRSA, rsaParameters(2048, 0), nil
	case RSA3072:
		return tpm2.TPMAlgRSA, rsaParameters(3072, 0), nil
	case RSA4096:
		return tpm2.TPMAlgRSA, rsaParameters(4096, 0), nil
	case P256:
		return tpm2.TPMAlgECC, eccParameters(tpm2.TPMECCNistP256), nil
	case P384:
		return tpm2.TPMAlgECC, eccParameters(tpm2.TPMECCNistP384), nil
	case P521:
		return tpm2.TPMAlgECC, eccParameters(tpm2.TPMECCNistP521), nil
	}
	return 0, tpm2.TPMUPublicParms{}, fmt.Errorf("%w: key type %q", ErrUnsupported, string(k))
}

// rsaParameters are an RSA key's. Exponent 0 is the default one, 65537.
func rsaParameters(bits tpm2.TPMKeyBits, exponent uint32) tpm2.TPMUPublicParms {
	return tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
		Symmetric: tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull},
		Scheme:    tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgNull},
		KeyBits:   bits,
		Exponent:  exponent,
	})
}

func eccParameters(curve tpm2.TPMECCCurve) tpm2.TPMUPublicParms {
	return tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
		Symmetric: tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull},
		Scheme:    tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgNull},
		CurveID:   curve,
		KDF:       tpm2.TPMTKDFScheme{Scheme: tpm2.TPMAlgNull},
	})
}

// Use says what a key may do. An elliptic-curve key derives, an RSA key decrypts: to a TPM these are one.
type Use struct{ Sign, Decrypt, Derive bool }

// ParseUse reads "sign", "decrypt", "derive", or two of them with a comma.
func ParseUse(s string) (Use, error) {
	var u Use
	for word := range strings.SplitSeq(s, ",") {
		switch strings.TrimSpace(word) {
		case "sign":
			u.Sign = true
		case "decrypt":
			u.Decrypt = true
		case "derive":
			u.Derive = true
		default:
			return Use{}, fmt.Errorf("use %q: there are sign, decrypt (RSA keys), derive (elliptic-curve keys), and sign with one of these", s)
		}
	}
	return u, nil
}

// Template says what key to make.
type Template struct {
	Type KeyType
	Use  Use
	// AuthPolicy is a policy digest (SHA-256), empty for none. With one, userWithAuth is clear and adminWithPolicy set.
	AuthPolicy []byte
	// DictionaryAttack puts the key under the TPM's lockout logic (noDA clear): for auth values people choose.
	DictionaryAttack bool
}

// MaxAuthValue is the most an authValue holds, in bytes: a digest of the object's nameAlg.
const MaxAuthValue = sha256.Size

// check refuses what no TPM would make as it was meant.
func (tmpl Template) check(authValue *secret.Bytes) error {
	if n := len(tmpl.AuthPolicy); n != 0 && n != sha256.Size {
		return fmt.Errorf("%w: a policy digest of %d bytes: it has %d", ErrUnsupported, n, sha256.Size)
	}
	if n := authValue.Len(); n > MaxAuthValue {
		return fmt.Errorf("%w: an authValue of %d bytes: it has %d at most", ErrUnsupported, n, MaxAuthValue)
	}
	return nil
}

// attributes are those that follow from the template for every kind of object. With userWithAuth set a policy would be
// decoration: the empty password would do.
func (tmpl Template) attributes() tpm2.TPMAObject {
	bound := len(tmpl.AuthPolicy) > 0
	return tpm2.TPMAObject{
		UserWithAuth:    !bound,
		AdminWithPolicy: bound,
		NoDA:            !tmpl.DictionaryAttack,
	}
}

// keyArea is the public area of a key to be made.
func (tmpl Template) keyArea(kind tpm2.TPMIAlgPublic, parms tpm2.TPMUPublicParms) (tpm2.TPMTPublic, error) {
	switch rsa := kind == tpm2.TPMAlgRSA; {
	case tmpl.Use == Use{}:
		return tpm2.TPMTPublic{}, fmt.Errorf("%w: a key that may neither sign nor decrypt nor derive", ErrWrongUse)
	case rsa && tmpl.Use.Derive:
		return tpm2.TPMTPublic{}, fmt.Errorf("%w: RSA keys do not derive", ErrWrongUse)
	}
	attrs := tmpl.attributes()
	attrs.SignEncrypt = tmpl.Use.Sign
	attrs.Decrypt = tmpl.Use.Decrypt || tmpl.Use.Derive
	area := tpm2.TPMTPublic{
		Type:             kind,
		NameAlg:          tpm2.TPMAlgSHA256,
		ObjectAttributes: attrs,
		AuthPolicy:       tpm2.TPM2BDigest{Buffer: tmpl.AuthPolicy},
		Parameters:       parms,
		Unique:           tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
	}
	if kind == tpm2.TPMAlgRSA {
		area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{})
	}
	return area, nil
}
