package p11

import (
	"context"
	"crypto"
	"crypto/rsa"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/internal/keyuse"
	"github.com/tpm2-p11/tpm2-p11/signer"
)

// rsaPSSMechanisms are RSASSA-PSS (PKCS #11 v3.1, section 6.1.10) with MGF1 of the same hash. A salt of another length than the hash's
// needs a key that may also decrypt.
var rsaPSSMechanisms = []mechanism{
	{id: CKM_RSA_PKCS_PSS, flags: CKF_HW | CKF_SIGN | CKF_VERIFY, keys: CKK_RSA, scheme: tpm2.TPMAlgRSAPSS, sign: newRSAPSS, sizes: rsaSizes},
	{id: CKM_SHA1_RSA_PKCS_PSS, flags: CKF_VERIFY, keys: CKK_RSA, scheme: tpm2.TPMAlgRSAPSS, hash: crypto.SHA1, sign: newRSAPSS, sizes: rsaSizes, legacy: signsSHA1},
	{id: CKM_SHA256_RSA_PKCS_PSS, flags: CKF_HW | CKF_SIGN | CKF_VERIFY, keys: CKK_RSA, scheme: tpm2.TPMAlgRSAPSS, hash: crypto.SHA256, sign: newRSAPSS, sizes: rsaSizes},
	{id: CKM_SHA384_RSA_PKCS_PSS, flags: CKF_HW | CKF_SIGN | CKF_VERIFY, keys: CKK_RSA, scheme: tpm2.TPMAlgRSAPSS, hash: crypto.SHA384, sign: newRSAPSS, sizes: rsaSizes},
	{id: CKM_SHA512_RSA_PKCS_PSS, flags: CKF_HW | CKF_SIGN | CKF_VERIFY, keys: CKK_RSA, scheme: tpm2.TPMAlgRSAPSS, hash: crypto.SHA512, sign: newRSAPSS, sizes: rsaSizes},
}

// rsaPSS is RSASSA-PSS.
type rsaPSS struct {
	key    *rsa.PublicKey
	h      crypto.Hash
	salt   int
	hashed bool // the caller gives the digest
}

// newRSAPSS reads CK_RSA_PKCS_PSS_PARAMS: hashAlg, mgf, sLen.
func newRSAPSS(m *mechanism, how Flags, o *object, p parameter) (signature, error) {
	key, err := rsaKeyOf(o.public)
	if err != nil {
		return nil, err
	}
	alg, mgf, salt := MechanismType(p.number()), p.number(), p.number()
	if err := p.end(); err != nil {
		return nil, err
	}
	h, err := hashPair(alg, mgf)
	if err != nil {
		return nil, err
	}
	if m.hash != 0 && h != m.hash {
		return nil, refuse(CKR_MECHANISM_PARAM_INVALID, "the parameter's hash is not the mechanism's")
	}
	most := (key.N.BitLen()-1+7)/8 - h.Size() - 2
	if most < 0 || salt > uint64(most) {
		return nil, refuse(CKR_MECHANISM_PARAM_INVALID, "a salt of %d bytes does not fit: at most %d", salt, most)
	}
	s := rsaPSS{key, h, int(salt), m.hash == 0}
	if how == CKF_VERIFY {
		return s, s.mayVerify()
	}
	return s, s.maySign(m, o)
}

// mayVerify refuses what is not verified: to the standard library a salt of 0 bytes is one of any length.
func (s rsaPSS) mayVerify() error {
	if s.salt == 0 {
		return refuse(CKR_MECHANISM_PARAM_INVALID, "signatures without a salt are not verified")
	}
	return nil
}

// maySign refuses what a key of the token would not do.
func (s rsaPSS) maySign(m *mechanism, o *object) error {
	switch {
	case s.h == crypto.SHA1 && m.hash != crypto.SHA1:
		return refuse(CKR_MECHANISM_PARAM_INVALID, "signatures with SHA-1 can be forged")
	case s.salt != s.h.Size() && !o.tpm.Raw():
		return refuse(CKR_KEY_FUNCTION_NOT_PERMITTED, "key %q may only sign, and salts with %d bytes then: another salt, of %d bytes, needs a key that may also decrypt",
			o.entry.Label, s.h.Size(), s.salt)
	}
	return o.fits(m.scheme, s.h)
}

func (s rsaPSS) hash() crypto.Hash {
	if s.hashed {
		return 0
	}
	return s.h
}

func (s rsaPSS) limit() int { return s.h.Size() }
func (s rsaPSS) size() int  { return s.key.Size() }

func (s rsaPSS) sign(ctx context.Context, key *signer.Key, digest []byte) ([]byte, error) {
	if len(digest) != s.h.Size() {
		return nil, CKR_DATA_LEN_RANGE
	}
	salt := s.salt
	if salt == 0 {
		salt = signer.PSSSaltLengthZero
	}
	if s.h == crypto.SHA1 {
		return key.SignContext(ctx, digest, keyuse.SHA1PSS{SaltLength: salt})
	}
	return key.SignContext(ctx, digest, &rsa.PSSOptions{Hash: s.h, SaltLength: salt})
}

func (s rsaPSS) verify(digest, signature []byte) error {
	if len(digest) != s.h.Size() {
		return CKR_DATA_LEN_RANGE
	}
	if rsa.VerifyPSS(s.key, s.h, digest, signature, &rsa.PSSOptions{SaltLength: s.salt}) != nil {
		return CKR_SIGNATURE_INVALID
	}
	return nil
}
