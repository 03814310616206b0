package provider

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rsa"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
)

// ImportKey wraps an existing *rsa.PrivateKey or *ecdsa.PrivateKey under the SRK (TPM2_Import with a seed encrypted to
// the SRK). Template.Type is ignored. The key is neither fixedTPM nor fixedParent nor sensitiveDataOrigin. RSA keys have two
// primes and the exponent 65537; EC keys are on P-256, P-384 or P-521.
func (t *TPM) ImportKey(ctx context.Context, key crypto.PrivateKey, tmpl Template, authValue *secret.Bytes) (Object, error) {
	o, err := t.importKey(ctx, key, tmpl, authValue)
	if err != nil {
		return Object{}, fmt.Errorf("import a key: %w", err)
	}
	return o, nil
}

func (t *TPM) importKey(ctx context.Context, key crypto.PrivateKey, tmpl Template, authValue *secret.Bytes) (Object, error) {
	if err := tmpl.check(authValue); err != nil {
		return Object{}, err
	}
	area, private, err := tmpl.imported(key)
	if err != nil {
		return Object{}, err
	}
	defer clear(private)
	public, err := newPublic(area)
	if err != nil {
		return Object{}, err
	}
	sensitive := marshalSensitive(area.Type, authValue, private)
	defer clear(sensitive)

	o := Object{Public: public, Parent: tpm2.TPMRHOwner}
	err = t.do(ctx, func(ctx context.Context, c *connection) error {
		return c.withSRK(ctx, func(srk *loadedKey) (err error) {
			if o.Private, err = c.importObject(ctx, srk, public, sensitive); err != nil {
				return err
			}
			h, err := c.load(ctx, srk.entity(), o)
			if err != nil {
				return err
			}
			c.flush(ctx, h)
			return nil
		})
	})
	if err != nil {
		return Object{}, err
	}
	return o, nil
}

// ImportedPublic is the public area, and with it the Name, that ImportKey gives a key: whoever has the public half alone can
// look whether the key is there. Template.Type is ignored.
func ImportedPublic(public crypto.PublicKey, tmpl Template) (Public, error) {
	area, err := tmpl.importedArea(public)
	if err != nil {
		return Public{}, err
	}
	return newPublic(area)
}

// importedArea is the public area of an existing key.
func (tmpl Template) importedArea(public crypto.PublicKey) (tpm2.TPMTPublic, error) {
	none := tpm2.TPMTPublic{}
	switch k := public.(type) {
	case *rsa.PublicKey:
		bits := k.N.BitLen()
		if k.E != 65537 {
			return none, fmt.Errorf("%w: an RSA key with the exponent %d: TPMs have 65537", ErrUnsupported, k.E)
		}
		if bits%1024 != 0 || bits < 2048 || bits > 4096 {
			return none, fmt.Errorf("%w: an RSA key of %d bits: there are 2048, 3072 and 4096", ErrUnsupported, bits)
		}
		area, err := tmpl.keyArea(tpm2.TPMAlgRSA, rsaParameters(tpm2.TPMKeyBits(bits), 0))
		if err != nil {
			return none, err
		}
		area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: k.N.FillBytes(make([]byte, bits/8))})
		return area, nil
	case *ecdsa.PublicKey:
		curve, ok := curveID(k.Curve)
		if !ok {
			return none, fmt.Errorf("%w: an EC key that is not on P-256, P-384 or P-521", ErrUnsupported)
		}
		point, err := k.Bytes()
		if err != nil {
			return none, fmt.Errorf("%w: %w", ErrUnsupported, err)
		}
		area, err := tmpl.keyArea(tpm2.TPMAlgECC, eccParameters(curve))
		if err != nil {
			return none, err
		}
		size := (len(point) - 1) / 2
		area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: point[1 : 1+size]},
			Y: tpm2.TPM2BECCParameter{Buffer: point[1+size:]},
		})
		return area, nil
	}
	return none, fmt.Errorf("%w: a key of type %T: RSA and ECDSA keys can be imported", ErrUnsupported, public)
}

