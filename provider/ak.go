package provider

import (
	"bytes"
	"context"
	"crypto"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/policy"
)

// AttestationKey names an attestation key (AK): a restricted signing key, which signs only what the TPM itself says. It is
// a primary key with an empty authValue: the same template gives the same key until the hierarchy's seed changes, and
// nothing needs to be stored.
type AttestationKey struct {
	Type      KeyType // P256 (default) or RSA2048
	Hierarchy Handle  // TPM_RH_ENDORSEMENT (default) or TPM_RH_OWNER
}

// resolve fills in the defaults and gives the key's template.
func (k *AttestationKey) resolve() (template tpm2.TPMTPublic, err error) {
	if k.Type == "" {
		k.Type = P256
	}
	if k.Hierarchy == 0 {
		k.Hierarchy = tpm2.TPMRHEndorsement
	}
	if k.Hierarchy != tpm2.TPMRHEndorsement && k.Hierarchy != tpm2.TPMRHOwner {
		return template, fmt.Errorf("%w: an attestation key under hierarchy 0x%08X", ErrUnsupported, uint32(k.Hierarchy))
	}
	template, ok := akTemplates[k.Type]
	if !ok {
		return template, fmt.Errorf("%w: an attestation key of type %q: there are p256 and rsa2048", ErrUnsupported, string(k.Type))
	}
	return template, nil
}

var akTemplates = map[KeyType]tpm2.TPMTPublic{
	P256: akTemplate(tpm2.TPMAlgECC, tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
		Symmetric: tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull},
		Scheme: tpm2.TPMTECCScheme{
			Scheme:  tpm2.TPMAlgECDSA,
			Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
		},
		CurveID: tpm2.TPMECCNistP256,
		KDF:     tpm2.TPMTKDFScheme{Scheme: tpm2.TPMAlgNull},
	}), tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})),
	RSA2048: akTemplate(tpm2.TPMAlgRSA, tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
		Symmetric: tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull},
		Scheme: tpm2.TPMTRSAScheme{
			Scheme:  tpm2.TPMAlgRSASSA,
			Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256}),
		},
		KeyBits: 2048,
	}), tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{})),
}

func akTemplate(kind tpm2.TPMIAlgPublic, parms tpm2.TPMUPublicParms, unique tpm2.TPMUPublicID) tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type:    kind,
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM:            true,
			FixedParent:         true,
			SensitiveDataOrigin: true,
			UserWithAuth:        true,
			NoDA:                true,
			Restricted:          true,
			SignEncrypt:         true,
		},
		Parameters: parms,
		Unique:     unique,
	}
}

// AttestationKey gives an AK's public area.
func (t *TPM) AttestationKey(ctx context.Context, k AttestationKey) (p Public, err error) {
	template, err := k.resolve()
	if err == nil {
		err = t.do(ctx, func(ctx context.Context, c *connection) error {
			return c.withPrimaryOf(ctx, "attestation key", k.Hierarchy, template, func(ak *loadedKey) error {
				p = ak.public
				return nil
			})
		})
	}
	if err != nil {
		return Public{}, fmt.Errorf("attestation key: %w", err)
	}
	return p, nil
}

// ActivateCredential opens a credential that somebody encrypted to the EK for this AK and nobody else
// (TPM2_ActivateCredential, Part 3, section 12.5): it proves that both are in the same TPM. credential is the
// TPM2B_ID_OBJECT's contents, secret the TPM2B_ENCRYPTED_SECRET's.
func (t *TPM) ActivateCredential(ctx context.Context, k AttestationKey, ek KeyType, credential, secret []byte) (value []byte, err error) {
	template, err := k.resolve()
	var profile ekProfile
	if err == nil {
		profile, err = ekProfileOf(ek)
	}
	if err == nil {
		err = t.do(ctx, func(ctx context.Context, c *connection) error {
			s, err := c.consentSession(ctx)
			if err != nil {
				return err
			}
			defer c.end(ctx, s)
			return c.withPrimaryOf(ctx, "attestation key", k.Hierarchy, template, func(ak *loadedKey) error {
				return c.withEK(ctx, profile, func(ek *loadedKey) (err error) {
					value, err = c.activate(ctx, s, ak, ek, credential, secret)
					return err
				})
			})
		})
	}
	if err != nil {
		return nil, fmt.Errorf("activate a credential: %w", err)
	}
	return value, nil
}

// consentSession starts a policy session for a hierarchy's consent.
func (c *connection) consentSession(ctx context.Context) (s *session, err error) {
	if err = c.withSRK(ctx, func(srk *loadedKey) error {
		s, err = c.startSession(ctx, tpm2.TPMSEPolicy, crypto.SHA256, srk)
		return err
	}); err != nil {
		return nil, err
	}
	s.reused = true
	if err := c.prove(ctx, s); err != nil {
		c.end(ctx, s)
		return nil, err
	}
	return s, nil
}

// activate is TPM2_ActivateCredential, whose answer travels encrypted; the EK wants its profile's policy, TPM2_PolicySecret of the
// endorsement hierarchy.
func (c *connection) activate(ctx context.Context, s *session, ak, ek *loadedKey, credential, secret []byte) ([]byte, error) {
	if err := c.policySecret(ctx, s, policy.SecretStep{Hierarchy: tpm2.TPMRHEndorsement}); err != nil {
		return nil, err
	}
	r, err := c.run(ctx, command{
		code:   tpm2.TPMCCActivateCredential,
		in:     []entity{ak.entity(), ek.entity()},
		auths:  []authorization{{}, {session: s, encrypt: true}},
		params: put2B(put2B(nil, credential), secret),
	})
	if err != nil {
		return nil, err
	}
	value := bytes.Clone(r.sized())
	return value, r.end()
}
