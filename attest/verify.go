package attest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/subtle"
	"crypto/x509"
	_ "embed"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

//go:embed aws-nitro-root-g1.pem
var awsRootPEM []byte

// AWSRoot is the AWS Nitro Attestation root certificate, G1 (SHA-256 of its
// DER: 641A0321A3E244EFE456463195D606317ED7CDCC3C1756E09893F3C68F79BB5B).
func AWSRoot() *x509.Certificate {
	block, _ := pem.Decode(awsRootPEM)
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		panic(err) // the file is part of this program
	}
	return root
}

// Defaults of a Policy.
const (
	DefaultMaxAge = 5 * time.Minute
	maxSkew       = time.Minute // a document from a clock ahead of ours
)

// Policy says what a document must show. What is left zero is not compared,
// time and chain excepted: they always count.
type Policy struct {
	Roots     []*x509.Certificate // trusted roots; nil: AWSRoot alone
	Now       time.Time           // zero: the present
	MaxAge    time.Duration       // of the document's timestamp; zero: DefaultMaxAge
	Instance  string              // EC2 instance id
	Nonce     []byte              // not nil: must be equal (an empty one to an absent one)
	UserData  []byte              // the same
	PublicKey []byte              // the same; DER SubjectPublicKeyInfo by convention
	PCRs      map[int][]byte      // SHA-384 values by index
}

// PCRError is an ErrPCR.
type PCRError struct {
	PCR        int
	Want, Have []byte
}

// Error names the PCR, what it is and what it should be.
func (e *PCRError) Error() string {
	return fmt.Sprintf("%v: PCR%d is %s, expected %s", ErrPCR, e.PCR, hex.EncodeToString(e.Have), hex.EncodeToString(e.Want))
}

// Unwrap gives ErrPCR.
func (e *PCRError) Unwrap() error { return ErrPCR }

// Verify parses a document and trusts it for what the policy asks, or says by
// one of the package's errors why not.
func Verify(document []byte, p Policy) (*Claims, error) {
	d, err := Parse(document)
	if err != nil {
		return nil, err
	}
	if p.Now.IsZero() {
		p.Now = time.Now()
	}
	if p.MaxAge == 0 {
		p.MaxAge = DefaultMaxAge
	}
	if p.Roots == nil {
		p.Roots = []*x509.Certificate{AWSRoot()}
	}
	for _, check := range []func(*Claims, *Policy) error{
		checkChain, checkSignature, checkTime, checkModule, checkContent, checkPCRs,
	} {
		if err := check(d, &p); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// checkChain builds the path leaf, CABundle backwards, root; that very path
// must be the one that x509 finds, with P-384 keys throughout.
func checkChain(d *Claims, p *Policy) error {
	if !slices.ContainsFunc(p.Roots, d.CABundle[0].Equal) {
		return fmt.Errorf("%w: its root %q is not a trusted one", ErrChain, d.CABundle[0].Subject)
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(d.CABundle[0])
	for _, c := range d.CABundle[1:] {
		intermediates.AddCert(c)
	}
	path := []*x509.Certificate{d.Certificate}
	for _, c := range slices.Backward(d.CABundle) {
		path = append(path, c)
	}
	for _, c := range path {
		if key, ok := c.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P384() || c.SignatureAlgorithm != x509.ECDSAWithSHA384 {
			return fmt.Errorf("%w: %q is not ECDSA P-384 with SHA-384", ErrChain, c.Subject)
		}
		if p.Now.Before(c.NotBefore) || p.Now.After(c.NotAfter) {
			return fmt.Errorf("%w: certificate %q is valid from %s to %s, and the time is %s", ErrTime, c.Subject.CommonName,
				c.NotBefore.Format(time.RFC3339), c.NotAfter.Format(time.RFC3339), p.Now.UTC().Format(time.RFC3339))
		}
	}
	for _, c := range d.CABundle {
		if !c.IsCA || c.KeyUsage&x509.KeyUsageCertSign == 0 {
			return fmt.Errorf("%w: %q may not issue certificates", ErrChain, c.Subject)
		}
	}
	if d.Certificate.IsCA || d.Certificate.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return fmt.Errorf("%w: the leaf %q may not sign documents", ErrChain, d.Certificate.Subject)
	}
	chains, err := d.Certificate.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: p.Now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrChain, err)
	}
	if !slices.ContainsFunc(chains, func(chain []*x509.Certificate) bool {
		return slices.EqualFunc(chain, path, (*x509.Certificate).Equal)
	}) {
		return fmt.Errorf("%w: the bundle is not in the order root to leaf", ErrChain)
	}
	return nil
}

func checkSignature(d *Claims, _ *Policy) error {
	if !d.sign1.verify(d.Certificate.PublicKey.(*ecdsa.PublicKey)) {
		return ErrSignature
	}
	return nil
}

func checkTime(d *Claims, p *Policy) error {
	if d.Timestamp.Before(d.Certificate.NotBefore) || d.Timestamp.After(d.Certificate.NotAfter) {
		return fmt.Errorf("%w: made at %s, outside its certificate's time", ErrTime, d.Timestamp.Format(time.RFC3339))
	}
	if age := p.Now.Sub(d.Timestamp); age > p.MaxAge || age < -maxSkew {
		return fmt.Errorf("%w: made at %s, %s ago, and at most %s is allowed", ErrTime, d.Timestamp.Format(time.RFC3339), age.Round(time.Second), p.MaxAge)
	}
	return nil
}

// checkModule compares the module id with the leaf's name, which AWS made
// from it ("<module id>.<region>.aws").
func checkModule(d *Claims, p *Policy) error {
	if name := d.Certificate.Subject.CommonName; !strings.HasPrefix(name, d.ModuleID+".") {
		return fmt.Errorf("%w: module id %q, certificate %q", ErrModule, d.ModuleID, name)
	}
	if p.Instance != "" && d.Instance() != p.Instance {
		return fmt.Errorf("%w: instance %q, expected %q", ErrModule, d.Instance(), p.Instance)
	}
	return nil
}

func checkContent(d *Claims, p *Policy) error {
	for _, c := range []struct {
		want, have []byte
		err        error
	}{{p.Nonce, d.Nonce, ErrNonce}, {p.UserData, d.UserData, ErrUserData}} {
		if c.want != nil && subtle.ConstantTimeCompare(c.want, c.have) != 1 {
			return c.err
		}
	}
	if p.PublicKey != nil && !bytes.Equal(p.PublicKey, d.PublicKey) {
		return ErrPublicKey
	}
	return nil
}

func checkPCRs(d *Claims, p *Policy) error {
	for _, i := range slices.Sorted(maps.Keys(p.PCRs)) {
		if i < 0 || i >= pcrCount {
			return fmt.Errorf("%w: there is no PCR%d", ErrPCR, i)
		}
		if !bytes.Equal(p.PCRs[i], d.PCRs[i]) {
			return &PCRError{PCR: i, Want: p.PCRs[i], Have: d.PCRs[i]}
		}
	}
	return nil
}