// imported gives the public area of an existing key and its sensitive part: a prime or the scalar.
func (tmpl Template) imported(key crypto.PrivateKey) (area tpm2.TPMTPublic, sensitive []byte, err error) {
	switch k := key.(type) {
	case *rsa.PrivateKey:
		if area, err = tmpl.importedArea(&k.PublicKey); err != nil {
			return area, nil, err
		}
		if err := k.Validate(); err != nil {
			return area, nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
		}
		half := k.N.BitLen() / 2
		if len(k.Primes) != 2 || k.Primes[0].BitLen() != half || k.Primes[1].BitLen() != half {
			return area, nil, fmt.Errorf("%w: an RSA key with %d primes: TPMs have two of half its size", ErrUnsupported, len(k.Primes))
		}
		return area, k.Primes[0].FillBytes(make([]byte, half/8)), nil
	case *ecdsa.PrivateKey:
		if area, err = tmpl.importedArea(&k.PublicKey); err != nil {
			return area, nil, err
		}
		scalar, err := k.Bytes()
		if err != nil {
			return area, nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
		}
		return area, scalar, nil
	}
	return area, nil, fmt.Errorf("%w: a key of type %T: RSA and ECDSA keys can be imported", ErrUnsupported, key)
}

// marshalSensitive gives a TPM2B_SENSITIVE (TPM 2.0 Part 2, section 12.3.3) without seed, which asymmetric keys that are no parents need none of.
func marshalSensitive(kind tpm2.TPMIAlgPublic, value *secret.Bytes, private []byte) []byte {
	size := 2 + 2 + len(authValue(value)) + 2 + 2 + len(private)
	b := make([]byte, 0, 2+size)
	b = put16(b, uint16(size))
	b = put16(b, uint16(kind))
	b = put2B(b, authValue(value))
	b = put2B(b, nil)
	return put2B(b, private)
}

// importObject is TPM2_Import (Part 3, section 13.3) of a sensitive area that only the SRK's TPM can open.
func (c *connection) importObject(ctx context.Context, srk *loadedKey, public Public, sensitive []byte) ([]byte, error) {
	duplicate, seed, err := outerWrap(srk.public, public.name, sensitive)
	if err != nil {
		return nil, err
	}
	p := put2B(nil, nil) // encryptionKey: no inner wrapper, the outer one encrypts
	p = put2B(p, public.bytes)
	p = put2B(p, duplicate)
	p = put2B(p, seed)
	p = put16(p, uint16(tpm2.TPMAlgNull)) // symmetricAlg
	r, err := c.run(ctx, command{
		code:   tpm2.TPMCCImport,
		in:     []entity{srk.entity()},
		auths:  []authorization{{}},
		params: p,
	})
	if isParameter(codeOf(err), tpm2.TPMRCValue, 2) { // the reference code's answer to a size that it lacks
		return nil, fmt.Errorf("%w: it has no such keys as this one (%s): %w", ErrUnsupported, public.Describe(), err)
	}
	if err != nil {
		return nil, err
	}
	private := bytes.Clone(r.sized())
	return private, r.end()
}

// outerWrap encrypts a sensitive area to a new parent with SHA-256 and AES-128 (Part 1, section 23.3): the seed is shared with the parent,
// and gives the keys of the encryption and of the HMAC over it and the Name.
func outerWrap(parent Public, name Name, sensitive []byte) (duplicate, encryptedSeed []byte, err error) {
	seed, encryptedSeed, err := shareSecret(parent, "DUPLICATE")
	if err != nil {
		return nil, nil, err
	}
	defer clear(seed)
	key := tpm2.KDFa(crypto.SHA256, seed, "STORAGE", name, nil, 128)
	defer clear(key)
	encrypted := bytes.Clone(sensitive)
	cfb(key, make([]byte, 16), encrypted, true)

	macKey := tpm2.KDFa(crypto.SHA256, seed, "INTEGRITY", nil, nil, 256)
	defer clear(macKey)
	mac := hmac.New(crypto.SHA256.New, macKey)
	mac.Write(encrypted)
	mac.Write(name)
	return append(put2B(nil, mac.Sum(nil)), encrypted...), encryptedSeed, nil
}
