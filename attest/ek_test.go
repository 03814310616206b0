package attest_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"testing"
	"time"

	"github.com/tpm2-p11/tpm2-p11/attest"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// manufacturer certifies endorsement keys through an intermediate CA.
type manufacturer struct {
	root, issuer *x509.Certificate
	key          *ecdsa.PrivateKey
}

func newManufacturer(t testing.TB) manufacturer {
	t.Helper()
	rootKey, issuerKey := newECKey(t), newECKey(t)
	ca := func(name string, key *ecdsa.PrivateKey, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) *x509.Certificate {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}
		if parent == nil {
			parent = template
		}
		return issue(t, template, parent, key.Public(), parentKey)
	}
	root := ca("root", rootKey, nil, rootKey)
	return manufacturer{root, ca("issuer", issuerKey, root, rootKey), issuerKey}
}

func newECKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func issue(t testing.TB, template, parent *x509.Certificate, key any, signer *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// certify certifies an EK; the subject is empty and its other name, critical, is the TPM's model, as the profile has it.
func (m manufacturer) certify(t testing.TB, key any, change func(*x509.Certificate)) []byte {
	t.Helper()
	model, err := asn1.Marshal(pkix.Name{CommonName: "a model"}.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	directoryName, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: model}})
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		KeyUsage:           x509.KeyUsageKeyEncipherment,
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{{2, 23, 133, 8, 1}},
		ExtraExtensions:    []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: directoryName}},
	}
	change(template)
	return issue(t, template, m.issuer, key, m.key).Raw
}

func TestAnEndorsementKeysCertificate(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	m, other := newManufacturer(t), newManufacturer(t)
	ek, err := h.EndorsementKey(t.Context(), provider.P256)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ek.Public.Key()
	if err != nil {
		t.Fatal(err)
	}
	trusted := []*x509.Certificate{m.root, m.issuer}
	same := func(*x509.Certificate) {}
	for name, c := range map[string]struct {
		key     any
		change  func(*x509.Certificate)
		issuers []*x509.Certificate
		at      time.Time
		good    bool
	}{
		"good":                        {key, same, trusted, now, true},
		"without extended usage":      {key, func(c *x509.Certificate) { c.UnknownExtKeyUsage = nil }, trusted, now, true},
		"another key's":               {newECKey(t).Public(), same, trusted, now, false},
		"another manufacturer":        {key, same, []*x509.Certificate{other.root, other.issuer}, now, false},
		"nobody is trusted":           {key, same, nil, now, false},
		"the intermediate is no root": {key, same, []*x509.Certificate{m.issuer}, now, false},
		"expired":                     {key, same, trusted, now.Add(2 * time.Hour), false},
		"for something else": {key, func(c *x509.Certificate) {
			c.UnknownExtKeyUsage, c.ExtKeyUsage = nil, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}, trusted, now, false},
		"a CA's":                          {key, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }, trusted, now, false},
		"with another critical extension": {key, func(c *x509.Certificate) { c.ExtraExtensions = append(c.ExtraExtensions, criticalExtension) }, trusted, now, false},
	} {
		ek.Certificate = m.certify(t, c.key, c.change)
		if err := attest.VerifyEK(ek, c.issuers, c.at); (err == nil) != c.good || err != nil && !errors.Is(err, attest.ErrEK) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, der := range map[string][]byte{"none": nil, "nonsense": []byte("x")} {
		ek.Certificate = der
		if err := attest.VerifyEK(ek, trusted, now); !errors.Is(err, attest.ErrEK) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
