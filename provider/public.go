package provider

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/hex"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"
)

// Name is a TPM object's Name: nameAlg (2 bytes) and the hash of its public area (TPM 2.0 Part 1, section 14).
type Name []byte

// String is the Name in hexadecimal digits.
func (n Name) String() string { return hex.EncodeToString(n) }

// Public is an object's public area (TPMT_PUBLIC) and what follows from it. Immutable.
type Public struct {
	area  tpm2.TPMTPublic
	bytes []byte
	name  Name
}

// ParsePublic reads a marshalled TPMT_PUBLIC (no size before it); it refuses trailing bytes.
func ParsePublic(b []byte) (Public, error) {
	if area, plain := readPlain(b); plain {
		return publicOf(area, bytes.Clone(b))
	}
	area, err := Unmarshal[tpm2.TPMTPublic](b)
	if err != nil {
		return Public{}, fmt.Errorf("public area: %w", err)
	}
	return publicOf(*area, bytes.Clone(b))
}

func newPublic(area tpm2.TPMTPublic) (p Public, err error) { return publicOf(area, tpm2.Marshal(area)) }

// publicOf is a public area that was marshalled to b.
func publicOf(area tpm2.TPMTPublic, b []byte) (p Public, err error) {
	p = Public{area: area, bytes: b}
	if p.name, err = nameOf(p.bytes); err != nil {
		return Public{}, fmt.Errorf("public area: %w", err)
	}
	return p, nil
}

// nameOf is the Name of an object with a TPMT_PUBLIC, be it of a kind that we read or not.
func nameOf(area []byte) (Name, error) {
	r := reader{b: area}
	r.u16() // type
	alg := r.u16()
	if r.err != nil {
		return nil, r.err
	}
	hash, err := tpm2.TPMIAlgHash(alg).Hash()
	if err != nil {
		return nil, fmt.Errorf("%w: name algorithm: %w", ErrUnsupported, err)
	}
	h := hash.New()
	h.Write(area)
	return h.Sum(put16(nil, alg)), nil
}

