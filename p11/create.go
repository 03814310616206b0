package p11

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"maps"
	"math/big"

	"github.com/tpm2-p11/tpm2-p11/keystore"
)

// What the templates of objects may say.
var (
	storageAttributes = []AttributeType{CKA_CLASS, CKA_TOKEN, CKA_PRIVATE, CKA_MODIFIABLE, CKA_COPYABLE, CKA_DESTROYABLE, CKA_LABEL, CKA_ID}

	certificateTemplate = []AttributeType{
		CKA_CERTIFICATE_TYPE, CKA_CERTIFICATE_CATEGORY, CKA_TRUSTED, CKA_VALUE, CKA_SUBJECT, CKA_ISSUER, CKA_SERIAL_NUMBER,
		CKA_CHECK_VALUE, CKA_PUBLIC_KEY_INFO, CKA_START_DATE, CKA_END_DATE, CKA_JAVA_MIDP_SECURITY_DOMAIN,
	}
	publicKeyTemplate = []AttributeType{
		CKA_KEY_TYPE, CKA_SUBJECT, CKA_START_DATE, CKA_END_DATE, CKA_DERIVE, CKA_TRUSTED,
		CKA_ENCRYPT, CKA_VERIFY, CKA_VERIFY_RECOVER, CKA_WRAP,
	}
	rsaPublicTemplate = []AttributeType{CKA_MODULUS, CKA_MODULUS_BITS, CKA_PUBLIC_EXPONENT, CKA_PUBLIC_KEY_INFO}
	ecPublicTemplate  = []AttributeType{CKA_EC_PARAMS, CKA_EC_POINT, CKA_PUBLIC_KEY_INFO}
)

// CreateObject is C_CreateObject (PKCS #11 v3.1, section 5.7). It takes public keys and certificates as session objects, certificates
// as token objects too, private keys as token objects, which the TPM imports, and secret keys and data as either.
func (m *Module) CreateObject(h SessionHandle, list []Attribute) (created ObjectHandle, err error) {
	s, err := m.session(h)
	if err != nil {
		return 0, err
	}
	defer s.lib.report("C_CreateObject", &err)
	t, err := parseTemplate(list)
	if err != nil {
		return 0, err
	}
	if !t.has(CKA_CLASS) {
		return 0, CKR_TEMPLATE_INCOMPLETE
	}
	class, err := t.ulong(CKA_CLASS, 0)
	if err != nil {
		return 0, err
	}
	token, err := t.bool(CKA_TOKEN, false)
	if err != nil {
		return 0, err
	}
	switch ObjectClass(class) {
	case CKO_PRIVATE_KEY:
		return s.createPrivateKey(t)
	case CKO_SECRET_KEY:
		value := t.secret(CKA_VALUE)
		if value.Len() == 0 {
			return 0, CKR_TEMPLATE_INCOMPLETE
		}
		return s.makeSecretKey(t, value, origin{})
	case CKO_DATA:
		return s.createData(t, t.secret(CKA_VALUE))
	}
	copyable, err := t.bool(CKA_COPYABLE, !token)
	if err != nil {
		return 0, err
	}
	if copyable && token {
		return 0, refuse(CKR_TEMPLATE_INCONSISTENT, "token objects are not copied: CKA_COPYABLE can only be false")
	}
	if err := t.mustBe(false, CKA_PRIVATE); err != nil {
		return 0, err
	}
	if err := t.mustBe(true, CKA_DESTROYABLE); err != nil {
		return 0, err
	}
	switch ObjectClass(class) {
	case CKO_CERTIFICATE:
		return s.createCertificate(t, token, copyable)
	case CKO_PUBLIC_KEY:
		return s.createPublicKey(t, token, copyable)
	}
	return 0, refuse(CKR_TEMPLATE_INCONSISTENT, "objects of class %d cannot be created", class)
}

