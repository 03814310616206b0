package kms

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awskms "github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/tpm2-p11/tpm2-p11/attest"
)

// Service sends requests to KMS with documents that the caller has, and gives
// the answers closed. It is safe for concurrent use.
type Service struct {
	api     *awskms.Client
	region  string
	timeout time.Duration
	log     *slog.Logger
}

// NewService prepares requests to KMS. It asks the metadata service for the
// region when nothing else tells it, and for credentials with the first request.
func NewService(ctx context.Context, o Options) (*Service, error) {
	o, err := o.complete(ctx)
	if err != nil {
		return nil, err
	}
	client, err := o.newHTTPClient()
	if err != nil {
		return nil, err
	}
	options := awskms.Options{
		Region:      o.Region,
		Credentials: o.Credentials,
		HTTPClient:  client,
		Retryer: retry.NewStandard(func(r *retry.StandardOptions) {
			r.MaxAttempts = o.Attempts
			r.MaxBackoff = o.MaxBackoff
		}),
	}
	if o.Endpoint != "" {
		options.BaseEndpoint = &o.Endpoint
	}
	return &Service{api: awskms.New(options), region: o.Region, timeout: o.Timeout, log: o.Log}, nil
}

// Region is where requests go.
func (s *Service) Region() string { return s.region }

// Answer is what KMS said to a request with a document.
type Answer struct {
	Closed     []byte // CMS EnvelopedData for the document's public key; Open reads it
	KeyID      string // ARN of the key that KMS used; empty for random bytes
	Ciphertext []byte // of a new data key or a new pair's private key, under the KMS key; for Decrypt later on
	PublicKey  []byte // of a new pair, DER SubjectPublicKeyInfo

	size int // that the plaintext must have; 0 for any
}

// reply is an Answer with what must not be in it.
type reply struct {
	Answer
	plaintext []byte
}

// Decrypt has KMS decrypt a ciphertext for the document's key.
func (s *Service) Decrypt(ctx context.Context, document []byte, r DecryptRequest) (Answer, error) {
	if err := checkSize("ciphertext", len(r.Ciphertext), 1, MaxCiphertext); err != nil {
		return Answer{}, err
	}
	return s.ask(ctx, r.question(), document, func(ctx context.Context, recipient *types.RecipientInfo) (reply, error) {
		out, err := s.api.Decrypt(ctx, &awskms.DecryptInput{
			CiphertextBlob: r.Ciphertext, EncryptionContext: r.Context, KeyId: optional(r.KeyID),
			EncryptionAlgorithm: types.EncryptionAlgorithmSpec(r.Algorithm), Recipient: recipient,
		})
		if err != nil {
			return reply{}, err
		}
		return reply{Answer{Closed: out.CiphertextForRecipient, KeyID: aws.ToString(out.KeyId)}, out.Plaintext}, nil
	})
}

// GenerateDataKey has KMS make a data key, for the document's key and under the KMS key.
func (s *Service) GenerateDataKey(ctx context.Context, document []byte, r DataKeyRequest) (Answer, error) {
	if err := checkSize("data key", r.size(), 1, maxRandom); err != nil {
		return Answer{}, err
	}
	return s.ask(ctx, r.question(), document, func(ctx context.Context, recipient *types.RecipientInfo) (reply, error) {
		size := int32(r.size())
		out, err := s.api.GenerateDataKey(ctx, &awskms.GenerateDataKeyInput{
			KeyId: &r.KeyID, EncryptionContext: r.Context, NumberOfBytes: &size, Recipient: recipient,
		})
		if err != nil {
			return reply{}, err
		}
		return reply{Answer{Closed: out.CiphertextForRecipient, KeyID: aws.ToString(out.KeyId), Ciphertext: out.CiphertextBlob}, out.Plaintext}, nil
	})
}

// GenerateDataKeyPair has KMS make a key pair; the plaintext is its private key
// as PKCS #8. That it belongs to the public key is for the caller to check.
func (s *Service) GenerateDataKeyPair(ctx context.Context, document []byte, r KeyPairRequest) (Answer, error) {
	if r.Spec == "" {
		return Answer{}, fmt.Errorf("%w: a key pair needs a kind, like RSA_2048 or ECC_NIST_P256", ErrInput)
	}
	return s.ask(ctx, r.question(), document, func(ctx context.Context, recipient *types.RecipientInfo) (reply, error) {
		out, err := s.api.GenerateDataKeyPair(ctx, &awskms.GenerateDataKeyPairInput{
			KeyId: &r.KeyID, EncryptionContext: r.Context, KeyPairSpec: types.DataKeyPairSpec(r.Spec), Recipient: recipient,
		})
		if err != nil {
			return reply{}, err
		}
		return reply{Answer{
			Closed: out.CiphertextForRecipient, KeyID: aws.ToString(out.KeyId),
			Ciphertext: out.PrivateKeyCiphertextBlob, PublicKey: out.PublicKey,
		}, out.PrivateKeyPlaintext}, nil
	})
}

