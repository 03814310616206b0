package provider

import (
	"bytes"
	"context"
	"crypto"
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// EK is an endorsement key of the TCG's EK Credential Profile, section B.3: the TPM's identity, made anew from the
// endorsement seed when it is needed.
type EK struct {
	Public Public
	// Certificate is the manufacturer's certificate in DER, nil where the TPM holds none. Nothing about it was checked.
	Certificate []byte
}

// ekProfile is a kind of EK: its template, and the NV index of its certificate.
type ekProfile struct {
	template    tpm2.TPMTPublic
	certificate Handle
}

var ekProfiles = map[KeyType]ekProfile{
	RSA2048: {tpm2.RSAEKTemplate, 0x01C00002},
	P256:    {tpm2.ECCEKTemplate, 0x01C0000A},
}

func ekProfileOf(kind KeyType) (ekProfile, error) {
	p, ok := ekProfiles[kind]
	if !ok {
		return p, fmt.Errorf("%w: an endorsement key of type %q: there are rsa2048 and p256", ErrUnsupported, string(kind))
	}
	return p, nil
}

// EndorsementKey gives the public area of an EK (RSA2048 or P256), and its certificate if the TPM holds one.
func (t *TPM) EndorsementKey(ctx context.Context, kind KeyType) (ek EK, err error) {
	profile, err := ekProfileOf(kind)
	if err == nil {
		err = t.do(ctx, func(ctx context.Context, c *connection) error {
			if err := c.withEK(ctx, profile, func(key *loadedKey) error {
				ek.Public = key.public
				return nil
			}); err != nil {
				return err
			}
			ek.Certificate, err = c.ekCertificate(ctx, profile.certificate)
			return err
		})
	}
	if err != nil {
		return EK{}, fmt.Errorf("endorsement key: %w", err)
	}
	return ek, nil
}

// withEK makes an EK as a transient object, calls use and flushes it.
func (c *connection) withEK(ctx context.Context, profile ekProfile, use func(*loadedKey) error) error {
	return c.withPrimaryOf(ctx, "endorsement key", tpm2.TPMRHEndorsement, profile.template, use)
}

// ekSession starts an HMAC session that is salted to the RSA EK and kept between commands.
func (c *connection) ekSession(ctx context.Context, hash crypto.Hash) (s *session, err error) {
	err = c.withEK(ctx, ekProfiles[RSA2048], func(ek *loadedKey) error {
		s, err = c.startSession(ctx, tpm2.TPMSEHMAC, hash, ek)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("salted session: %w", err)
	}
	s.reused = true
	return s, nil
}

// ekCertificate reads a certificate from NV; nil when there is none.
func (c *connection) ekCertificate(ctx context.Context, h Handle) ([]byte, error) {
	x, err := c.nvReadPublic(ctx, h)
	if errors.Is(err, ErrNoObject) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	limits, err := c.nvLimits(ctx)
	if err != nil {
		return nil, err
	}
	var all []byte
	read := func(by entity, auth authorization) error {
		for size := int(x.area.DataSize); len(all) < size; {
			b, err := c.nvRead(ctx, by, auth, x, len(all), min(limits.chunk, size-len(all)))
			if err != nil {
				return fmt.Errorf("%v: %w", x, err)
			}
			all = append(all, b...)
		}
		return nil
	}
	if x.area.Attributes.AuthRead {
		err = read(x.entity(), authorization{})
	} else {
		err = c.asHierarchy(ctx, tpm2.TPMRHOwner, c.tpm.ownerAuth, func(auth authorization) error {
			return read(permanent(tpm2.TPMRHOwner), auth)
		})
	}
	if err != nil {
		return nil, err
	}
	// Some manufacturers fill the index up behind the certificate.
	var certificate asn1.RawValue
	if _, err := asn1.Unmarshal(all, &certificate); err != nil {
		return nil, fmt.Errorf("%v: %w: no certificate: %w", x, ErrMalformed, err)
	}
	return bytes.Clone(certificate.FullBytes), nil
}
