package signer

import (
	"crypto"
	"crypto/ecdsa"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/tpm2-p11/tpm2-p11/internal/client"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// The lengths of digests, in bytes, that are signed when no hash is named: SHA-224's to SHA-512's.
const (
	shortestDigest = 28
	longestDigest  = 64
)

// planECDSA is an ECDSA signature (FIPS 186-5, section 6.4.1) in ASN.1 DER (RFC 3279, section 2.2.3).
func planECDSA(l limits, public *ecdsa.PublicKey, digest []byte, h crypto.Hash) (task, error) {
	if h != 0 {
		if err := checkDigest(h, digest); err != nil {
			return task{}, err
		}
	} else if len(digest) < shortestDigest || len(digest) > longestDigest {
		return task{}, fmt.Errorf("%w: a digest has %d to %d bytes, not %d", ErrLength, shortestDigest, longestDigest, len(digest))
	}
	if l.Scheme == tpm2.TPMAlgNull {
		var err error
		if h, digest, err = fitDigest(public, digest); err != nil {
			return task{}, err
		}
	} else if h == 0 {
		h = l.Hash
		if err := checkDigest(h, digest); err != nil {
			return task{}, err
		}
	}
	if err := l.allowSign(tpm2.TPMAlgECDSA, h); err != nil {
		return task{}, err
	}
	t := signInTPM(provider.ECDSA, h, digest, client.SignECDSA(digest))
	t.finish = derSignature
	return t, nil
}

// derSignature is r and s, of one length, as the ASN.1 of RFC 3279.
func derSignature(rs []byte) ([]byte, error) {
	half := len(rs) / 2
	der := cryptobyte.NewBuilder(make([]byte, 0, len(rs)+9))
	der.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		addInteger(b, rs[:half])
		addInteger(b, rs[half:])
	})
	return der.Bytes()
}

// addInteger adds a number that is not negative.
func addInteger(b *cryptobyte.Builder, n []byte) {
	for len(n) > 1 && n[0] == 0 {
		n = n[1:]
	}
	b.AddASN1(asn1.INTEGER, func(b *cryptobyte.Builder) {
		if len(n) == 0 || n[0]&0x80 != 0 {
			b.AddUint8(0)
		}
		b.AddBytes(n)
	})
}

// fitDigest brings a digest to the length of the curve's order, which changes no
// bit of what ECDSA signs (it takes the leftmost bits as a number), and names the
// hash of that length. So a TPM that lacks SHA-512 signs SHA-512 digests. P-521's
// order is longer than all digests.
func fitDigest(public *ecdsa.PublicKey, digest []byte) (crypto.Hash, []byte, error) {
	var h crypto.Hash
	switch bits := public.Curve.Params().N.BitLen(); bits {
	case 256:
		h = crypto.SHA256
	case 384:
		h = crypto.SHA384
	case 521:
		h = crypto.SHA512
	default:
		return 0, nil, fmt.Errorf("%w: ECDSA over a curve of %d bits", ErrAlgorithm, bits)
	}
	if len(digest) >= h.Size() {
		return h, digest[:h.Size()], nil
	}
	fitted := make([]byte, h.Size())
	copy(fitted[len(fitted)-len(digest):], digest)
	return h, fitted, nil
}
