package signer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// TLSCertificate is the key and its chain for a tls.Config, of a server or a
// client, TLS 1.2 or 1.3. The chain is the one given, leaf first, or else the one
// stored with the key. The certificate is restricted to the signature algorithms
// that the key can make. It uses the key: close that after the last connection.
func (k *Key) TLSCertificate(chain ...*x509.Certificate) (tls.Certificate, error) {
	c, err := k.tlsCertificate(chain)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("TLS certificate of key %q: %w", k.label, err)
	}
	return c, nil
}

func (k *Key) tlsCertificate(chain []*x509.Certificate) (tls.Certificate, error) {
	if len(chain) == 0 {
		chain = k.certificates
	}
	if len(chain) == 0 {
		return tls.Certificate{}, fmt.Errorf("%w: give its chain, or store it with `tpm2-p11 key certificate`", ErrNoCertificate)
	}
	if own, ok := k.public.(interface{ Equal(crypto.PublicKey) bool }); !ok || !own.Equal(chain[0].PublicKey) {
		return tls.Certificate{}, fmt.Errorf("%w: the first certificate, of %q, is another key's", ErrNoCertificate, chain[0].Subject)
	}
	algorithms := k.signatureSchemes()
	if len(algorithms) == 0 {
		return tls.Certificate{}, fmt.Errorf("%w: it can make no signature that TLS knows", ErrWrongUse)
	}
	c := tls.Certificate{
		PrivateKey:                   signOnly{k},
		Leaf:                         chain[0],
		SupportedSignatureAlgorithms: algorithms,
	}
	for _, certificate := range chain {
		c.Certificate = append(c.Certificate, slices.Clone(certificate.Raw))
	}
	return c, nil
}

// signOnly hides that a Key has Decrypt. A TLS 1.2 server takes a crypto.Decrypter
// for one that does RSA key exchange, fails with a key that is not RSA, and would
// offer a key exchange that needs PKCS #1 v1.5 decryption.
type signOnly struct{ crypto.Signer }

// tlsSchemes are TLS's signature algorithms and what they ask of a key. In TLS
// 1.3 a curve goes with one hash only; in 1.2 that pair is the usual one.
var tlsSchemes = []struct {
	id     tls.SignatureScheme
	scheme tpm2.TPMAlgID
	hash   crypto.Hash
	bits   int // of the curve
}{
	{tls.PSSWithSHA256, tpm2.TPMAlgRSAPSS, crypto.SHA256, 0},
	{tls.PSSWithSHA384, tpm2.TPMAlgRSAPSS, crypto.SHA384, 0},
	{tls.PSSWithSHA512, tpm2.TPMAlgRSAPSS, crypto.SHA512, 0},
	{tls.PKCS1WithSHA256, tpm2.TPMAlgRSASSA, crypto.SHA256, 0},
	{tls.PKCS1WithSHA384, tpm2.TPMAlgRSASSA, crypto.SHA384, 0},
	{tls.PKCS1WithSHA512, tpm2.TPMAlgRSASSA, crypto.SHA512, 0},
	{tls.ECDSAWithP256AndSHA256, tpm2.TPMAlgECDSA, crypto.SHA256, 256},
	{tls.ECDSAWithP384AndSHA384, tpm2.TPMAlgECDSA, crypto.SHA384, 384},
	{tls.ECDSAWithP521AndSHA512, tpm2.TPMAlgECDSA, crypto.SHA512, 521},
}

func (k *Key) signatureSchemes() []tls.SignatureScheme {
	var fit []tls.SignatureScheme
	for _, s := range tlsSchemes {
		if k.limits.allowSign(s.scheme, s.hash) != nil {
			continue
		}
		switch public := k.public.(type) {
		case *rsa.PublicKey:
			if s.bits == 0 {
				fit = append(fit, s.id)
			}
		case *ecdsa.PublicKey:
			if s.bits == public.Curve.Params().BitSize {
				fit = append(fit, s.id)
			}
		}
	}
	return fit
}
