package p11

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"maps"
	"math/big"
	"sync"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/signer"
)

// storedKey is a key of the store and what its objects are made of.
type storedKey struct {
	store    *keystore.Token
	serial   string // of its token
	hasPIN   bool
	entry    keystore.Entry
	public   crypto.PublicKey
	material attributes
	use      *use
	offered  mechanismTable
}

// privateObject is the private half. What is said of its origin follows from the TPM's public area, which the key's Name binds, and
// from nothing that a file could claim.
func (k storedKey) privateObject() *object {
	private, use := k.private(), k.use
	use.Derive = use.Derive && !k.entry.AsksOwnPIN() // C_DeriveKey has no place for that PIN
	a := k.attributes(CKO_PRIVATE_KEY, private)
	tpm := k.entry.Object.Public.Attributes()
	born := tpm.FixedTPM && tpm.SensitiveDataOrigin
	a.setBools(true, CKA_SENSITIVE)
	a.setBools(false, CKA_WRAP_WITH_TRUSTED)
	a[CKA_SIGN_RECOVER] = boolean(len(k.offered.of(use, k.public, CKF_SIGN_RECOVER)) > 0)
	a.setBools(born, CKA_ALWAYS_SENSITIVE, CKA_NEVER_EXTRACTABLE)
	a[CKA_EXTRACTABLE] = boolean(k.extractable())
	a[CKA_SIGN] = boolean(use.Sign)
	a[CKA_DECRYPT] = boolean(use.Decrypt)
	a[CKA_DERIVE] = boolean(use.Derive)
	a[CKA_ALWAYS_AUTHENTICATE] = boolean(k.entry.AsksOwnPIN())
	a[CKA_UNWRAP] = boolean(len(k.offered.of(use, k.public, CKF_UNWRAP)) > 0)
	a[CKA_ALLOWED_MECHANISMS] = mechanismList(k.offered.of(use, k.public, CKF_SIGN|CKF_DECRYPT|CKF_DERIVE|CKF_UNWRAP))
	a[CKA_TPM2_POLICY] = policyText(k.entry)
	o, store := k.object(CKO_PRIVATE_KEY, private, a), k.store
	o.key = sync.OnceValues(func() (*signer.Key, error) { return signer.ForEntry(store, o.entry, nil) })
	return o
}

// extractable tells whether the TPM would let the key go. TPM2_Duplicate wants a policy that is for it by name: without one no key leaves
// its TPM.
func (k storedKey) extractable() bool {
	tpm := k.entry.Object.Public.Attributes()
	if tpm.FixedTPM && tpm.FixedParent || len(k.entry.Object.Public.AuthPolicy()) == 0 {
		return false
	}
	return k.entry.Policy.IsZero() || k.entry.Policy.MayAllow(tpm2.TPMCCDuplicate)
}

// private tells whether the private half shows after a login only: where no PIN can be asked for, nobody needs one to see the key, nor
// to use it. The standard wants keys with CKA_ALWAYS_AUTHENTICATE private (PKCS #11 v3.2, section 4.9).
func (k storedKey) private() bool {
	return k.hasPIN && k.entry.TakesPIN() || k.entry.AsksOwnPIN()
}

// publicObject is the public half. It comes and goes with the private one.
func (k storedKey) publicObject() *object {
	a := k.attributes(CKO_PUBLIC_KEY, false)
	if key, ok := k.public.(*rsa.PublicKey); ok {
		a[CKA_MODULUS_BITS] = ulong(uint64(key.N.BitLen()))
	}
	a.setBools(false, CKA_TRUSTED, CKA_WRAP, CKA_DESTROYABLE)
	a[CKA_VERIFY_RECOVER] = boolean(len(k.offered.of(k.use, k.public, CKF_VERIFY_RECOVER)) > 0)
	a[CKA_VERIFY] = boolean(k.use.Sign)
	a[CKA_ENCRYPT] = boolean(k.use.Decrypt)
	a[CKA_ALLOWED_MECHANISMS] = mechanismList(k.offered.of(k.use, k.public, CKF_VERIFY|CKF_ENCRYPT))
	return k.object(CKO_PUBLIC_KEY, false, a)
}

