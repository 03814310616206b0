package p11

import (
	gocipher "crypto/cipher"
	"errors"

	"github.com/tpm2-p11/tpm2-p11/internal/keywrap"
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
)

// aesWrapMechanisms are AES key wrap (PKCS #11 v3.1, section 6.16): CKM_AES_KEY_WRAP for keys of whole blocks of 8 bytes, KWP for all.
// CKM_AES_KEY_WRAP_PAD is left out: libraries do not agree on what it is.
var aesWrapMechanisms = []mechanism{
	{id: CKM_AES_KEY_WRAP, flags: CKF_WRAP | CKF_UNWRAP, keys: CKK_AES, wrap: wrapWith(keywrap.Wrap), unwrap: unwrapWith(keywrap.Unwrap), wrapped: wrappedLength, sizes: aesSizes},
	{id: CKM_AES_KEY_WRAP_KWP, flags: CKF_WRAP | CKF_UNWRAP, keys: CKK_AES, wrap: wrapWith(keywrap.WrapPadded), unwrap: unwrapWith(keywrap.UnwrapPadded), wrapped: keywrap.PaddedLength, sizes: aesSizes},
}

func wrappedLength(n int) int { return n + keywrap.Overhead }

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
