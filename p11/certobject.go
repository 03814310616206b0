package p11

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"time"

	"github.com/tpm2-p11/tpm2-p11/keystore"
)

// certificateObject is certificate n of a key's chain. The leaf has its key's label and CKA_ID; the others have their common name and
// the SHA-1 of their public key bits.
func (k storedKey) certificateObject(n int) *object {
	c := k.entry.Certificates[n]
	label, id, category := k.entry.Label, k.entry.CKAID, CK_CERTIFICATE_CATEGORY_TOKEN_USER
	if n > 0 {
		label, id, category = c.Subject.CommonName, publicKeyID(c), CK_CERTIFICATE_CATEGORY_AUTHORITY
	}
	a := certificateAttributes(c, true, label, id, category)
	handle, unique := tokenHandle(k.serial, CKO_CERTIFICATE, c.Raw)
	a[CKA_UNIQUE_ID] = []byte(unique)
	return &object{handle: handle, class: CKO_CERTIFICATE, attributes: a, entry: k.entry}
}

// storedCertificate is a certificate of no key of the token's.
func storedCertificate(serial string, e keystore.Entry) *object {
	c, category := e.Certificates[0], e.Secret.Category
	if category == CK_CERTIFICATE_CATEGORY_UNSPECIFIED && c.IsCA {
		category = CK_CERTIFICATE_CATEGORY_AUTHORITY
	}
	a := certificateAttributes(c, true, e.Label, e.CKAID, category)
	a.setBools(true, CKA_MODIFIABLE)
	handle, unique := tokenHandle(serial, CKO_CERTIFICATE, c.Raw)
	a[CKA_UNIQUE_ID] = []byte(unique)
	return &object{handle: handle, class: CKO_CERTIFICATE, attributes: a, entry: e}
}

// certificateAttributes are those of an X.509 certificate (PKCS #11 v3.1, section 4.6.3).
func certificateAttributes(c *x509.Certificate, token bool, label string, id []byte, category uint64) attributes {
	a := common(CKO_CERTIFICATE, token, false, label, id)
	digest := sha1.Sum(c.Raw)
	serial, err := asn1.Marshal(c.SerialNumber)
	if err != nil {
		serial = []byte{} // asn1 marshals every integer
	}
	a[CKA_CERTIFICATE_TYPE] = ulong(CKC_X_509)
	a[CKA_CERTIFICATE_CATEGORY] = ulong(category)
	a[CKA_TRUSTED] = boolean(false)
	a[CKA_VALUE] = c.Raw
	a[CKA_SUBJECT] = c.RawSubject
	a[CKA_ISSUER] = c.RawIssuer
	a[CKA_SERIAL_NUMBER] = serial
	a[CKA_CHECK_VALUE] = digest[:3]
	a[CKA_PUBLIC_KEY_INFO] = c.RawSubjectPublicKeyInfo
	a[CKA_NAME_HASH_ALGORITHM] = ulong(uint64(CKM_SHA_1))
	a[CKA_JAVA_MIDP_SECURITY_DOMAIN] = ulong(0)
	a[CKA_START_DATE], a[CKA_END_DATE] = date(c.NotBefore), date(c.NotAfter)
	for _, empty := range []AttributeType{CKA_URL, CKA_HASH_OF_SUBJECT_PUBLIC_KEY, CKA_HASH_OF_ISSUER_PUBLIC_KEY} {
		a[empty] = []byte{}
	}
	return a
}

// date is a CK_DATE.
func date(t time.Time) []byte {
	text := t.UTC().Format("20060102")
	if len(text) != 8 { // after the year 9999
		return []byte{}
	}
	return []byte(text)
}

// publicKeyID is the key identifier of RFC 5280, section 4.2.1.2, method 1.
func publicKeyID(c *x509.Certificate) []byte {
	var spki struct {
		Algorithm asn1.RawValue
		Bits      asn1.BitString
	}
	if _, err := asn1.Unmarshal(c.RawSubjectPublicKeyInfo, &spki); err != nil {
		return []byte{}
	}
	id := sha1.Sum(spki.Bits.RightAlign())
	return id[:]
}

