package p11

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/internal/keyuse"
	"github.com/tpm2-p11/tpm2-p11/signer"
)

// rsaPKCS1Mechanisms are RSASSA-PKCS1-v1_5 and RSAES-PKCS1-v1_5 (PKCS #11 v3.2, section 6.1.6). Keys decrypt only where the
// configuration says so, and public keys of the token encrypt no more than that; those of others always do. CKM_SHA1_RSA_PKCS verifies
// only, unless the configuration says more; who needs a SHA-1 signature for an old protocol gives its DigestInfo to CKM_RSA_PKCS.
var rsaPKCS1Mechanisms = []mechanism{
	{id: CKM_RSA_PKCS, flags: CKF_HW | CKF_SIGN | CKF_VERIFY | CKF_SIGN_RECOVER | CKF_VERIFY_RECOVER | CKF_ENCRYPT, keys: CKK_RSA, scheme: tpm2.TPMAlgRSASSA, sign: newRSAPKCS1, cipher: newRSAPKCS1Cipher, sizes: rsaSizes,
		legacy: legacy{config.PKCS1Decryption, CKF_DECRYPT}},
	{id: CKM_SHA1_RSA_PKCS, flags: CKF_VERIFY, keys: CKK_RSA, scheme: tpm2.TPMAlgRSASSA, hash: crypto.SHA1, sign: newRSAPKCS1, sizes: rsaSizes, legacy: signsSHA1},
	{id: CKM_SHA256_RSA_PKCS, flags: CKF_HW | CKF_SIGN | CKF_VERIFY, keys: CKK_RSA, scheme: tpm2.TPMAlgRSASSA, hash: crypto.SHA256, sign: newRSAPKCS1, sizes: rsaSizes},
	{id: CKM_SHA384_RSA_PKCS, flags: CKF_HW | CKF_SIGN | CKF_VERIFY, keys: CKK_RSA, scheme: tpm2.TPMAlgRSASSA, hash: crypto.SHA384, sign: newRSAPKCS1, sizes: rsaSizes},
	{id: CKM_SHA512_RSA_PKCS, flags: CKF_HW | CKF_SIGN | CKF_VERIFY, keys: CKK_RSA, scheme: tpm2.TPMAlgRSASSA, hash: crypto.SHA512, sign: newRSAPKCS1, sizes: rsaSizes},
}

// signsSHA1 is what SHA-1 mechanisms of a TPM's keys do besides verifying.
var signsSHA1 = legacy{config.SHA1Signatures, CKF_HW | CKF_SIGN}

// pkcs1Overhead is what PKCS #1 v1.5 padding takes at least (RFC 8017, section 9.2).
const pkcs1Overhead = 11

// rsaPKCS1 is RSASSA-PKCS1-v1_5. Without a hash the caller gives the DigestInfo.
type rsaPKCS1 struct {
	key *rsa.PublicKey
	h   crypto.Hash
}

func newRSAPKCS1(m *mechanism, _ Flags, o *object, p parameter) (signature, error) {
	key, err := rsaKeyOf(o.public)
	if err != nil {
		return nil, err
	}
	return rsaPKCS1{key, m.hash}, p.end()
}

func (s rsaPKCS1) hash() crypto.Hash { return s.h }
func (s rsaPKCS1) limit() int        { return s.key.Size() - pkcs1Overhead }
func (s rsaPKCS1) size() int         { return s.key.Size() }

func (s rsaPKCS1) sign(ctx context.Context, key *signer.Key, digest []byte) ([]byte, error) {
	if s.h == crypto.SHA1 {
		return key.SignContext(ctx, append([]byte(sha1DigestInfo), digest...), crypto.Hash(0))
	}
	return key.SignContext(ctx, digest, s.h)
}

// sha1DigestInfo is the DER of SHA-1's DigestInfo up to the digest (RFC 8017, section 9.2, note 1).
const sha1DigestInfo = "\x30\x21\x30\x09\x06\x05\x2b\x0e\x03\x02\x1a\x05\x00\x04\x14"

func (s rsaPKCS1) verify(digest, signature []byte) error {
	if rsa.VerifyPKCS1v15(s.key, s.h, digest, signature) != nil {
		return CKR_SIGNATURE_INVALID
	}
	return nil
}

// rsaPKCS1Cipher is RSAES-PKCS1-v1_5.
type rsaPKCS1Cipher struct{ key *rsa.PublicKey }

func newRSAPKCS1Cipher(_ *mechanism, _ Flags, o *object, p parameter) (cipher, error) {
	key, err := rsaKeyOf(o.public)
	if err != nil {
		return nil, err
	}
	return rsaPKCS1Cipher{key}, p.end()
}

func (c rsaPKCS1Cipher) limit() int { return c.key.Size() - pkcs1Overhead }
func (c rsaPKCS1Cipher) size() int  { return c.key.Size() }

func (c rsaPKCS1Cipher) encrypt(plaintext []byte) ([]byte, error) {
	return rsa.EncryptPKCS1v15(rand.Reader, c.key, plaintext)
}

// decrypt gives a message for every ciphertext: see decodePKCS1.
func (c rsaPKCS1Cipher) decrypt(ctx context.Context, key *signer.Key, ciphertext []byte) ([]byte, error) {
	seed, err := key.DecryptContext(ctx, rejectionBlock(c.key), keyuse.Unpadded{})
	if err != nil {
		return nil, err
	}
	defer clear(seed)
	block, err := key.DecryptContext(ctx, ciphertext, keyuse.Unpadded{})
	if err != nil {
		return nil, err
	}
	defer clear(block)
	secret := sha256.Sum256(seed)
	defer clear(secret[:])
	return decodePKCS1(secret[:], ciphertext, block), nil
}
