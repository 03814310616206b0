package provider

import (
	"bytes"
	"context"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
)

// MaxSealed is the most a sealed object holds, in bytes.
const MaxSealed = 128

// Seal wraps data (1 to MaxSealed bytes) under the SRK. Template.Type and Use are ignored.
func (t *TPM) Seal(ctx context.Context, data *secret.Bytes, tmpl Template, authValue *secret.Bytes) (Object, error) {
	o, err := t.seal(ctx, data, tmpl, authValue)
	if err != nil {
		return Object{}, fmt.Errorf("seal: %w", err)
	}
	return o, nil
}

func (t *TPM) seal(ctx context.Context, data *secret.Bytes, tmpl Template, authValue *secret.Bytes) (Object, error) {
	if n := data.Len(); n < 1 || n > MaxSealed {
		return Object{}, fmt.Errorf("%w: %d bytes of data: a sealed object holds 1 to %d", ErrUnsupported, n, MaxSealed)
	}
	if err := tmpl.check(authValue); err != nil {
		return Object{}, err
	}
	attrs := tmpl.attributes()
	attrs.FixedTPM = true
	attrs.FixedParent = true
	return t.create(ctx, tpm2.TPMTPublic{
		Type:             tpm2.TPMAlgKeyedHash,
		NameAlg:          tpm2.TPMAlgSHA256,
		ObjectAttributes: attrs,
		AuthPolicy:       tpm2.TPM2BDigest{Buffer: tmpl.AuthPolicy},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{
			Scheme: tpm2.TPMTKeyedHashScheme{Scheme: tpm2.TPMAlgNull},
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgKeyedHash, &tpm2.TPM2BDigest{}),
	}, authValue, data)
}

// Unseal opens sealed data (TPM2_Unseal, TPM 2.0 Part 3, section 12.7); the answer travels encrypted.
func (t *TPM) Unseal(ctx context.Context, o Object, a Auth) (*secret.Bytes, error) {
	if !o.Public.IsSealed() {
		return nil, a.wrap("unseal", fmt.Errorf("%w: it is %s", ErrWrongUse, o.Public.Describe()))
	}
	var data *secret.Bytes
	err := t.do(ctx, func(ctx context.Context, c *connection) error {
		return c.use(ctx, o, a, tpm2.TPMCCUnseal, crypt{encrypt: true}, func(object entity, auths []authorization) error {
			r, err := c.run(ctx, command{code: tpm2.TPMCCUnseal, in: []entity{object}, auths: auths})
			if err != nil {
				return err
			}
			data, err = r.secret()
			return err
		})
	})
	if err != nil {
		return nil, a.wrap("unseal", err)
	}
	return data, nil
}

// secret takes the response's only parameter, a decrypted TPM2B, and wipes it in the response.
func (r *response) secret() (*secret.Bytes, error) {
	all := r.b
	defer clear(all)
	b := r.sized()
	if err := r.end(); err != nil {
		return nil, err
	}
	return secret.From(bytes.Clone(b)), nil
}
