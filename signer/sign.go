package signer

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"fmt"
	"io"

	"github.com/tpm2-p11/tpm2-p11/internal/client"
	"github.com/tpm2-p11/tpm2-p11/internal/keyuse"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// Sign implements crypto.Signer. The random source is not used.
//
// RSA: *rsa.PSSOptions asks for PSS, where PSSSaltLengthAuto and
// PSSSaltLengthEqualsHash are the hash's length and any other length needs a key
// that may decrypt (see also [PSSSaltLengthZero]). Other options ask for PKCS #1
// v1.5. There, HashFunc() 0 says that digest is a DigestInfo already; other
// content of up to k-11 bytes, where k is the modulus' length, needs a key that may decrypt.
//
// ECDSA: the signature is ASN.1 DER. HashFunc() 0 takes a digest of 28 to 64 bytes.
//
// The hashes are SHA-256, SHA-384 and SHA-512; a DigestInfo may also be of SHA-1.
func (k *Key) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.SignContext(context.Background(), digest, opts)
}

// SignContext is Sign with a context.
func (k *Key) SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	t, err := k.planSign(digest, opts)
	if err != nil {
		return nil, fmt.Errorf("sign with key %q: %w", k.label, err)
	}
	return k.do(ctx, t)
}

// planSign decides how to sign.
func (k *Key) planSign(digest []byte, opts crypto.SignerOpts) (task, error) {
	if opts == nil {
		return task{}, fmt.Errorf("%w: no crypto.SignerOpts were given: name the hash, as in crypto.SHA256", ErrAlgorithm)
	}
	switch public := k.public.(type) {
	case *rsa.PublicKey:
		switch opts := opts.(type) {
		case *rsa.PSSOptions:
			return planPSS(k.limits, public, digest, opts)
		case keyuse.SHA1PSS:
			return planSHA1PSS(k.limits, public, digest, opts)
		}
		return planPKCS1(k.limits, public, digest, opts.HashFunc())
	case *ecdsa.PublicKey:
		return planECDSA(k.limits, public, digest, opts.HashFunc())
	default:
		return task{}, fmt.Errorf("%w: signatures of a %T", ErrAlgorithm, public)
	}
}

// signInTPM leaves all to the TPM.
func signInTPM(scheme provider.SignScheme, h crypto.Hash, digest []byte, served client.Operation) task {
	return task{
		inTPM: func(ctx context.Context, t *provider.TPM, o provider.Object, a provider.Auth) ([]byte, error) {
			return t.Sign(ctx, o, a, scheme, h, digest)
		},
		served: served,
	}
}

// signBlock has the TPM do the private operation on a block that is encoded
// here, and verifies what comes of it: a faulty RSA signature can reveal the key.
func signBlock(encode func() []byte, verify func(signature []byte) error, served client.Operation) task {
	return task{
		inTPM: func(ctx context.Context, t *provider.TPM, o provider.Object, a provider.Auth) ([]byte, error) {
			block := encode()
			out, err := t.RawRSA(ctx, o, a, block)
			if err != nil {
				return nil, err
			}
			defer out.Wipe()
			signature := wholeBlock(out.Bytes(), len(block))
			if verify(signature) != nil {
				return nil, fmt.Errorf("sign with key %q: %w: the signature does not verify", a.Label, provider.ErrIntegrity)
			}
			return signature, nil
		},
		served: served,
	}
}

// checkDigest refuses hashes that are not signed with, and digests that are not theirs.
func checkDigest(h crypto.Hash, digest []byte) error {
	switch h {
	case crypto.SHA256, crypto.SHA384, crypto.SHA512:
	case crypto.SHA1, crypto.MD5, crypto.MD5SHA1:
		return fmt.Errorf("%w: signatures with %v are refused, since they can be forged: use SHA-256", ErrAlgorithm, h)
	case 0:
		return fmt.Errorf("%w: no hash was named", ErrAlgorithm)
	default:
		return fmt.Errorf("%w: signatures with %v: use SHA-256, SHA-384 or SHA-512", ErrAlgorithm, h)
	}
	if len(digest) != h.Size() {
		return fmt.Errorf("%w: a %v digest has %d bytes, not %d", ErrLength, h, h.Size(), len(digest))
	}
	return nil
}
