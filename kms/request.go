package kms

import (
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

// MaxCiphertext is the longest ciphertext that KMS decrypts, in bytes.
const MaxCiphertext = 6144

// Limits of KMS's requests, in bytes.
const (
	maxRandom      = 1024
	maxEncrypt     = 4096
	maxKeyID       = 2048
	dataKeySize    = 32 // AES-256
	maxPublicKey   = 8192
	partsOfARN     = 6 // arn:partition:kms:region:account:key/…
	regionOfARN    = 3
	symmetric      = string(types.EncryptionAlgorithmSpecSymmetricDefault)
	prefixAlias    = "alias/"
	prefixKeyInARN = "key/"
)

// DecryptRequest is for KMS's Decrypt.
type DecryptRequest struct {
	Ciphertext []byte            // as Encrypt and GenerateDataKey gave it
	Context    map[string]string // encryption context: exactly the one it was encrypted with
	KeyID      string            // id, ARN or alias; may be empty for symmetric keys, and then any key that is allowed decrypts
	Algorithm  string            // empty: SYMMETRIC_DEFAULT
}

// DataKeyRequest is for KMS's GenerateDataKey.
type DataKeyRequest struct {
	KeyID   string
	Context map[string]string
	Size    int // in bytes, 1 to 1024; 0: 32, for AES-256
}

// KeyPairRequest is for KMS's GenerateDataKeyPair.
type KeyPairRequest struct {
	KeyID   string
	Context map[string]string
	Spec    string // "RSA_2048", "ECC_NIST_P256", …
}

// SharedSecretRequest is for KMS's DeriveSharedSecret (ECDH).
type SharedSecretRequest struct {
	KeyID     string // a key for key agreement
	PublicKey []byte // the peer's, DER SubjectPublicKeyInfo
}

// EncryptRequest is for KMS's Encrypt, which takes no document.
type EncryptRequest struct {
	KeyID     string
	Context   map[string]string
	Plaintext []byte // at most 4096 bytes
}

// question is what all requests have in common.
type question struct {
	operation string
	keyID     string
	needsKey  bool
	context   map[string]string
	bindable  bool // it can have an encryption context
	size      int  // of the plaintext in the answer; 0 for any
}

func (r DecryptRequest) question() question {
	byDefault := r.Algorithm == "" || r.Algorithm == symmetric
	return question{operation: "Decrypt", keyID: r.KeyID, needsKey: !byDefault, context: r.Context, bindable: byDefault}
}

func (r DataKeyRequest) question() question {
	return question{operation: "GenerateDataKey", keyID: r.KeyID, needsKey: true, context: r.Context, bindable: true, size: r.size()}
}

func (r DataKeyRequest) size() int {
	if r.Size == 0 {
		return dataKeySize
	}
	return r.Size
}

func (r KeyPairRequest) question() question {
	return question{operation: "GenerateDataKeyPair", keyID: r.KeyID, needsKey: true, context: r.Context, bindable: true}
}

func (r SharedSecretRequest) question() question {
	return question{operation: "DeriveSharedSecret", keyID: r.KeyID, needsKey: true}
}

func (r EncryptRequest) question() question {
	return question{operation: "Encrypt", keyID: r.KeyID, needsKey: true, context: r.Context, bindable: true}
}

func randomQuestion(size int) question { return question{operation: "GenerateRandom", size: size} }

// check refuses what KMS would refuse, and a key of another region.
func (q question) check(region string) error {
	if q.needsKey && q.keyID == "" {
		return fmt.Errorf("%w: a KMS key must be named, by id, ARN or alias", ErrInput)
	}
	if len(q.keyID) > maxKeyID {
		return fmt.Errorf("%w: the name of the KMS key has %d bytes", ErrInput, len(q.keyID))
	}
	if !q.bindable && len(q.context) > 0 {
		return fmt.Errorf("%w: %s takes no encryption context here", ErrInput, q.operation)
	}
	if parts := strings.SplitN(q.keyID, ":", partsOfARN); len(parts) == partsOfARN && parts[0] == "arn" && parts[regionOfARN] != region {
		return fmt.Errorf("%w: the key %s is in %s and requests go to %s: set AWS_REGION", ErrRegion, q.keyID, parts[regionOfARN], region)
	}
	return nil
}

// checkSize bounds a field.
func checkSize(what string, n, least, most int) error {
	if n < least || n > most {
		return fmt.Errorf("%w: %s of %d bytes: %d to %d are possible", ErrInput, what, n, least, most)
	}
	return nil
}

// answeredBy tells whether the key that KMS says it used can be the one that was asked for.
func (q question) answeredBy(arn string) bool {
	switch {
	case q.keyID == "" || arn == q.keyID:
		return true
	case strings.Contains(q.keyID, prefixAlias): // an alias does not show in the answer
		return arn != ""
	case strings.HasPrefix(q.keyID, "arn:"):
		return false
	}
	return strings.HasSuffix(arn, ":"+prefixKeyInARN+q.keyID)
}
