package signer

import (
	"context"
	"crypto"
	"crypto/rsa"
	"fmt"
	"io"
	"slices"

	"github.com/tpm2-p11/tpm2-p11/internal/client"
	"github.com/tpm2-p11/tpm2-p11/internal/keyuse"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// Decrypt implements crypto.Decrypter for RSA keys that may decrypt, with
// *rsa.OAEPOptions: SHA-1, SHA-256, SHA-384 or SHA-512 for both the hash and MGF1
// (MGFHash is zero or the same), and any label. PKCS #1 v1.5 is refused: telling
// good padding from bad lets an attacker decrypt. Every bad ciphertext is the same ErrDecrypt.
func (k *Key) Decrypt(rand io.Reader, ciphertext []byte, opts crypto.DecrypterOpts) ([]byte, error) {
	return k.DecryptContext(context.Background(), ciphertext, opts)
}

// DecryptContext is Decrypt with a context.
func (k *Key) DecryptContext(ctx context.Context, ciphertext []byte, opts crypto.DecrypterOpts) ([]byte, error) {
	t, err := k.planDecrypt(ciphertext, opts)
	if err != nil {
		return nil, fmt.Errorf("decrypt with key %q: %w", k.label, err)
	}
	return k.do(ctx, t)
}

// planDecrypt decides whether a ciphertext may be decrypted.
func (k *Key) planDecrypt(ciphertext []byte, opts crypto.DecrypterOpts) (task, error) {
	public, ok := k.public.(*rsa.PublicKey)
	if !ok {
		return task{}, fmt.Errorf("%w: only RSA keys decrypt", ErrWrongUse)
	}
	if _, ok := opts.(keyuse.Unpadded); ok {
		return planUnpadded(k.limits, public, ciphertext)
	}
	oaep, err := oaepOptions(opts)
	if err != nil {
		return task{}, err
	}
	if err := k.limits.allowDecrypt(oaep.Hash); err != nil {
		return task{}, err
	}
	if len(ciphertext) != public.Size() {
		return task{}, fmt.Errorf("%w: a ciphertext has %d bytes, not %d", ErrLength, public.Size(), len(ciphertext))
	}
	return task{
		inTPM: func(ctx context.Context, t *provider.TPM, o provider.Object, a provider.Auth) ([]byte, error) {
			out, err := t.DecryptOAEP(ctx, o, a, oaep.Hash, oaep.Label, ciphertext)
			if err != nil {
				return nil, err
			}
			defer out.Wipe()
			return slices.Clone(out.Bytes()), nil
		},
		served: client.DecryptOAEP(oaep.Hash, oaep.Label, ciphertext),
	}, nil
}

// planUnpadded is the RSA operation alone. What becomes of it is the caller's to answer for.
func planUnpadded(l limits, public *rsa.PublicKey, in []byte) (task, error) {
	if err := l.allowDecrypt(0); err != nil {
		return task{}, err
	}
	return task{
		inTPM: func(ctx context.Context, t *provider.TPM, o provider.Object, a provider.Auth) ([]byte, error) {
			out, err := t.RawRSA(ctx, o, a, in)
			if err != nil {
				return nil, err
			}
			defer out.Wipe()
			return wholeBlock(out.Bytes(), public.Size()), nil
		},
		served: client.DecryptUnpadded(in),
	}, nil
}

// wholeBlock is a copy of k bytes: a TPM may leave out the zeros that a number begins with.
func wholeBlock(number []byte, k int) []byte {
	block := make([]byte, max(k, len(number)))
	copy(block[len(block)-len(number):], number)
	return block
}

func oaepOptions(opts crypto.DecrypterOpts) (*rsa.OAEPOptions, error) {
	oaep, ok := opts.(*rsa.OAEPOptions)
	if !ok || oaep == nil {
		switch opts.(type) {
		case nil, *rsa.PKCS1v15DecryptOptions:
			return nil, fmt.Errorf("%w: PKCS #1 v1.5 decryption is refused, since it can be made an oracle: encrypt with OAEP and give *rsa.OAEPOptions", ErrAlgorithm)
		}
		return nil, fmt.Errorf("%w: decryption options %T: give *rsa.OAEPOptions", ErrAlgorithm, opts)
	}
	switch oaep.Hash {
	case crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512:
	default:
		return nil, fmt.Errorf("%w: OAEP with %v: use SHA-256", ErrAlgorithm, oaep.Hash)
	}
	if oaep.MGFHash != 0 && oaep.MGFHash != oaep.Hash {
		return nil, fmt.Errorf("%w: OAEP with %v and MGF1 with %v: a TPM uses one hash for both", ErrAlgorithm, oaep.Hash, oaep.MGFHash)
	}
	return oaep, nil
}
