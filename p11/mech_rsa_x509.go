package p11

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/subtle"
	"math/big"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/internal/keyuse"
	"github.com/tpm2-p11/tpm2-p11/signer"
)

// rsaX509Mechanisms are the RSA operation without padding (PKCS #11 v3.2, section 6.1.11), where the configuration says so. A TPM
// does it for keys that may decrypt; signatures are for those that may do both.
var rsaX509Mechanisms = []mechanism{
	{id: CKM_RSA_X_509, keys: CKK_RSA, scheme: tpm2.TPMAlgNull, raw: true, sign: newRSAX509, cipher: newRSAX509Cipher, sizes: rsaSizes,
		legacy: legacy{config.RawRSA, CKF_HW | CKF_SIGN | CKF_VERIFY | CKF_ENCRYPT | CKF_DECRYPT}},
}

// rsaX509 is the operation with one key. What is shorter than the modulus gets zeros in front.
type rsaX509 struct{ key *rsa.PublicKey }

func newRSAX509(_ *mechanism, _ Flags, o *object, p parameter) (signature, error) {
	key, err := rsaKeyOf(o.public)
	if err != nil {
		return nil, err
	}
	return rsaX509{key}, p.end()
}

func newRSAX509Cipher(_ *mechanism, _ Flags, o *object, p parameter) (cipher, error) {
	key, err := rsaKeyOf(o.public)
	if err != nil {
		return nil, err
	}
	return rsaX509{key}, p.end()
}

func (r rsaX509) hash() crypto.Hash { return 0 }
func (r rsaX509) limit() int        { return r.key.Size() }
func (r rsaX509) size() int         { return r.key.Size() }

// block is data as a number of k bytes, which must be less than the modulus.
func (r rsaX509) block(data []byte) ([]byte, error) {
	n := new(big.Int).SetBytes(data)
	if n.Cmp(r.key.N) >= 0 {
		return nil, CKR_DATA_INVALID
	}
	return n.FillBytes(make([]byte, r.size())), nil
}

// public is the operation with the public exponent, on a number less than the modulus.
func (r rsaX509) public(in []byte) []byte {
	n := new(big.Int).SetBytes(in)
	return n.Exp(n, big.NewInt(int64(r.key.E)), r.key.N).FillBytes(make([]byte, r.size()))
}

func (r rsaX509) sign(ctx context.Context, key *signer.Key, data []byte) ([]byte, error) {
	block, err := r.block(data)
	if err != nil {
		return nil, err
	}
	signature, err := key.DecryptContext(ctx, block, keyuse.Unpadded{})
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(r.public(signature), block) != 1 {
		clear(signature)
		return nil, refuse(CKR_DEVICE_ERROR, "the signature does not verify")
	}
	return signature, nil
}

func (r rsaX509) verify(data, signature []byte) error {
	block, err := r.block(data)
	if err != nil {
		return err
	}
	if new(big.Int).SetBytes(signature).Cmp(r.key.N) >= 0 || subtle.ConstantTimeCompare(r.public(signature), block) != 1 {
		return CKR_SIGNATURE_INVALID
	}
	return nil
}

func (r rsaX509) encrypt(plaintext []byte) ([]byte, error) {
	block, err := r.block(plaintext)
	if err != nil {
		return nil, err
	}
	return r.public(block), nil
}

func (r rsaX509) decrypt(ctx context.Context, key *signer.Key, ciphertext []byte) ([]byte, error) {
	return key.DecryptContext(ctx, ciphertext, keyuse.Unpadded{})
}
