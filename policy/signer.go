package policy

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"
)

// Signer is the public key of who approves policies, as the TPM knows it: its Name is part of the digest of every
// policy that it may approve.
type Signer struct {
	area string // TPMT_PUBLIC, marshalled
}

// IsZero tells no signer at all.
func (s Signer) IsZero() bool { return s.area == "" }

// NewSigner is the signer with a public key, RSA of 2048, 3072 or 4096 bits or ECDSA on P-256 or P-384. Its public area is the one that
// systemd and tpm2_loadexternal give such a key (SHA-256 Name, for signing and decryption, no scheme), so that the
// digests are theirs.
func NewSigner(key crypto.PublicKey) (Signer, error) {
	area := tpm2.TPMTPublic{
		NameAlg:          tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{UserWithAuth: true, SignEncrypt: true, Decrypt: true},
	}
	switch key := key.(type) {
	case *rsa.PublicKey:
		switch key.N.BitLen() {
		case 2048, 3072, 4096:
		default:
			return Signer{}, fmt.Errorf("%w: a signer's RSA key has 2048, 3072 or 4096 bits, not %d", ErrInvalid, key.N.BitLen())
		}
		area.Type = tpm2.TPMAlgRSA
		area.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
			Symmetric: tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull}, Scheme: tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgNull},
			KeyBits: tpm2.TPMKeyBits(key.N.BitLen()), Exponent: uint32(key.E),
		})
		area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: key.N.Bytes()})
	case *ecdsa.PublicKey:
		curves := map[elliptic.Curve]tpm2.TPMECCCurve{elliptic.P256(): tpm2.TPMECCNistP256, elliptic.P384(): tpm2.TPMECCNistP384}
		curve, known := curves[key.Curve]
		point, err := key.Bytes()
		if !known || err != nil {
			return Signer{}, fmt.Errorf("%w: a signer's ECDSA key is on P-256 or P-384", ErrInvalid)
		}
		size := (len(point) - 1) / 2
		area.Type = tpm2.TPMAlgECC
		area.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Symmetric: tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull}, Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgNull},
			CurveID: curve, KDF: tpm2.TPMTKDFScheme{Scheme: tpm2.TPMAlgNull},
		})
		area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: point[1 : 1+size]}, Y: tpm2.TPM2BECCParameter{Buffer: point[1+size:]},
		})
	default:
		return Signer{}, fmt.Errorf("%w: a signer's key is RSA or ECDSA, not %T", ErrInvalid, key)
	}
	return Signer{string(tpm2.Marshal(area))}, nil
}

// ParseSigner reads a public key in PEM (PKIX).
func ParseSigner(text []byte) (Signer, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" || len(bytes.TrimSpace(rest)) > 0 {
		return Signer{}, fmt.Errorf("%w: a signer is one public key in PEM (-----BEGIN PUBLIC KEY-----)", ErrInvalid)
	}
	return parsePKIX(block.Bytes)
}

func parsePKIX(der []byte) (Signer, error) {
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return Signer{}, fmt.Errorf("%w: the signer's public key: %w", ErrInvalid, err)
	}
	return NewSigner(key)
}

// SignerOf is the signer with a public area (TPMT_PUBLIC) that somebody else chose.
func SignerOf(area []byte) (Signer, error) {
	s := Signer{string(area)}
	if _, err := s.Key(); err != nil {
		return Signer{}, err
	}
	if public, _ := s.public(); public.NameAlg != tpm2.TPMAlgSHA256 {
		return Signer{}, fmt.Errorf("%w: a signer's Name is of SHA-256", ErrInvalid)
	}
	return s, nil
}

// Area is the public area, TPMT_PUBLIC.
func (s Signer) Area() []byte { return []byte(s.area) }

// Name is what the TPM calls the key: 000b and the SHA-256 of its public area.
func (s Signer) Name() []byte {
	sum := sha256.Sum256([]byte(s.area))
	return append([]byte{0, byte(tpm2.TPMAlgSHA256)}, sum[:]...)
}

func (s Signer) public() (*tpm2.TPMTPublic, error) {
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic]([]byte(s.area))
	if err != nil {
		return nil, fmt.Errorf("%w: the signer's public area: %w", ErrInvalid, err)
	}
	return area, nil
}