// GenerateRandom has KMS make 1 to 1024 random bytes.
func (s *Service) GenerateRandom(ctx context.Context, document []byte, size int) (Answer, error) {
	if err := checkSize("random", size, 1, maxRandom); err != nil {
		return Answer{}, err
	}
	return s.ask(ctx, randomQuestion(size), document, func(ctx context.Context, recipient *types.RecipientInfo) (reply, error) {
		n := int32(size)
		out, err := s.api.GenerateRandom(ctx, &awskms.GenerateRandomInput{NumberOfBytes: &n, Recipient: recipient})
		if err != nil {
			return reply{}, err
		}
		return reply{Answer{Closed: out.CiphertextForRecipient}, out.Plaintext}, nil
	})
}

// DeriveSharedSecret has KMS derive an ECDH secret: the raw x coordinate, to be
// put through a key derivation function.
func (s *Service) DeriveSharedSecret(ctx context.Context, document []byte, r SharedSecretRequest) (Answer, error) {
	if err := checkSize("public key", len(r.PublicKey), 1, maxPublicKey); err != nil {
		return Answer{}, err
	}
	return s.ask(ctx, r.question(), document, func(ctx context.Context, recipient *types.RecipientInfo) (reply, error) {
		out, err := s.api.DeriveSharedSecret(ctx, &awskms.DeriveSharedSecretInput{
			KeyId: &r.KeyID, KeyAgreementAlgorithm: types.KeyAgreementAlgorithmSpecEcdh, PublicKey: r.PublicKey, Recipient: recipient,
		})
		if err != nil {
			return reply{}, err
		}
		return reply{Answer{Closed: out.CiphertextForRecipient, KeyID: aws.ToString(out.KeyId)}, out.SharedSecret}, nil
	})
}

// Encrypt has KMS encrypt up to 4096 bytes. It needs no document: whoever asks
// has the plaintext already.
func (s *Service) Encrypt(ctx context.Context, r EncryptRequest) (ciphertext []byte, err error) {
	if err := checkSize("plaintext", len(r.Plaintext), 1, maxEncrypt); err != nil {
		return nil, err
	}
	err = s.send(ctx, r.question(), nil, func(ctx context.Context) error {
		out, err := s.api.Encrypt(ctx, &awskms.EncryptInput{KeyId: &r.KeyID, EncryptionContext: r.Context, Plaintext: r.Plaintext})
		if err == nil {
			ciphertext = out.CiphertextBlob
		}
		return err
	})
	if err == nil && len(ciphertext) == 0 {
		err = fmt.Errorf("KMS Encrypt: %w: no ciphertext", ErrAnswer)
	}
	return ciphertext, err
}

// ask sends a question with a document, and takes only a closed answer of the key that was asked for.
func (s *Service) ask(ctx context.Context, q question, document []byte, call func(context.Context, *types.RecipientInfo) (reply, error)) (Answer, error) {
	claims, err := attest.Parse(document)
	if err != nil {
		return Answer{}, fmt.Errorf("%w: %w", ErrDocument, err)
	}
	recipient := &types.RecipientInfo{
		AttestationDocument:    document,
		KeyEncryptionAlgorithm: types.KeyEncryptionMechanismRsaesOaepSha256,
	}
	var r reply
	err = s.send(ctx, q, claims, func(ctx context.Context) (err error) {
		r, err = call(ctx, recipient)
		return err
	})
	if err != nil {
		return Answer{}, err
	}
	if len(r.plaintext) > 0 {
		clear(r.plaintext)
		s.log.Error("KMS answered in the clear", "operation", q.operation, "key", q.keyID)
		return Answer{}, fmt.Errorf("KMS %s: %w", q.operation, ErrPlaintext)
	}
	if len(r.Closed) == 0 {
		return Answer{}, fmt.Errorf("KMS %s: %w: nothing for the recipient", q.operation, ErrAnswer)
	}
	if !q.answeredBy(r.KeyID) {
		return Answer{}, fmt.Errorf("KMS %s: %w: key %q in place of %q", q.operation, ErrAnswer, r.KeyID, q.keyID)
	}
	r.size = q.size
	return r.Answer, nil
}

// send checks a question, carries a call out within the timeout and explains its error. claims may be nil.
func (s *Service) send(ctx context.Context, q question, claims *attest.Claims, call func(context.Context) error) error {
	if err := q.check(s.region); err != nil {
		return fmt.Errorf("KMS %s: %w", q.operation, err)
	}
	if q.bindable && len(q.context) == 0 {
		s.log.Warn("a request to KMS without encryption context: nothing binds its answer to what it is for", "operation", q.operation, "key", q.keyID)
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	start := time.Now()
	err := call(ctx)
	if err != nil {
		err = fmt.Errorf("KMS %s in %s: %w", q.operation, s.region, explain(err, claims))
	}
	s.log.Debug("request to KMS", "operation", q.operation, "key", q.keyID, "region", s.region,
		"pcrs", shown(claims), "took", time.Since(start), "error", err)
	return err
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
