package attest

import (
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tpm2-p11/tpm2-p11/provider"
)

// ErrEK is an endorsement key whose certificate does not prove that it is of a TPM of the trusted manufacturers.
var ErrEK = errors.New("endorsement key is not certified")

var (
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidEKCertificate  = asn1.ObjectIdentifier{2, 23, 133, 8, 1} // tcg-kp-EKCertificate
)

// VerifyEK checks an endorsement key's certificate as the TCG's EK Credential
// Profile describes it, at a time (zero: now). issuers are the manufacturers'
// certificates that are trusted; those that signed themselves are the roots.
func VerifyEK(ek provider.EK, issuers []*x509.Certificate, now time.Time) error {
	if len(ek.Certificate) == 0 {
		return fmt.Errorf("%w: there is no certificate", ErrEK)
	}
	c, err := x509.ParseCertificate(ek.Certificate)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrEK, err)
	}
	key, err := ek.Public.Key()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrEK, err)
	}
	if own, ok := key.(interface{ Equal(crypto.PublicKey) bool }); !ok || !own.Equal(c.PublicKey) {
		return fmt.Errorf("%w: the certificate is another key's", ErrEK)
	}
	if c.IsCA {
		return fmt.Errorf("%w: the certificate is a CA's", ErrEK)
	}
	if restricted := len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) > 0; restricted && !slices.ContainsFunc(c.UnknownExtKeyUsage, oidEKCertificate.Equal) {
		return fmt.Errorf("%w: the certificate is not for an endorsement key", ErrEK)
	}
	// The subject's other name is the TPM's model, in a form that crypto/x509
	// does not know and that nothing here depends on.
	c.UnhandledCriticalExtensions = slices.DeleteFunc(c.UnhandledCriticalExtensions, oidSubjectAltName.Equal)
	options := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}
	for _, issuer := range issuers {
		if issuer.CheckSignatureFrom(issuer) == nil {
			options.Roots.AddCert(issuer)
		} else {
			options.Intermediates.AddCert(issuer)
		}
	}
	if _, err := c.Verify(options); err != nil {
		return fmt.Errorf("%w: %w", ErrEK, err)
	}
	return nil
}
