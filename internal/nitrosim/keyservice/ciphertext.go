package keyservice

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"maps"
	"slices"
)

const (
	ciphertextVersion = 1
	sizeOfUUID        = 36
)

// encrypt gives a ciphertext that names its key and is bound to an encryption context.
func (k *key) encrypt(plaintext []byte, context map[string]string) []byte {
	header := append([]byte{ciphertextVersion}, k.id...)
	return k.aead.Seal(header, nil, plaintext, binding(header, context))
}

// keyOf is the id of the key that a ciphertext names.
func keyOf(ciphertext []byte) (id string, ok bool) {
	if len(ciphertext) <= 1+sizeOfUUID || ciphertext[0] != ciphertextVersion {
		return "", false
	}
	return string(ciphertext[1 : 1+sizeOfUUID]), true
}

// decrypt opens a ciphertext that names this key.
func (k *key) decrypt(ciphertext []byte, context map[string]string) ([]byte, error) {
	header := ciphertext[:1+sizeOfUUID]
	plaintext, err := k.aead.Open(nil, nil, ciphertext[len(header):], binding(header, context))
	if err != nil {
		return nil, &refusal{code: "InvalidCiphertextException", status: 400}
	}
	return plaintext, nil
}

// binding is what a ciphertext is authenticated with: no two contexts give the same.
func binding(header []byte, context map[string]string) []byte {
	b := slices.Clone(header)
	for _, name := range slices.Sorted(maps.Keys(context)) {
		for _, text := range []string{name, context[name]} {
			b = binary.BigEndian.AppendUint32(b, uint32(len(text)))
			b = append(b, text...)
		}
	}
	return b
}

// oaepHash is the hash of an encryption algorithm of RSA keys.
var oaepHash = map[string]crypto.Hash{"RSAES_OAEP_SHA_1": crypto.SHA1, "RSAES_OAEP_SHA_256": crypto.SHA256}

func (k *key) encryptOAEP(plaintext []byte, algorithm string) ([]byte, error) {
	hash, private := oaepHash[algorithm], k.private.(*rsa.PrivateKey)
	if most := private.Size() - 2*hash.Size() - 2; len(plaintext) > most {
		return nil, invalid("Algorithm %s and key spec %s cannot encrypt data larger than %d bytes.", algorithm, k.spec, most)
	}
	return rsa.EncryptOAEP(hash.New(), rand.Reader, &private.PublicKey, plaintext, nil)
}

func (k *key) decryptOAEP(ciphertext []byte, algorithm string) ([]byte, error) {
	plaintext, err := k.private.(*rsa.PrivateKey).Decrypt(nil, ciphertext, &rsa.OAEPOptions{Hash: oaepHash[algorithm]})
	if err != nil {
		return nil, &refusal{code: "InvalidCiphertextException", status: 400}
	}
	return plaintext, nil
}
