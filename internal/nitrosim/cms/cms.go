// Package cms writes what KMS answers to a request with an attestation
// document: CMS EnvelopedData in BER, for the emulator and for tests.
package cms

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"slices"
)

// Form is how the encrypted content lies in a message. KMS uses both.
type Form int

// The forms of [0] encryptedContent.
const (
	Constructed Form = iota // of indefinite length, around an OCTET STRING
	Primitive               // the bytes themselves
)

// Envelope is a message before it is encoded, open to change.
type Envelope struct {
	Recipient    []byte // SHA-256 of the SubjectPublicKeyInfo
	EncryptedKey []byte
	IV           []byte
	Ciphertext   []byte
	Form         Form
}

// Seal encrypts a plaintext for a public key.
func Seal(public *rsa.PublicKey, plaintext []byte, form Form) (*Envelope, error) {
	padding := aes.BlockSize - len(plaintext)%aes.BlockSize
	return SealPadded(public, slices.Concat(plaintext, bytes.Repeat([]byte{byte(padding)}, padding)), form)
}

// SealPadded encrypts whole blocks, whatever their padding.
func SealPadded(public *rsa.PublicKey, padded []byte, form Form) (*Envelope, error) {
	e := &Envelope{IV: make([]byte, aes.BlockSize), Ciphertext: make([]byte, len(padded)), Form: form}
	key := make([]byte, 32)
	rand.Read(key)
	rand.Read(e.IV)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	cipher.NewCBCEncrypter(block, e.IV).CryptBlocks(e.Ciphertext, padded)
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	id := sha256.Sum256(der)
	e.Recipient = id[:]
	e.EncryptedKey, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, public, key, nil)
	return e, err
}

// Encrypt gives a whole message for a public key.
func Encrypt(public *rsa.PublicKey, plaintext []byte, form Form) ([]byte, error) {
	e, err := Seal(public, plaintext, form)
	if err != nil {
		return nil, err
	}
	return e.Message().Encode(), nil
}