// Unmarshal is the one place where go-tpm decodes foreign bytes: all of them must be used, the structure
// must give the same bytes again, and a panic is an error.
func Unmarshal[T tpm2.Marshallable, P interface {
	*T
	tpm2.Unmarshallable
}](b []byte) (v *T, err error) {
	defer func() {
		if r := recover(); r != nil {
			v, err = nil, fmt.Errorf("%w: %v", ErrMalformed, r)
		}
	}()
	v, err = tpm2.Unmarshal[T, P](b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if !bytes.Equal(tpm2.Marshal(*v), b) {
		return nil, fmt.Errorf("%w: %T with %d bytes", ErrMalformed, *v, len(b))
	}
	return v, nil
}

// Marshal gives the TPMT_PUBLIC's bytes.
func (p Public) Marshal() []byte { return bytes.Clone(p.bytes) }

// IsZero tells a Public that was never set.
func (p Public) IsZero() bool { return p.bytes == nil }

// Area is the structure itself.
func (p Public) Area() tpm2.TPMTPublic { return p.area }

// Name is the object's Name, computed here.
func (p Public) Name() Name { return bytes.Clone(p.name) }

// Attributes are the object's attributes.
func (p Public) Attributes() tpm2.TPMAObject { return p.area.ObjectAttributes }

// Exposed says why the object's secret may be known outside of its TPM, a sentence for each of fixedParent, fixedTPM and
// sensitiveDataOrigin that is clear: none of an object that was made in its TPM and stays there.
func (p Public) Exposed() (reasons []string) {
	a := p.Attributes()
	for _, bit := range []struct {
		set  bool
		name string
	}{{a.FixedParent, "fixedParent"}, {a.FixedTPM, "fixedTPM"}, {a.SensitiveDataOrigin, "sensitiveDataOrigin"}} {
		if !bit.set {
			reasons = append(reasons, fmt.Sprintf("it may be known outside of this TPM (%s is clear)", bit.name))
		}
	}
	return reasons
}

// AuthPolicy is the policy digest, empty without policy.
func (p Public) AuthPolicy() []byte { return bytes.Clone(p.area.AuthPolicy.Buffer) }

// Scheme is the one scheme that the key was made for, with its hash; TPM_ALG_NULL when each use chooses (TPMT_RSA_SCHEME and
// TPMT_ECC_SCHEME, Part 2, sections 11.2.4.2 and 11.2.5.6).
func (p Public) Scheme() (scheme, hash tpm2.TPMAlgID, err error) {
	if p.area.Type != tpm2.TPMAlgRSA && p.area.Type != tpm2.TPMAlgECC {
		return tpm2.TPMAlgNull, 0, nil
	}
	r := reader{b: p.bytes} // type, name algorithm, attributes, policy, symmetric algorithm of a storage key; then the scheme
	r.u16()
	r.u16()
	r.u32()
	r.sized()
	if symmetric := tpm2.TPMAlgID(r.u16()); symmetric != tpm2.TPMAlgNull {
		r.u16()
		r.u16()
	}
	scheme = tpm2.TPMAlgID(r.u16())
	if scheme != tpm2.TPMAlgNull && scheme != tpm2.TPMAlgRSAES { // the two that have no hash
		hash = tpm2.TPMAlgID(r.u16())
	}
	return scheme, hash, r.err
}

// Key is *rsa.PublicKey or *ecdsa.PublicKey; an error for other objects.
func (p Public) Key() (crypto.PublicKey, error) {
	switch p.area.Type {
	case tpm2.TPMAlgRSA:
		return p.rsaKey()
	case tpm2.TPMAlgECC:
		return p.ecdsaKey()
	}
	return nil, fmt.Errorf("%w: %s is not an asymmetric key", ErrWrongUse, p.Describe())
}

func (p Public) rsaKey() (*rsa.PublicKey, error) {
	parms, err := p.area.Parameters.RSADetail()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	unique, err := p.area.Unique.RSA()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	n := new(big.Int).SetBytes(unique.Buffer)
	if n.BitLen() != int(parms.KeyBits) {
		return nil, fmt.Errorf("%w: an RSA modulus of %d bits in a key of %d", ErrMalformed, n.BitLen(), parms.KeyBits)
	}
	e := parms.Exponent
	if e == 0 { // Part 2, section 12.2.3.5: the default
		e = 65537
	}
	if e > 1<<31-1 {
		return nil, fmt.Errorf("%w: RSA exponent %d", ErrUnsupported, e)
	}
	return &rsa.PublicKey{N: n, E: int(e)}, nil
}

func (p Public) ecdsaKey() (*ecdsa.PublicKey, error) {
	parms, err := p.area.Parameters.ECCDetail()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	point, err := p.area.Unique.ECC()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	curve, ok := curves[parms.CurveID]
	if !ok {
		return nil, fmt.Errorf("%w: elliptic curve 0x%04X", ErrUnsupported, uint16(parms.CurveID))
	}
	size := (curve.Params().BitSize + 7) / 8
	x, y := point.X.Buffer, point.Y.Buffer
	if len(x) > size || len(y) > size {
		return nil, fmt.Errorf("%w: a coordinate of %d bytes on %s", ErrMalformed, max(len(x), len(y)), curve.Params().Name)
	}
	uncompressed := make([]byte, 1+2*size)
	uncompressed[0] = 4
	copy(uncompressed[1+size-len(x):], x)
	copy(uncompressed[1+2*size-len(y):], y)
	key, err := ecdsa.ParseUncompressedPublicKey(curve, uncompressed)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return key, nil
}

var curves = map[tpm2.TPMECCCurve]elliptic.Curve{
	tpm2.TPMECCNistP256: elliptic.P256(),
	tpm2.TPMECCNistP384: elliptic.P384(),
	tpm2.TPMECCNistP521: elliptic.P521(),
}

// curveID is a curve's number in TPMs.
func curveID(c elliptic.Curve) (tpm2.TPMECCCurve, bool) {
	for id, curve := range curves {
		if curve == c {
			return id, true
		}
	}
	return 0, false
}

// IsStorageKey tells a restricted decryption key (a parent).
func (p Public) IsStorageKey() bool {
	a := p.Attributes()
	return a.Restricted && a.Decrypt && !a.SignEncrypt && p.area.Type != tpm2.TPMAlgKeyedHash
}

// IsSealed tells a sealed data object (keyedhash with neither sign nor decrypt).
func (p Public) IsSealed() bool {
	a := p.Attributes()
	return p.area.Type == tpm2.TPMAlgKeyedHash && !a.SignEncrypt && !a.Decrypt
}

// Describe is a few words for people: "RSA-2048 sign", "ECC P-256 storage key", "sealed data".
func (p Public) Describe() string {
	if p.IsZero() {
		return "nothing"
	}
	if p.IsSealed() {
		return "sealed data"
	}
	kind := fmt.Sprintf("algorithm 0x%04X", uint16(p.area.Type))
	switch p.area.Type {
	case tpm2.TPMAlgRSA:
		if parms, err := p.area.Parameters.RSADetail(); err == nil {
			kind = fmt.Sprintf("RSA-%d", parms.KeyBits)
		}
	case tpm2.TPMAlgECC:
		if parms, err := p.area.Parameters.ECCDetail(); err == nil {
			kind = fmt.Sprintf("ECC curve 0x%04X", uint16(parms.CurveID))
			if curve, ok := curves[parms.CurveID]; ok {
				kind = "ECC " + curve.Params().Name
			}
		}
	case tpm2.TPMAlgKeyedHash:
		kind = "keyed hash"
	case tpm2.TPMAlgSymCipher:
		kind = "symmetric cipher"
	}
	a := p.Attributes()
	switch {
	case p.IsStorageKey():
		return kind + " storage key"
	case a.Restricted && a.SignEncrypt:
		return kind + " restricted signing key"
	case a.SignEncrypt && a.Decrypt:
		return kind + " sign, decrypt"
	case a.SignEncrypt:
		return kind + " sign"
	case a.Decrypt:
		return kind + " decrypt"
	}
	return kind
}