func (s *session) createCertificate(t template, token, copyable bool) (ObjectHandle, error) {
	if err := t.only(storageAttributes, certificateTemplate); err != nil {
		return 0, err
	}
	if !t.has(CKA_VALUE) || !t.has(CKA_CERTIFICATE_TYPE) {
		return 0, CKR_TEMPLATE_INCOMPLETE
	}
	c, err := x509.ParseCertificate(t[CKA_VALUE])
	if err != nil {
		return 0, refuse(CKR_ATTRIBUTE_VALUE_INVALID, "the certificate cannot be read: %v", err)
	}
	category, err := t.ulong(CKA_CERTIFICATE_CATEGORY, CK_CERTIFICATE_CATEGORY_UNSPECIFIED)
	if err != nil {
		return 0, err
	}
	a := certificateAttributes(c, token, string(t[CKA_LABEL]), t[CKA_ID], category)
	for _, described := range []AttributeType{
		CKA_CERTIFICATE_TYPE, CKA_TRUSTED, CKA_SUBJECT, CKA_ISSUER, CKA_CHECK_VALUE, CKA_PUBLIC_KEY_INFO, CKA_START_DATE, CKA_END_DATE, CKA_JAVA_MIDP_SECURITY_DOMAIN,
	} {
		if len(t[described]) > 0 {
			if err := t.mustEqual(described, a[described]); err != nil {
				return 0, err
			}
		}
	}
	// The standard wants an INTEGER; Java gives its contents.
	var serial asn1.RawValue
	if _, err := asn1.Unmarshal(a[CKA_SERIAL_NUMBER], &serial); err != nil {
		return 0, err
	}
	if n := t[CKA_SERIAL_NUMBER]; len(n) > 0 && !bytes.Equal(n, serial.FullBytes) && !bytes.Equal(bytes.TrimLeft(n, "\x00"), bytes.TrimLeft(serial.Bytes, "\x00")) {
		return 0, refuse(CKR_TEMPLATE_INCONSISTENT, "CKA_SERIAL_NUMBER %x: the certificate's is %d", n, c.SerialNumber)
	}
	if category > CK_CERTIFICATE_CATEGORY_OTHER {
		return 0, refuse(CKR_ATTRIBUTE_VALUE_INVALID, "certificate category %d", category)
	}
	if token {
		return s.lib.storeCertificate(s, c, t, category)
	}
	modifiable, err := t.bool(CKA_MODIFIABLE, true)
	if err != nil {
		return 0, err
	}
	a[CKA_COPYABLE], a[CKA_MODIFIABLE] = boolean(copyable), boolean(modifiable)
	return s.add(&object{class: CKO_CERTIFICATE, attributes: a})
}

func (s *session) createPublicKey(t template, token, copyable bool) (ObjectHandle, error) {
	kind, err := t.ulong(CKA_KEY_TYPE, CK_UNAVAILABLE_INFORMATION)
	if err != nil {
		return 0, err
	}
	o := &object{class: CKO_PUBLIC_KEY}
	switch kind {
	case CKK_RSA:
		o.public, err = rsaPublic(t)
	case CKK_EC:
		o.public, err = ecPublic(t)
	case CK_UNAVAILABLE_INFORMATION:
		return 0, CKR_TEMPLATE_INCOMPLETE
	default:
		return 0, refuse(CKR_TEMPLATE_INCONSISTENT, "keys of type %d are not offered", kind)
	}
	if err != nil {
		return 0, err
	}
	material, err := keyMaterial(o.public)
	if err != nil {
		return 0, refuse(CKR_ATTRIBUTE_VALUE_INVALID, "%v", err)
	}
	if err := t.mustEqual(CKA_PUBLIC_KEY_INFO, material[CKA_PUBLIC_KEY_INFO]); err != nil {
		return 0, err
	}
	if token {
		return s.storedHalf(t, material[CKA_PUBLIC_KEY_INFO])
	}
	modifiable, err := t.bool(CKA_MODIFIABLE, true)
	if err != nil {
		return 0, err
	}
	if err := t.mustBe(false, CKA_TRUSTED, CKA_WRAP, CKA_DERIVE); err != nil {
		return 0, err
	}
	o.attributes = common(CKO_PUBLIC_KEY, false, false, string(t[CKA_LABEL]), t[CKA_ID])
	maps.Copy(o.attributes, material)
	o.attributes[CKA_COPYABLE], o.attributes[CKA_MODIFIABLE] = boolean(copyable), boolean(modifiable)
	o.attributes.setBools(false, CKA_TRUSTED, CKA_WRAP, CKA_DERIVE, CKA_LOCAL)
	o.attributes[CKA_KEY_GEN_MECHANISM] = ulong(CK_UNAVAILABLE_INFORMATION)
	for _, kept := range []AttributeType{CKA_SUBJECT, CKA_START_DATE, CKA_END_DATE} {
		o.attributes[kept] = append([]byte{}, t[kept]...)
	}
	if key, ok := o.public.(*rsa.PublicKey); ok {
		o.attributes[CKA_MODULUS_BITS] = ulong(uint64(key.N.BitLen()))
	}
	for use, otherwise := range map[AttributeType]bool{CKA_VERIFY: true, CKA_ENCRYPT: kind == CKK_RSA, CKA_VERIFY_RECOVER: kind == CKK_RSA} {
		allowed, err := t.bool(use, otherwise)
		if err != nil {
			return 0, err
		}
		o.attributes[use] = boolean(allowed)
	}
	return s.add(o)
}