// Key is the public key, an *rsa.PublicKey or *ecdsa.PublicKey.
func (s Signer) Key() (crypto.PublicKey, error) {
	area, err := s.public()
	if err != nil {
		return nil, err
	}
	switch area.Type {
	case tpm2.TPMAlgRSA:
		parms, err1 := area.Parameters.RSADetail()
		unique, err2 := area.Unique.RSA()
		if err1 != nil || err2 != nil {
			break
		}
		e := int(parms.Exponent)
		if e == 0 {
			e = 65537
		}
		return &rsa.PublicKey{N: new(big.Int).SetBytes(unique.Buffer), E: e}, nil
	case tpm2.TPMAlgECC:
		parms, err1 := area.Parameters.ECCDetail()
		unique, err2 := area.Unique.ECC()
		if err1 != nil || err2 != nil {
			break
		}
		curve := elliptic.P256()
		switch parms.CurveID {
		case tpm2.TPMECCNistP256:
		case tpm2.TPMECCNistP384:
			curve = elliptic.P384()
		default:
			return nil, fmt.Errorf("%w: the signer's curve is neither P-256 nor P-384", ErrInvalid)
		}
		size := (curve.Params().BitSize + 7) / 8
		point := make([]byte, 1+2*size)
		point[0] = 4
		if len(unique.X.Buffer) > size || len(unique.Y.Buffer) > size {
			break
		}
		new(big.Int).SetBytes(unique.X.Buffer).FillBytes(point[1 : 1+size])
		new(big.Int).SetBytes(unique.Y.Buffer).FillBytes(point[1+size:])
		key, err := ecdsa.ParseUncompressedPublicKey(curve, point)
		if err != nil {
			return nil, fmt.Errorf("%w: the signer's public key: %w", ErrInvalid, err)
		}
		return key, nil
	}
	return nil, fmt.Errorf("%w: the signer's public area is of no RSA or ECDSA key", ErrInvalid)
}

// Fingerprint is the SHA-256 of the DER public key (PKIX), for people to compare.
func (s Signer) Fingerprint() ([]byte, error) {
	der, err := s.pkix()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(der)
	return sum[:], nil
}

func (s Signer) pkix() ([]byte, error) {
	key, err := s.Key()
	if err != nil {
		return nil, err
	}
	return x509.MarshalPKIXPublicKey(key)
}

// PEM is the public key as ParseSigner reads it.
func (s Signer) PEM() ([]byte, error) {
	der, err := s.pkix()
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// ApprovalDigest is what a signer signs to approve a policy with a digest: the SHA-256 of it and the policyRef (TPM
// 2.0 Part 3, "TPM2_PolicyAuthorize", aHash).
func ApprovalDigest(policyDigest, ref []byte) []byte {
	h := sha256.New()
	h.Write(policyDigest)
	h.Write(ref)
	return h.Sum(nil)
}

// Sign approves a policy's digest. RSA signatures are RSASSA PKCS #1 v1.5, ECDSA's are ASN.1; both are over SHA-256. Zeros are
// refused (ErrInvalid): every session begins with them, and so they would approve everybody.
func Sign(key crypto.Signer, policyDigest, ref []byte) ([]byte, error) {
	if zeros(policyDigest) {
		return nil, fmt.Errorf("%w: a digest of zeros is of no policy, and approves everybody", ErrInvalid)
	}
	s, err := NewSigner(key.Public())
	if err != nil {
		return nil, err
	}
	signature, err := key.Sign(nil, ApprovalDigest(policyDigest, ref), crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("signing the policy: %w", err)
	}
	if !s.Verify(policyDigest, ref, signature) {
		return nil, fmt.Errorf("signing the policy: the key's signature does not verify")
	}
	return signature, nil
}

// Verify tells whether a signature approves a policy's digest.
func (s Signer) Verify(policyDigest, ref, signature []byte) bool {
	return s.verifier(ref)(policyDigest, signature)
}

// verifier is Verify for many signatures: to decode the key takes as long as to verify one.
func (s Signer) verifier(ref []byte) func(policyDigest, signature []byte) bool {
	key, _ := s.Key() // nobody's is of no type below
	return func(policyDigest, signature []byte) bool {
		digest := ApprovalDigest(policyDigest, ref)
		switch key := key.(type) {
		case *rsa.PublicKey:
			return rsa.VerifyPKCS1v15(key, crypto.SHA256, digest, signature) == nil
		case *ecdsa.PublicKey:
			return ecdsa.VerifyASN1(key, digest, signature)
		}
		return false
	}
}
