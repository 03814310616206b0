package cms

import (
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

const contentKeySize = 32 // AES-256

// RecipientID is how a message names the key that it is for: the SHA-256 of the
// key's DER SubjectPublicKeyInfo.
func RecipientID(public crypto.PublicKey) ([sha256.Size]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return [sha256.Size]byte{}, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return sha256.Sum256(der), nil
}

// contextDecrypter is a crypto.Decrypter that stops when its context does.
type contextDecrypter interface {
	DecryptContext(ctx context.Context, ciphertext []byte, opts crypto.DecrypterOpts) ([]byte, error)
}

// Open decrypts a message of at most MaxSize bytes with the RSA key that it is
// for. The plaintext is whole or not there at all. A key with a method
// DecryptContext, like signer.Key, is used by that.
func Open(ctx context.Context, message []byte, key crypto.Decrypter) (*secret.Bytes, error) {
	public, ok := key.Public().(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: it is %T, not RSA", ErrKey, key.Public())
	}
	e, err := parse(message)
	if err != nil {
		return nil, err
	}
	id, err := RecipientID(public)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(id[:], e.recipient) != 1 {
		return nil, fmt.Errorf("%w: it names %x, and this key is %x", ErrRecipient, e.recipient, id)
	}
	if len(e.encryptedKey) != public.Size() {
		return nil, fmt.Errorf("%w: encrypted key of %d bytes for a key of %d", ErrMalformed, len(e.encryptedKey), public.Size())
	}
	if len(e.ciphertext) == 0 || len(e.ciphertext)%aes.BlockSize != 0 {
		return nil, fmt.Errorf("%w: encrypted content of %d bytes", ErrMalformed, len(e.ciphertext))
	}
	contentKey, err := unwrap(ctx, key, e.encryptedKey)
	if err != nil {
		return nil, err
	}
	defer clear(contentKey)
	return decryptCBC(contentKey, e.iv, e.ciphertext)
}

// unwrap has the key decrypt the content key. That the block was bad is
// ErrDecrypt alone; that the key did not work at all is told.
func unwrap(ctx context.Context, key crypto.Decrypter, encrypted []byte) ([]byte, error) {
	oaep := &rsa.OAEPOptions{Hash: crypto.SHA256, MGFHash: crypto.SHA256}
	var contentKey []byte
	var err error
	if k, ok := key.(contextDecrypter); ok {
		contentKey, err = k.DecryptContext(ctx, encrypted, oaep)
	} else {
		contentKey, err = key.Decrypt(nil, encrypted, oaep)
	}
	switch {
	case errors.Is(err, rsa.ErrDecryption), errors.Is(err, provider.ErrDecrypt):
		return nil, ErrDecrypt
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	case len(contentKey) != contentKeySize:
		clear(contentKey)
		return nil, ErrDecrypt
	}
	return contentKey, nil
}

// decryptCBC decrypts whole blocks and takes the padding off (RFC 5652, section
// 6.3). It looks at the last block in a time that does not depend on it.
func decryptCBC(key, iv, ciphertext []byte) (*secret.Bytes, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, ErrDecrypt
	}
	padded := secret.New(len(ciphertext))
	defer padded.Wipe()
	b := padded.Bytes()
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(b, ciphertext)

	last := b[len(b)-aes.BlockSize:]
	n := int(last[aes.BlockSize-1])
	good := subtle.ConstantTimeLessOrEq(1, n) & subtle.ConstantTimeLessOrEq(n, aes.BlockSize)
	for i, v := range last {
		isPadding := subtle.ConstantTimeLessOrEq(aes.BlockSize-i, n)
		isRight := subtle.ConstantTimeEq(int32(v), int32(n))
		good &= subtle.ConstantTimeSelect(isPadding, isRight, 1)
	}
	if good != 1 {
		return nil, ErrDecrypt
	}
	plaintext := secret.New(len(b) - n)
	copy(plaintext.Bytes(), b)
	return plaintext, nil
}
