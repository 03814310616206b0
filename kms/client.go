package kms

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"sync/atomic"

	"github.com/tpm2-p11/tpm2-p11/attest"
	"github.com/tpm2-p11/tpm2-p11/kms/cms"
)

const leastRecipientBits = 2048

// DocumentFunc makes a fresh attestation document; on an instance with NitroTPM
// it calls attest.Document.
type DocumentFunc func(ctx context.Context, r attest.Request) ([]byte, error)

// Client asks KMS for secrets that only its recipient key opens. Each request
// has a fresh document. It is safe for concurrent use.
type Client struct {
	service   *Service
	documents DocumentFunc
	recipient atomic.Pointer[recipient]
}

// recipient is a key that answers are closed for.
type recipient struct {
	key    crypto.Decrypter
	public []byte // DER SubjectPublicKeyInfo
}

// NewClient uses an RSA key of at least 2048 bits that decrypts with OAEP and
// SHA-256: a TPM key, as signer.Open gives it.
func NewClient(s *Service, documents DocumentFunc, key crypto.Decrypter) (*Client, error) {
	c := &Client{service: s, documents: documents}
	if err := c.Rotate(key); err != nil {
		return nil, err
	}
	return c, nil
}

// Rotate changes the recipient key. Requests under way keep theirs, which must
// not be closed before they end.
func (c *Client) Rotate(key crypto.Decrypter) error {
	der, err := RecipientPublicKey(key)
	if err != nil {
		return err
	}
	c.recipient.Store(&recipient{key, der})
	return nil
}

// RecipientPublicKey is what a document for a recipient key has as its public
// key: DER SubjectPublicKeyInfo. ErrRecipientKey for a key that KMS would not take.
func RecipientPublicKey(key crypto.Decrypter) ([]byte, error) {
	public, ok := key.Public().(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: it is %T: make an RSA key for decryption", ErrRecipientKey, key.Public())
	}
	if public.N.BitLen() < leastRecipientBits {
		return nil, fmt.Errorf("%w: %d bits, at least %d are needed", ErrRecipientKey, public.N.BitLen(), leastRecipientBits)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecipientKey, err)
	}
	return der, nil
}

// DataKey is a new data key in both its forms.
type DataKey struct {
	Plaintext  *Secret
	Ciphertext []byte // for Decrypt later on, with the same encryption context
	KeyID      string // ARN of the KMS key
}

// KeyPair is a new key pair.
type KeyPair struct {
	PrivateKey *Secret // PKCS #8, DER; not compared with PublicKey
	PublicKey  []byte  // DER SubjectPublicKeyInfo
	Ciphertext []byte  // of the private key, for Decrypt later on
	KeyID      string  // ARN of the KMS key
}

// Decrypt decrypts a ciphertext of KMS.
func (c *Client) Decrypt(ctx context.Context, r DecryptRequest) (*Secret, error) {
	plaintext, _, err := c.ask(ctx, func(document []byte) (Answer, error) { return c.service.Decrypt(ctx, document, r) })
	return plaintext, err
}

// GenerateDataKey makes a data key.
func (c *Client) GenerateDataKey(ctx context.Context, r DataKeyRequest) (*DataKey, error) {
	plaintext, a, err := c.ask(ctx, func(document []byte) (Answer, error) { return c.service.GenerateDataKey(ctx, document, r) })
	if err != nil {
		return nil, err
	}
	return &DataKey{plaintext, a.Ciphertext, a.KeyID}, nil
}

// GenerateDataKeyPair makes a key pair.
func (c *Client) GenerateDataKeyPair(ctx context.Context, r KeyPairRequest) (*KeyPair, error) {
	plaintext, a, err := c.ask(ctx, func(document []byte) (Answer, error) { return c.service.GenerateDataKeyPair(ctx, document, r) })
	if err != nil {
		return nil, err
	}
	return &KeyPair{plaintext, a.PublicKey, a.Ciphertext, a.KeyID}, nil
}

// GenerateRandom makes 1 to 1024 random bytes.
func (c *Client) GenerateRandom(ctx context.Context, size int) (*Secret, error) {
	plaintext, _, err := c.ask(ctx, func(document []byte) (Answer, error) { return c.service.GenerateRandom(ctx, document, size) })
	return plaintext, err
}

// DeriveSharedSecret derives an ECDH secret.
func (c *Client) DeriveSharedSecret(ctx context.Context, r SharedSecretRequest) (*Secret, error) {
	plaintext, _, err := c.ask(ctx, func(document []byte) (Answer, error) { return c.service.DeriveSharedSecret(ctx, document, r) })
	return plaintext, err
}

// ask makes a document, sends a request with it and opens the answer.
func (c *Client) ask(ctx context.Context, send func(document []byte) (Answer, error)) (*Secret, Answer, error) {
	r := c.recipient.Load()
	document, err := c.documents(ctx, attest.Request{PublicKey: r.public})
	if err != nil {
		return nil, Answer{}, fmt.Errorf("%w: none was made: %w", ErrDocument, err)
	}
	if claims, err := attest.Parse(document); err != nil {
		return nil, Answer{}, fmt.Errorf("%w: %w", ErrDocument, err)
	} else if !bytes.Equal(claims.PublicKey, r.public) {
		return nil, Answer{}, fmt.Errorf("%w: its public key is not the recipient's", ErrDocument)
	}
	a, err := send(document)
	if err != nil {
		return nil, Answer{}, err
	}
	plaintext, err := a.Open(ctx, r.key)
	return plaintext, a, err
}

// Open opens the answer with the key that it is closed for. Besides ErrAnswer,
// for a plaintext of another length than was asked for, errors are those of
// package kms/cms.
func (a Answer) Open(ctx context.Context, key crypto.Decrypter) (*Secret, error) {
	plaintext, err := cms.Open(ctx, a.Closed, key)
	if err != nil {
		return nil, fmt.Errorf("the answer of KMS: %w", err)
	}
	if n := plaintext.Len(); n == 0 || a.size != 0 && n != a.size {
		plaintext.Wipe()
		return nil, fmt.Errorf("%w: %d bytes in place of %d", ErrAnswer, n, a.size)
	}
	return &Secret{value: plaintext}, nil
}

// Open opens an answer that was kept closed (Answer.Closed).
func Open(ctx context.Context, closed []byte, key crypto.Decrypter) (*Secret, error) {
	return Answer{Closed: closed}.Open(ctx, key)
}
