package provider

import (
	"bytes"
	"context"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
)

// CreateKey makes a key under the SRK. Nothing stays loaded. RSA can take a minute.
func (t *TPM) CreateKey(ctx context.Context, tmpl Template, authValue *secret.Bytes) (Object, error) {
	o, err := t.createKey(ctx, tmpl, authValue)
	if err != nil {
		return Object{}, fmt.Errorf("create a key: %w", err)
	}
	return o, nil
}

func (t *TPM) createKey(ctx context.Context, tmpl Template, authValue *secret.Bytes) (Object, error) {
	kind, parms, err := tmpl.Type.parameters()
	if err != nil {
		return Object{}, err
	}
	if err := tmpl.check(authValue); err != nil {
		return Object{}, err
	}
	area, err := tmpl.keyArea(kind, parms)
	if err != nil {
		return Object{}, err
	}
	area.ObjectAttributes.FixedTPM = true
	area.ObjectAttributes.FixedParent = true
	area.ObjectAttributes.SensitiveDataOrigin = true
	return t.create(ctx, area, authValue, nil)
}

// create is TPM2_Create (TPM 2.0 Part 3, section 12.1) under the SRK. The sensitive parameter travels encrypted.
func (t *TPM) create(ctx context.Context, area tpm2.TPMTPublic, value, data *secret.Bytes) (o Object, err error) {
	err = t.do(ctx, func(ctx context.Context, c *connection) error {
		return c.withSRK(ctx, func(srk *loadedKey) error {
			s, err := c.hmacSession(ctx)
			if err != nil {
				return err
			}
			sensitive := make([]byte, 0, 4+value.Len()+data.Len())
			sensitive = put2B(sensitive, authValue(value))
			sensitive = put2B(sensitive, data.Bytes())
			p := put2B(make([]byte, 0, 1024), sensitive)
			clear(sensitive)
			p = put2B(p, tpm2.Marshal(area))
			p = put2B(p, nil) // outsideInfo
			p = put32(p, 0)   // creationPCR
			r, err := c.run(ctx, command{
				code:   tpm2.TPMCCCreate,
				in:     []entity{srk.entity()},
				auths:  []authorization{{session: s, decrypt: true}},
				params: p,
			})
			if err != nil {
				return err
			}
			private, public := bytes.Clone(r.sized()), r.sized()
			if r.err != nil {
				return fmt.Errorf("TPM2_Create: %w", r.err)
			}
			o = Object{Private: private, Parent: tpm2.TPMRHOwner}
			if o.Public, err = ParsePublic(public); err != nil {
				return err
			}
			return checkCreated(area, o.Public.area)
		})
	})
	if err != nil {
		return Object{}, err
	}
	return o, nil
}

// checkCreated makes sure that the TPM made what was asked: a key with userWithAuth set, say, would not be bound to its policy.
func checkCreated(want, have tpm2.TPMTPublic) error {
	if have.Type == want.Type {
		have.Unique = want.Unique
		if bytes.Equal(tpm2.Marshal(have), tpm2.Marshal(want)) {
			return nil
		}
	}
	return fmt.Errorf("%w: the TPM made another object than the template's", ErrIntegrity)
}

// ChangeAuth gives a wrapped object a new authValue (TPM2_ObjectChangeAuth, Part 3, section 12.8); the old blob keeps the old one.
func (t *TPM) ChangeAuth(ctx context.Context, o Object, a Auth, newValue *secret.Bytes) (Object, error) {
	changed := Object{Public: o.Public, Parent: o.Parent}
	o.Handle = 0
	if err := (Template{}).check(newValue); err != nil {
		return Object{}, a.wrap("change the authorisation value", err)
	}
	err := t.do(ctx, func(ctx context.Context, c *connection) error {
		return c.withParent(ctx, o.Parent, func(parent entity) error {
			return c.use(ctx, o, a, tpm2.TPMCCObjectChangeAuth, crypt{decrypt: true}, func(object entity, auths []authorization) error {
				r, err := c.run(ctx, command{
					code:   tpm2.TPMCCObjectChangeAuth,
					in:     []entity{object, parent},
					auths:  auths,
					params: put2B(nil, authValue(newValue)),
				})
				if isCode(err, tpm2.TPMRCPolicyFail) && o.Public.Attributes().AdminWithPolicy {
					return fmt.Errorf("only a policy that names TPM2_ObjectChangeAuth allows it: %w", err)
				}
				if err != nil {
					return err
				}
				changed.Private = bytes.Clone(r.sized())
				return r.end()
			})
		})
	})
	if err != nil {
		return Object{}, a.wrap("change the authorisation value", err)
	}
	return changed, nil
}
