package pe

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// ErrSignature is wrapped by every error about a signature that cannot be read or does not hold.
var ErrSignature = errors.New("the image's signature does not hold")

const (
	maxSignatures   = 16
	maxCertificates = 32
)

// Signature is one signature of an image, whose own bytes were verified: the signer's certificate signs the image's hash. Who
// that signer is, is for VerifiedBy to tell.
type Signature struct {
	Signer       *x509.Certificate
	Certificates []*x509.Certificate // all that come with it, Signer included
}

// Signatures reads an image's signatures, in their order, and verifies that each is one of this image; none is no error.
// Errors wrap ErrSignature.
func (i *Image) Signatures() ([]*Signature, error) {
	var all []*Signature
	for rest := i.certificates; len(rest) > 0; {
		// WIN_CERTIFICATE: length, revision, type, then PKCS #7; each begins at a multiple of 8.
		if len(rest) < 8 || len(all) == maxSignatures {
			return nil, fmt.Errorf("%w: its certificate table is malformed", ErrSignature)
		}
		length := binary.LittleEndian.Uint32(rest)
		revision, kind := binary.LittleEndian.Uint16(rest[4:]), binary.LittleEndian.Uint16(rest[6:])
		if length < 8 || uint64(length) > uint64(len(rest)) || revision != 0x0200 || kind != 0x0002 {
			return nil, fmt.Errorf("%w: entry %d of its certificate table is no PKCS #7 signature", ErrSignature, len(all)+1)
		}
		s, err := i.signature(rest[8:length])
		if err != nil {
			return nil, fmt.Errorf("%w: number %d: %w", ErrSignature, len(all)+1, err)
		}
		all = append(all, s)
		rest = rest[min(len(rest), int(length+7)&^7):]
	}
	return all, nil
}

// The parts of PKCS #7 (RFC 2315) and of Authenticode's content that are read.
type (
	contentInfo struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue `asn1:"explicit,tag:0"`
	}
	signedData struct {
		Version      int
		Algorithms   asn1.RawValue
		ContentInfo  contentInfo
		Certificates asn1.RawValue `asn1:"optional,tag:0"`
		CRLs         asn1.RawValue `asn1:"optional,tag:1"`
		SignerInfos  []signerInfo  `asn1:"set"`
	}
	signerInfo struct {
		Version         int
		Signer          issuerAndSerial
		DigestAlgorithm pkix.AlgorithmIdentifier
		Attributes      asn1.RawValue `asn1:"optional,tag:0"`
		Algorithm       pkix.AlgorithmIdentifier
		Signature       []byte
		Unsigned        asn1.RawValue `asn1:"optional,tag:1"`
	}
	issuerAndSerial struct {
		Issuer asn1.RawValue
		Serial *big.Int
	}
	attribute struct {
		Type   asn1.ObjectIdentifier
		Values asn1.RawValue `asn1:"set"`
	}
	indirectData struct {
		Data   asn1.RawValue
		Digest struct {
			Algorithm pkix.AlgorithmIdentifier
			Digest    []byte
		}
	}
)

var (
	oidSignedData    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidMessageDigest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
	oidIndirectData  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 4}
)

// signatureHash is a hash that signatures may use.
type signatureHash struct {
	oid        asn1.ObjectIdentifier
	hash       crypto.Hash
	rsa, ecdsa x509.SignatureAlgorithm
}

// SHA-1 is not among them.
var signatureHashes = []signatureHash{
	{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}, crypto.SHA256, x509.SHA256WithRSA, x509.ECDSAWithSHA256},
	{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}, crypto.SHA384, x509.SHA384WithRSA, x509.ECDSAWithSHA384},
	{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 3}, crypto.SHA512, x509.SHA512WithRSA, x509.ECDSAWithSHA512},
}

func hashOf(algorithm pkix.AlgorithmIdentifier) (signatureHash, error) {
	for _, h := range signatureHashes {
		if h.oid.Equal(algorithm.Algorithm) {
			return h, nil
		}
	}
	return signatureHash{}, fmt.Errorf("its hash %v is not SHA-2", algorithm.Algorithm)
}

