package p11

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"math/big"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/tpm2-p11/tpm2-p11/signer"
)

const ecdsaFlags = CKF_HW | CKF_SIGN | CKF_VERIFY | ecFlags

// ecdsaMechanisms are ECDSA (PKCS #11 v3.1, section 6.3): signatures are r || s, each as long as the curve's order.
var ecdsaMechanisms = []mechanism{
	{id: CKM_ECDSA, flags: ecdsaFlags, keys: CKK_EC, scheme: tpm2.TPMAlgECDSA, sign: newECDSA, sizes: ecSizes},
	{id: CKM_ECDSA_SHA1, flags: CKF_VERIFY | ecFlags, keys: CKK_EC, scheme: tpm2.TPMAlgECDSA, hash: crypto.SHA1, sign: newECDSA, sizes: ecSizes, legacy: signsSHA1},
	{id: CKM_ECDSA_SHA256, flags: ecdsaFlags, keys: CKK_EC, scheme: tpm2.TPMAlgECDSA, hash: crypto.SHA256, sign: newECDSA, sizes: ecSizes},
	{id: CKM_ECDSA_SHA384, flags: ecdsaFlags, keys: CKK_EC, scheme: tpm2.TPMAlgECDSA, hash: crypto.SHA384, sign: newECDSA, sizes: ecSizes},
	{id: CKM_ECDSA_SHA512, flags: ecdsaFlags, keys: CKK_EC, scheme: tpm2.TPMAlgECDSA, hash: crypto.SHA512, sign: newECDSA, sizes: ecSizes},
}

// rawECDSALimit is the most CKM_ECDSA takes. Only the leftmost bits count, as many as the order has.
const rawECDSALimit = 1024

// ecdsaScheme is ECDSA. Without a hash the caller gives the digest.
type ecdsaScheme struct {
	key *ecdsa.PublicKey
	h   crypto.Hash
	any bool // the key signs digests of any length: it was not made for one hash
}

func newECDSA(m *mechanism, _ Flags, o *object, p parameter) (signature, error) {
	key, ok := o.public.(*ecdsa.PublicKey)
	if !ok {
		return nil, CKR_KEY_TYPE_INCONSISTENT
	}
	return ecdsaScheme{key, m.hash, o.tpm != nil && o.tpm.Scheme == tpm2.TPMAlgNull}, p.end()
}

func (s ecdsaScheme) order() int        { return (s.key.Params().N.BitLen() + 7) / 8 }
func (s ecdsaScheme) hash() crypto.Hash { return s.h }
func (s ecdsaScheme) limit() int        { return rawECDSALimit }
func (s ecdsaScheme) size() int         { return 2 * s.order() }

func (s ecdsaScheme) sign(ctx context.Context, key *signer.Key, digest []byte) ([]byte, error) {
	h := s.h
	if h == 0 && len(digest) == 0 {
		return nil, CKR_DATA_LEN_RANGE
	}
	if (h == 0 || h == crypto.SHA1) && s.any {
		fitted, err := s.fit(digest)
		if err != nil {
			return nil, err
		}
		h, digest = 0, fitted
	}
	der, err := key.SignContext(ctx, digest, h)
	if err != nil {
		return nil, err
	}
	var r, t big.Int
	var numbers cryptobyte.String
	if in := cryptobyte.String(der); !in.ReadASN1(&numbers, asn1.SEQUENCE) || !in.Empty() ||
		!numbers.ReadASN1Integer(&r) || !numbers.ReadASN1Integer(&t) || !numbers.Empty() || r.Sign() <= 0 || t.Sign() <= 0 {
		return nil, refuse(CKR_DEVICE_ERROR, "an ECDSA signature is malformed")
	}
	if n := s.key.Params().N; r.Cmp(n) >= 0 || t.Cmp(n) >= 0 {
		return nil, refuse(CKR_DEVICE_ERROR, "an ECDSA signature is out of range")
	}
	signature := make([]byte, s.size())
	r.FillBytes(signature[:s.order()])
	t.FillBytes(signature[s.order():])
	return signature, nil
}

// fit brings a digest to the order's length, which does not change the number that ECDSA makes of it (FIPS 186-5, section 6.4.1): the
// leftmost bits, as many as the order has. The order of P-521 is longer than any digest that a TPM takes: there more than that cannot be signed.
func (s ecdsaScheme) fit(digest []byte) ([]byte, error) {
	size := min(s.order(), crypto.SHA512.Size())
	switch {
	case len(digest) <= size:
		return append(make([]byte, size-len(digest)), digest...), nil
	case size < s.order():
		return nil, refuse(CKR_DATA_LEN_RANGE, "%d bytes: with a key on %s a TPM signs at most %d", len(digest), s.key.Params().Name, size)
	}
	return digest[:size], nil
}

func (s ecdsaScheme) verify(digest, signature []byte) error {
	half := s.order()
	r, t := new(big.Int).SetBytes(signature[:half]), new(big.Int).SetBytes(signature[half:])
	if !ecdsa.Verify(s.key, digest, r, t) {
		return CKR_SIGNATURE_INVALID
	}
	return nil
}
