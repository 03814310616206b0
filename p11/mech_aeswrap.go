package p11

import (
	gocipher "crypto/cipher"
	"errors"
	"slices"

	"github.com/tpm2-p11/tpm2-p11/internal/keywrap"
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
)

const aesWrapFlags = CKF_WRAP | CKF_UNWRAP

// aesWrapMechanisms are AES key wrap (PKCS #11 v3.2, section 6.18): CKM_AES_KEY_WRAP for keys of whole blocks of 8 bytes, the others for
// all, and for private keys that go into the TPM. CKM_AES_KEY_WRAP_PAD, which the standard deprecates, is PKCS7's as version 2.40 has it.
var aesWrapMechanisms = []mechanism{
	{id: CKM_AES_KEY_WRAP, flags: aesWrapFlags, keys: CKK_AES, wrap: wrapWith(keywrap.Wrap), unwrap: unwrapWith(keywrap.Unwrap), wrapped: wrappedLength, sizes: aesSizes},
	{id: CKM_AES_KEY_WRAP_PAD, flags: aesWrapFlags, keys: CKK_AES, wrap: wrapWith(wrapPKCS7), unwrap: unwrapWith(unwrapPKCS7), wrapped: wrappedLengthPKCS7, private: true, sizes: aesSizes},
	{id: CKM_AES_KEY_WRAP_KWP, flags: aesWrapFlags, keys: CKK_AES, wrap: wrapWith(keywrap.WrapPadded), unwrap: unwrapWith(keywrap.UnwrapPadded), wrapped: keywrap.PaddedLength, private: true, sizes: aesSizes},
	{id: CKM_AES_KEY_WRAP_PKCS7, flags: aesWrapFlags, keys: CKK_AES, wrap: wrapWith(wrapPKCS7), unwrap: unwrapWith(unwrapPKCS7), wrapped: wrappedLengthPKCS7, private: true, sizes: aesSizes},
}

func wrappedLength(n int) int { return n + keywrap.Overhead }

// wrappedLengthPKCS7 is the length of n bytes that are padded to whole blocks, by 1 to 8 bytes.
func wrappedLengthPKCS7(n int) int {
	return wrappedLength(n/keywrap.Overhead*keywrap.Overhead + keywrap.Overhead)
}

func wrapPKCS7(block gocipher.Block, key []byte) ([]byte, error) {
	padded := make([]byte, wrappedLengthPKCS7(len(key))-keywrap.Overhead)
	defer clear(padded)
	for i := copy(padded, key); i < len(padded); i++ {
		padded[i] = byte(len(padded) - len(key))
	}
	return keywrap.Wrap(block, padded)
}

func unwrapPKCS7(block gocipher.Block, wrapped []byte) ([]byte, error) {
	padded, err := keywrap.Unwrap(block, wrapped)
	if err != nil {
		return nil, err
	}
	n := len(padded) - int(padded[len(padded)-1])
	if n < len(padded)-keywrap.Overhead || n >= len(padded) || slices.ContainsFunc(padded[n:], func(b byte) bool { return b != padded[len(padded)-1] }) {
		clear(padded)
		return nil, keywrap.ErrOpen
	}
	return padded[:n], nil
}

func wrapWith(wrap func(gocipher.Block, []byte) ([]byte, error)) wrapKey {
	return func(s *session, wrapping *object, p parameter, key *secret.Bytes) ([]byte, error) {
		if err := p.end(); err != nil { // another initial value than the standard's is not offered
			return nil, err
		}
		block, err := s.block(wrapping, CKF_UNWRAP)
		if err != nil {
			return nil, err
		}
		wrapped, err := wrap(block, key.Bytes())
		if errors.Is(err, keywrap.ErrLength) {
			return nil, refuse(CKR_KEY_SIZE_RANGE, "a key of %d bytes is not wrapped by this mechanism; CKM_AES_KEY_WRAP_KWP takes it", key.Len())
		}
		return wrapped, err
	}
}

func unwrapWith(unwrap func(gocipher.Block, []byte) ([]byte, error)) unwrapKey {
	return func(s *session, unwrapping *object, p parameter, wrapped []byte) (*secret.Bytes, origin, error) {
		if err := p.end(); err != nil {
			return nil, origin{}, err
		}
		block, err := s.block(unwrapping, CKF_UNWRAP)
		if err != nil {
			return nil, origin{}, err
		}
		key, err := unwrap(block, wrapped)
		switch {
		case errors.Is(err, keywrap.ErrLength):
			return nil, origin{}, CKR_WRAPPED_KEY_LEN_RANGE
		case err != nil:
			return nil, origin{}, CKR_WRAPPED_KEY_INVALID
		}
		return secret.From(key), origin{}, nil
	}
}