// attributes are what both halves have.
func (k storedKey) attributes(class ObjectClass, private bool) attributes {
	a := common(class, true, private, k.entry.Label, k.entry.CKAID)
	maps.Copy(a, k.material)
	tpm := k.entry.Object.Public.Attributes()
	born := tpm.FixedTPM && tpm.SensitiveDataOrigin
	a[CKA_LOCAL] = boolean(born)
	a[CKA_KEY_GEN_MECHANISM] = ulong(CK_UNAVAILABLE_INFORMATION)
	if born {
		a[CKA_KEY_GEN_MECHANISM] = ulong(uint64(generationOf(k.public)))
	}
	a[CKA_DERIVE] = boolean(false)
	a[CKA_START_DATE], a[CKA_END_DATE] = []byte{}, []byte{}
	a[CKA_SUBJECT] = append([]byte{}, k.entry.Subject...)
	if chain := k.entry.Certificates; len(chain) > 0 {
		a[CKA_SUBJECT] = chain[0].RawSubject
	}
	a[CKA_TPM2_NAME] = k.entry.Object.Public.Name()
	return a
}

func (k storedKey) object(class ObjectClass, private bool, a attributes) *object {
	handle, unique := tokenHandle(k.serial, class, k.entry.Object.Public.Name())
	a[CKA_UNIQUE_ID] = []byte(unique)
	return &object{handle: handle, class: class, private: private, attributes: a, public: k.public, tpm: k.use, entry: k.entry}
}

// keyMaterial are the attributes that a public key has in both halves. The point is no attribute of an EC private key in the standard,
// but libp11 and others look for it there.
func keyMaterial(public crypto.PublicKey) (attributes, error) {
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	a := attributes{CKA_PUBLIC_KEY_INFO: spki}
	switch key := public.(type) {
	case *rsa.PublicKey:
		a[CKA_KEY_TYPE] = ulong(CKK_RSA)
		a[CKA_MODULUS] = key.N.Bytes()
		a[CKA_PUBLIC_EXPONENT] = big.NewInt(int64(key.E)).Bytes()
	case *ecdsa.PublicKey:
		a[CKA_KEY_TYPE] = ulong(CKK_EC)
		if a[CKA_EC_PARAMS], err = curveOID(key.Curve); err != nil {
			return nil, err
		}
		point, err := key.Bytes()
		if err != nil {
			return nil, err
		}
		if a[CKA_EC_POINT], err = asn1.Marshal(point); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("keys of type %T are not offered", public)
	}
	return a, nil
}

// curves are the named curves (RFC 5480, section 2.1.1.1) that signatures can be checked on here.
var curves = []struct {
	curve elliptic.Curve
	oid   asn1.ObjectIdentifier
}{
	{elliptic.P256(), asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}},
	{elliptic.P384(), asn1.ObjectIdentifier{1, 3, 132, 0, 34}},
	{elliptic.P521(), asn1.ObjectIdentifier{1, 3, 132, 0, 35}},
}

func curveOID(c elliptic.Curve) ([]byte, error) {
	for _, known := range curves {
		if known.curve == c {
			return asn1.Marshal(known.oid)
		}
	}
	return nil, CKR_CURVE_NOT_SUPPORTED
}

// parseCurve reads CKA_EC_PARAMS: the OID of a named curve.
func parseCurve(params []byte) (elliptic.Curve, error) {
	var oid asn1.ObjectIdentifier
	if rest, err := asn1.Unmarshal(params, &oid); err == nil && len(rest) == 0 {
		for _, known := range curves {
			if known.oid.Equal(oid) {
				return known.curve, nil
			}
		}
	}
	return nil, CKR_CURVE_NOT_SUPPORTED
}
