// Package nsm plays the Nitro hypervisor's part for an emulated machine: a
// certificate authority of its own, and attestation documents that it signs.
//
// Nothing outside the emulator and tests trusts it.
package nsm

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"
)

// Issuer is a certificate and its key.
type Issuer struct {
	Certificate *x509.Certificate
	Key         *ecdsa.PrivateKey
}

// Authority is an attestation PKI in the shape of AWS's: root, region, zone,
// instance; each document gets a leaf of its own.
type Authority struct {
	Instance string // "i-…"
	Region   string
	// Chain is root, region, zone, instance.
	Chain []Issuer
}

// LeafLifetime is how long a document's certificate is valid.
const LeafLifetime = 3 * time.Hour

// New makes an authority for one instance; its certificates are valid from
// an hour before now.
func New(instance, region string, now time.Time) (*Authority, error) {
	a := &Authority{Instance: instance, Region: region}
	return a, a.issue(now)
}

// Renew replaces all certificates below the root when a leaf made at now would
// outlive them, as AWS does long before.
func (a *Authority) Renew(now time.Time) error {
	if a.Chain[len(a.Chain)-1].Certificate.NotAfter.After(now.Add(LeafLifetime)) {
		return nil
	}
	a.Chain = a.Chain[:1]
	return a.issue(now)
}

// issue makes the certificates that the chain lacks.
func (a *Authority) issue(now time.Time) error {
	from := now.Add(-time.Hour)
	for _, level := range []struct {
		name     string
		pathLen  int
		lifetime time.Duration
	}{
		{"nitro-sim.nitro-enclaves", -1, 30 * 365 * 24 * time.Hour},
		{"sim." + a.Region + ".nitro-sim.nitro-enclaves", 2, 20 * 24 * time.Hour},
		{"sim.zonal." + a.Region + ".nitro-sim.nitro-enclaves", 1, 6 * 24 * time.Hour},
		{a.Instance + "." + a.Region + ".nitro-sim.nitro-enclaves", 0, 24 * time.Hour},
	}[len(a.Chain):] {
		template := Template(level.name, from, from.Add(level.lifetime))
		template.IsCA, template.BasicConstraintsValid = true, true
		template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
		template.MaxPathLen, template.MaxPathLenZero = level.pathLen, level.pathLen == 0
		var parent *Issuer
		if n := len(a.Chain); n > 0 {
			parent = &a.Chain[n-1]
		}
		issuer, err := Issue(template, parent, elliptic.P384())
		if err != nil {
			return err
		}
		a.Chain = append(a.Chain, issuer)
	}
	return nil
}

// Root is the certificate that verifiers of this authority trust.
func (a *Authority) Root() *x509.Certificate { return a.Chain[0].Certificate }

// ModuleID is the emulated TPM's module id.
func (a *Authority) ModuleID() string { return a.Instance + "-tpm0000000000000000" }

// Leaf makes the certificate and key of one document.
func (a *Authority) Leaf(now time.Time) (Issuer, error) {
	template := Template(a.ModuleID()+"."+a.Region+".aws", now.Add(-3*time.Second), now.Add(LeafLifetime))
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment
	return Issue(template, &a.Chain[len(a.Chain)-1], elliptic.P384())
}

// Bundle is a document's cabundle: root first, DER.
func (a *Authority) Bundle() [][]byte {
	var bundle [][]byte
	for _, issuer := range a.Chain {
		bundle = append(bundle, issuer.Certificate.Raw)
	}
	return bundle
}

// Template is a certificate with a name, a random serial number and a validity.
func Template(commonName string, from, to time.Time) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		panic(err) // the kernel's generator does not fail
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: commonName, OrganizationalUnit: []string{"nitro-sim"}, Organization: []string{"nitro-sim"}, Country: []string{"US"}},
		NotBefore:    from, NotAfter: to,
	}
}

// Issue makes a key on a curve and its certificate, signed by parent, or by itself when there is none.
func Issue(template *x509.Certificate, parent *Issuer, curve elliptic.Curve) (Issuer, error) {
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		return Issuer{}, err
	}
	if parent == nil {
		parent = &Issuer{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent.Certificate, key.Public(), parent.Key)
	if err != nil {
		return Issuer{}, fmt.Errorf("issuing %q: %w", template.Subject.CommonName, err)
	}
	certificate, err := x509.ParseCertificate(der)
	return Issuer{certificate, key}, err
}
