package provider

import (
	"context"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
)

// MaxMACData is the most data of a MAC, in bytes: what every TPM takes in one command.
const MaxMACData = 1024

const macSize = 32 // HMAC-SHA-256

// macArea is the public area of a key for MACs.
func macArea(authPolicy []byte) tpm2.TPMTPublic {
	attrs := Template{AuthPolicy: authPolicy}.attributes()
	attrs.FixedTPM = true
	attrs.FixedParent = true
	attrs.SensitiveDataOrigin = true
	attrs.SignEncrypt = true
	return tpm2.TPMTPublic{
		Type:             tpm2.TPMAlgKeyedHash,
		NameAlg:          tpm2.TPMAlgSHA256,
		ObjectAttributes: attrs,
		AuthPolicy:       tpm2.TPM2BDigest{Buffer: authPolicy},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{
			Scheme: tpm2.TPMTKeyedHashScheme{
				Scheme:  tpm2.TPMAlgHMAC,
				Details: tpm2.NewTPMUSchemeKeyedHash(tpm2.TPMAlgHMAC, &tpm2.TPMSSchemeHMAC{HashAlg: tpm2.TPMAlgSHA256}),
			},
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgKeyedHash, &tpm2.TPM2BDigest{}),
	}
}

// CreateMACKey makes a key for HMAC-SHA-256 under the SRK, used by its policy alone (a digest of SHA-256). The TPM draws it, and
// nobody else ever knows it: what is computed with it was computed while the policy was met, whoever had the key made.
func (t *TPM) CreateMACKey(ctx context.Context, authPolicy []byte) (Object, error) {
	o, err := Object{}, error(nil)
	if len(authPolicy) != macSize {
		err = fmt.Errorf("%w: a policy digest of %d bytes: it has %d", ErrUnsupported, len(authPolicy), macSize)
	} else {
		o, err = t.create(ctx, macArea(authPolicy), nil, nil)
	}
	if err != nil {
		return Object{}, fmt.Errorf("create a key for MACs: %w", err)
	}
	return o, nil
}

// MAC is the HMAC-SHA-256 of at most MaxMACData bytes (TPM2_HMAC, TPM 2.0 Part 3, section 15.5), with a key as CreateMACKey makes it
// and no other (ErrWrongUse). Data and answer are as secret as the caller wants: the answer travels encrypted, the data does not.
func (t *TPM) MAC(ctx context.Context, o Object, a Auth, data []byte) (*secret.Bytes, error) {
	const what = "compute a MAC with key"
	switch authPolicy := o.Public.AuthPolicy(); {
	case len(authPolicy) == 0 || checkCreated(macArea(authPolicy), o.Public.area) != nil:
		return nil, a.wrap(what, fmt.Errorf("%w: it is no key for MACs that a TPM made and a policy guards (%s)", ErrWrongUse, o.Public.Describe()))
	case len(data) > MaxMACData:
		return nil, a.wrap(what, fmt.Errorf("%w: %d bytes of data: at most %d are possible", ErrUnsupported, len(data), MaxMACData))
	}
	var mac *secret.Bytes
	err := t.do(ctx, func(ctx context.Context, c *connection) error {
		return c.use(ctx, o, a, tpm2.TPMCCHMAC, crypt{encrypt: true}, func(object entity, auths []authorization) error {
			r, err := c.run(ctx, command{
				code: tpm2.TPMCCHMAC, in: []entity{object}, auths: auths, params: put16(put2B(nil, data), uint16(tpm2.TPMAlgSHA256)),
			})
			if err != nil {
				return err
			}
			if mac, err = r.secret(); err == nil && mac.Len() != macSize {
				err = fmt.Errorf("%w: TPM2_HMAC: %d bytes", ErrMalformed, mac.Len())
				mac.Wipe()
			}
			return err
		})
	})
	if err != nil {
		return nil, a.wrap(what, err)
	}
	return mac, nil
}
