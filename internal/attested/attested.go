// Package attested brings together what a secret from KMS takes on a machine:
// the configuration's [kms], and an RSA key in a TPM that KMS closes its
// answers for, with documents of the same TPM. Command and module go this way.
package attested

import (
	"context"
	"crypto"
	"fmt"
	"log/slog"
	"strings"

	"github.com/tpm2-p11/tpm2-p11/attest"
	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/kms"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// Recipient is a key that answers of KMS are closed for; Stored and Ephemeral give one that its TPM alone knows.
type Recipient struct {
	Key crypto.Decrypter // RSA, for OAEP with SHA-256, like signer.Key; it stays its owner's to close
	TPM *provider.TPM    // that has the key, and is asked for documents
}

// Stored is a recipient whose key was made in the TPM before and is kept there or wrapped: kms.ErrRecipientKey for one that may be known
// outside of the TPM, as KMS would answer whoever knows it, and an error of the TPM's for an object that it does not take. key uses
// the object.
func Stored(ctx context.Context, tpm *provider.TPM, object provider.Object, key crypto.Decrypter) (Recipient, error) {
	if exposed := object.Public.Exposed(); len(exposed) > 0 {
		return Recipient{}, fmt.Errorf("%w: %w: %s", kms.ErrRecipientKey, provider.ErrWrongUse, strings.Join(exposed, "; "))
	}
	if err := tpm.Check(ctx, object); err != nil { // what a file says of it may not be so
		return Recipient{}, fmt.Errorf("the recipient key: %w", err)
	}
	return Recipient{Key: key, TPM: tpm}, nil
}

// Document asks the recipient's TPM for a fresh attestation document with its public key.
func (r Recipient) Document(ctx context.Context) ([]byte, error) {
	der, err := kms.RecipientPublicKey(r.Key)
	if err != nil {
		return nil, err
	}
	return r.document(ctx, attest.Request{PublicKey: der})
}

func (r Recipient) document(ctx context.Context, request attest.Request) ([]byte, error) {
	return attest.Document(ctx, r.TPM, request)
}

// Service prepares requests as [kms] says. What it leaves empty comes from the environment or the instance. log may be nil.
// A process needs one; it holds credentials and connections, and no secret.
func Service(ctx context.Context, c config.KMS, log *slog.Logger) (*kms.Service, error) {
	return kms.NewService(ctx, kms.Options{
		Region:         c.Region,
		Endpoint:       c.Endpoint,
		AllowPlainHTTP: c.PlainHTTP,
		Timeout:        c.Timeout,
		Attempts:       c.Attempts,
		Log:            log,
	})
}

// Client sends requests with documents for a recipient and opens the answers with its key.
func Client(s *kms.Service, r Recipient) (*kms.Client, error) {
	return kms.NewClient(s, r.document, r.Key)
}

// Unwrapper wraps and unwraps under the KMS key of [kms], for a recipient and with the caches that [kms] asks for. Whoever may
// use what is cached may use the recipient's key: the caller keeps one a key and closes it when the key is closed.
func Unwrapper(s *kms.Service, c config.KMS, r Recipient) (*kms.Unwrapper, error) {
	client, err := Client(s, r)
	if err != nil {
		return nil, err
	}
	options := kms.UnwrapperOptions{KeyID: c.KeyID, CacheFor: c.CacheFor}
	if o := c.Offline; !o.IsZero() {
		options.Offline = &kms.Offline{Dir: o.Dir, TPM: r.TPM, PCRs: o.PCRs, For: o.For}
	}
	return kms.NewUnwrapper(client, options)
}
