package attested

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"fmt"
	"io"

	"github.com/tpm2-p11/tpm2-p11/provider"
)

// Ephemeral makes an RSA-2048 key in a TPM as a recipient for a few requests: no store is needed, and nothing is made
// persistent. Only this process has the key's wrapped form, which the TPM loads and flushes at each use: there is nothing to
// close. Making it can take a minute.
func Ephemeral(ctx context.Context, tpm *provider.TPM) (Recipient, error) {
	template := provider.Template{Type: provider.RSA2048, Use: provider.Use{Decrypt: true}}
	object, err := tpm.CreateKey(ctx, template, nil)
	if err != nil {
		return Recipient{}, fmt.Errorf("a recipient key for this request: %w", err)
	}
	public, err := object.Public.Key()
	if err != nil {
		return Recipient{}, fmt.Errorf("a recipient key for this request: %w", err)
	}
	return Recipient{Key: &ephemeral{tpm, object, public}, TPM: tpm}, nil
}

// ephemeral decrypts with a wrapped key.
type ephemeral struct {
	tpm    *provider.TPM
	object provider.Object
	public crypto.PublicKey
}

// Public is *rsa.PublicKey.
func (k *ephemeral) Public() crypto.PublicKey { return k.public }

// Decrypt implements crypto.Decrypter for OAEP with SHA-256, which is what KMS uses.
func (k *ephemeral) Decrypt(_ io.Reader, ciphertext []byte, opts crypto.DecrypterOpts) ([]byte, error) {
	return k.DecryptContext(context.Background(), ciphertext, opts)
}

// DecryptContext is Decrypt with a context.
func (k *ephemeral) DecryptContext(ctx context.Context, ciphertext []byte, opts crypto.DecrypterOpts) ([]byte, error) {
	oaep, ok := opts.(*rsa.OAEPOptions)
	if !ok || oaep.Hash != crypto.SHA256 || oaep.MGFHash != 0 && oaep.MGFHash != crypto.SHA256 || len(oaep.Label) > 0 {
		return nil, fmt.Errorf("%w: the recipient key decrypts with OAEP and SHA-256 alone", provider.ErrUnsupported)
	}
	out, err := k.tpm.DecryptOAEP(ctx, k.object, provider.Auth{Label: "recipient of this request"}, crypto.SHA256, nil, ciphertext)
	if err != nil {
		return nil, err
	}
	defer out.Wipe()
	return bytes.Clone(out.Bytes()), nil
}