func (i *Image) signature(der []byte) (*Signature, error) {
	var info contentInfo
	var data signedData
	if _, err := asn1.Unmarshal(der, &info); err != nil || !info.Type.Equal(oidSignedData) { // padding may follow
		return nil, errors.New("it is not PKCS #7 SignedData")
	}
	if err := unmarshalAll(info.Content.Bytes, &data); err != nil {
		return nil, fmt.Errorf("its SignedData: %w", err)
	}
	if !data.ContentInfo.Type.Equal(oidIndirectData) || len(data.SignerInfos) != 1 {
		return nil, errors.New("it does not sign one image once")
	}
	var content asn1.RawValue
	var indirect indirectData
	if err := errors.Join(unmarshalAll(data.ContentInfo.Content.Bytes, &content), unmarshalAll(data.ContentInfo.Content.Bytes, &indirect)); err != nil {
		return nil, fmt.Errorf("its content: %w", err)
	}
	h, err := hashOf(indirect.Digest.Algorithm)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(i.Digest(h.hash), indirect.Digest.Digest) {
		return nil, errors.New("it is of another image, or the image was changed after signing")
	}
	certificates, err := x509.ParseCertificates(data.Certificates.Bytes)
	if err != nil || len(certificates) > maxCertificates {
		return nil, errors.New("its certificates cannot be read")
	}
	s := &Signature{Certificates: certificates}
	if s.Signer, err = data.SignerInfos[0].verify(certificates, content.Bytes); err != nil {
		return nil, err
	}
	return s, nil
}

// verify verifies the signature over content and gives its signer.
func (s signerInfo) verify(certificates []*x509.Certificate, content []byte) (*x509.Certificate, error) {
	at := slices.IndexFunc(certificates, func(c *x509.Certificate) bool {
		return bytes.Equal(c.RawIssuer, s.Signer.Issuer.FullBytes) && s.Signer.Serial != nil && c.SerialNumber.Cmp(s.Signer.Serial) == 0
	})
	if at < 0 {
		return nil, errors.New("its signer's certificate is not in it")
	}
	h, err := hashOf(s.DigestAlgorithm)
	if err != nil {
		return nil, err
	}
	signed := content
	if len(s.Attributes.FullBytes) > 0 {
		digest, err := messageDigest(s.Attributes.Bytes)
		if err != nil {
			return nil, err
		}
		sum := h.hash.New()
		sum.Write(content)
		if !bytes.Equal(sum.Sum(nil), digest) {
			return nil, errors.New("its attributes are of another content")
		}
		signed = append([]byte{asn1.TagSet | 0x20}, s.Attributes.FullBytes[1:]...) // signed as a SET, sent as [0]
	}
	algorithm := h.rsa
	if certificates[at].PublicKeyAlgorithm == x509.ECDSA {
		algorithm = h.ecdsa
	}
	return certificates[at], certificates[at].CheckSignature(algorithm, signed, s.Signature)
}

func messageDigest(attributes []byte) (digest []byte, err error) {
	for len(attributes) > 0 {
		var a attribute
		if attributes, err = asn1.Unmarshal(attributes, &a); err != nil {
			return nil, fmt.Errorf("its attributes: %w", err)
		}
		if a.Type.Equal(oidMessageDigest) {
			if digest != nil {
				return nil, errors.New("it has two digests")
			}
			if err := unmarshalAll(a.Values.Bytes, &digest); err != nil {
				return nil, fmt.Errorf("its digest: %w", err)
			}
		}
	}
	if digest == nil {
		return nil, errors.New("it has no digest")
	}
	return digest, nil
}

func unmarshalAll(der []byte, v any) error {
	rest, err := asn1.Unmarshal(der, v)
	if err == nil && len(rest) > 0 {
		err = errors.New("bytes after its end")
	}
	return err
}

// VerifiedBy tells whether the signer's certificate is anchor or chains up to it. As in firmware an anchor need not be a root,
// and nobody looks at dates.
func (s *Signature) VerifiedBy(anchor *x509.Certificate) bool {
	reached := []*x509.Certificate{s.Signer}
	for n := 0; n < len(reached); n++ {
		if reached[n].Equal(anchor) || signs(anchor, reached[n]) {
			return true
		}
		for _, c := range s.Certificates {
			if signs(c, reached[n]) && !slices.ContainsFunc(reached, c.Equal) {
				reached = append(reached, c)
			}
		}
	}
	return false
}

func signs(issuer, c *x509.Certificate) bool {
	return bytes.Equal(issuer.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(issuer) == nil
}