// storedHalf is the public half of a key of the token. NSS brings it after the private one, with which it came, and asks of every key
// that it wraps or derives: what a key is for its own attributes say.
func (s *session) storedHalf(t template, spki []byte) (ObjectHandle, error) {
	stored, err := s.lib.readAll(s.slot, func(g *keystore.Glance) bool { return !g.Secret })
	if err != nil {
		return 0, err
	}
	wanted := []Attribute{{CKA_PUBLIC_KEY_INFO, spki}}
	for _, a := range []AttributeType{CKA_ID, CKA_LABEL, CKA_SUBJECT, CKA_TRUSTED, CKA_MODIFIABLE, CKA_START_DATE, CKA_END_DATE, CKA_ALLOWED_MECHANISMS} {
		if len(t[a]) > 0 {
			wanted = append(wanted, Attribute{a, t[a]})
		}
	}
	for _, o := range stored {
		if o.class == CKO_PUBLIC_KEY && o.attributes.match(wanted) {
			return o.handle, s.mayChange()
		}
	}
	return 0, refuse(CKR_TEMPLATE_INCONSISTENT, "public keys are kept with their private keys only, and as those are; this one can be a session object")
}

// The RSA keys that are verified with, in bits.
const (
	leastRSABits = 1024
	mostRSABits  = 16384
)

func rsaPublic(t template) (*rsa.PublicKey, error) {
	if err := t.only(storageAttributes, publicKeyTemplate, rsaPublicTemplate); err != nil {
		return nil, err
	}
	if !t.has(CKA_MODULUS) || !t.has(CKA_PUBLIC_EXPONENT) {
		return nil, CKR_TEMPLATE_INCOMPLETE
	}
	n, e := new(big.Int).SetBytes(t[CKA_MODULUS]), new(big.Int).SetBytes(t[CKA_PUBLIC_EXPONENT])
	if n.BitLen() < leastRSABits || n.BitLen() > mostRSABits || n.Bit(0) == 0 {
		return nil, refuse(CKR_ATTRIBUTE_VALUE_INVALID, "an RSA modulus is an odd number of %d to %d bits", leastRSABits, mostRSABits)
	}
	if e.BitLen() < 2 || e.BitLen() > 31 || e.Bit(0) == 0 {
		return nil, refuse(CKR_ATTRIBUTE_VALUE_INVALID, "an RSA public exponent is an odd number from 3 to 2^31-1")
	}
	if err := t.mustEqual(CKA_MODULUS_BITS, ulong(uint64(n.BitLen()))); err != nil {
		return nil, err
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
}

func ecPublic(t template) (*ecdsa.PublicKey, error) {
	if err := t.only(storageAttributes, publicKeyTemplate, ecPublicTemplate); err != nil {
		return nil, err
	}
	if !t.has(CKA_EC_PARAMS) || !t.has(CKA_EC_POINT) {
		return nil, CKR_TEMPLATE_INCOMPLETE
	}
	curve, err := parseCurve(t[CKA_EC_PARAMS])
	if err != nil {
		return nil, err
	}
	return ecPoint(curve, t[CKA_EC_POINT])
}

// parsePoint reads a point, as it is or as an OCTET STRING. One of 256 points looks like an OCTET STRING itself; a point's OCTET STRING is
// longer than a point.
func parsePoint(curve elliptic.Curve, point []byte) (*ecdsa.PublicKey, error) {
	key, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err == nil {
		return key, nil
	}
	var contents []byte
	if rest, no := asn1.Unmarshal(point, &contents); no != nil || len(rest) > 0 {
		return nil, err
	}
	return ecdsa.ParseUncompressedPublicKey(curve, contents)
}

// ecPoint reads a CKA_EC_POINT, which is an OCTET STRING; some applications give its contents alone.
func ecPoint(curve elliptic.Curve, point []byte) (*ecdsa.PublicKey, error) {
	key, err := parsePoint(curve, point)
	if err != nil {
		return nil, refuse(CKR_ATTRIBUTE_VALUE_INVALID, "the EC point cannot be read: %v", err)
	}
	return key, nil
}