// storeCertificate puts a certificate beside the key it was issued for, in place of that key's leaf. Its chain stays when the issuer
// is the same. One of no key of the token's is kept by itself.
func (l *library) storeCertificate(s *session, c *x509.Certificate, t template, category uint64) (ObjectHandle, error) {
	if err := s.mayChange(); err != nil {
		return 0, err
	}
	stored, err := l.readAll(s.slot, func(g *keystore.Glance) bool { return !g.Secret || g.Certificate })
	if err != nil {
		return 0, err
	}
	for _, o := range stored {
		if o.class != CKO_PRIVATE_KEY || !o.attributes.match([]Attribute{{CKA_PUBLIC_KEY_INFO, c.RawSubjectPublicKeyInfo}}) {
			continue
		}
		if err := t.mustBe(false, CKA_MODIFIABLE); err != nil {
			return 0, err
		}
		if category != CK_CERTIFICATE_CATEGORY_UNSPECIFIED && category != CK_CERTIFICATE_CATEGORY_TOKEN_USER {
			return 0, refuse(CKR_TEMPLATE_INCONSISTENT, "the certificate of %q is a token user's: its key %q is the token's", c.Subject.String(), o.entry.Label)
		}
		rename := nameFrom(t, o)
		if id := t[CKA_ID]; len(id) > 0 && rename.CKAID == nil && string(id) != string(o.entry.CKAID) {
			return 0, refuse(CKR_TEMPLATE_INCONSISTENT, "the certificate's CKA_ID would be %x, but its key %q has %x", id, o.entry.Label, o.entry.CKAID)
		}
		if err := s.mayName(o, rename.Label); err != nil {
			return 0, err
		}
		chain := []*x509.Certificate{c}
		if before := o.entry.Certificates; len(before) > 1 && string(before[0].RawIssuer) == string(c.RawIssuer) {
			chain = append(chain, before[1:]...)
		}
		defer l.forget(s.slot)
		entry, err := s.slot.token.SetCertificates(o.entry, chain)
		if err != nil {
			return 0, err
		}
		if rename.Label != "" || rename.CKAID != nil {
			if _, err := s.slot.token.SetMetadata(entry, rename); err != nil {
				return 0, err
			}
		}
		handle, _ := tokenHandle(s.slot.token.Serial(), CKO_CERTIFICATE, c.Raw)
		return handle, nil
	}
	return l.keepCertificate(s, stored, c, t, category)
}

// keepCertificate keeps a certificate of nobody's. One that the token has already is called anew.
func (l *library) keepCertificate(s *session, stored []*object, c *x509.Certificate, t template, category uint64) (ObjectHandle, error) {
	if err := t.mustBe(true, CKA_MODIFIABLE); err != nil {
		return 0, err
	}
	label, id := string(t[CKA_LABEL]), append([]byte{}, t[CKA_ID]...)
	handle, _ := tokenHandle(s.slot.token.Serial(), CKO_CERTIFICATE, c.Raw)
	defer l.forget(s.slot)
	if o := withHandle(stored, handle); o != nil && o.entry.Secret != nil {
		if err := named(label); label != "" && err != nil {
			return 0, err
		}
		_, err := s.slot.token.SetMetadata(o.entry, keystore.Metadata{Label: label, CKAID: id})
		return handle, err
	}
	if label == "" {
		if label = c.Subject.CommonName; keystore.CheckLabel(label) != nil {
			label = noLabel
		}
	}
	if err := named(label); err != nil {
		return 0, err
	}
	if len(id) == 0 {
		id = publicKeyID(c)
	}
	_, err := s.slot.token.AddCertificate(l.ctx, c, label, id, category)
	return handle, err
}

// named refuses a label that nothing in a token can have.
func named(label string) error {
	if err := keystore.CheckLabel(label); err != nil {
		return refuse(CKR_ATTRIBUTE_VALUE_INVALID, "%v", err)
	}
	return nil
}

// nameFrom is what a key takes over from its certificate. Java and NSS give a label to the certificate and none to the key, and find
// the key by it. NSS calls the certificate of an RSA key by the SHA-1 of its modulus, and finds the key by that: a CKA_ID that nobody
// chose gives way.
func nameFrom(certificate template, key *object) (m keystore.Metadata) {
	e := key.entry
	if label := string(certificate[CKA_LABEL]); keystore.CheckLabel(label) == nil && (e.Label == noLabel || e.Label == hex.EncodeToString(e.CKAID)) {
		m.Label = label
	}
	if public, ok := key.public.(*rsa.PublicKey); ok {
		byNSS, byUs := sha1.Sum(public.N.Bytes()), sha1.Sum(x509.MarshalPKCS1PublicKey(public))
		if bytes.Equal(certificate[CKA_ID], byNSS[:]) && bytes.Equal(e.CKAID, byUs[:]) {
			m.CKAID = byNSS[:]
		}
	}
	return m
}

// removeCertificate takes a certificate out of every chain it is in, and away where it is by itself. Without its leaf a chain goes as a whole.
func (l *library) removeCertificate(s *slot, der []byte) error {
	entries, err := s.token.Entries()
	if err != nil {
		return err
	}
	defer l.forget(s)
	for _, entry := range entries {
		chain, changed := without(entry, der)
		switch {
		case !changed:
		case entry.Secret != nil:
			err = s.token.Delete(l.ctx, entry, false)
		default:
			_, err = s.token.SetCertificates(entry, chain)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func without(e keystore.Entry, der []byte) (chain []*x509.Certificate, changed bool) {
	for i, c := range e.Certificates {
		switch {
		case string(c.Raw) != string(der):
			chain = append(chain, c)
		case i == 0:
			return nil, true
		default:
			changed = true
		}
	}
	return chain, changed
}
