package provider

import (
	"context"
	"crypto/ecdsa"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
)

// ECDH is the x coordinate of the point that a key of the TPM and a peer's public key share (TPM2_ECDH_ZGen, Part 3, section 14.5), as
// long as the curve's field. The key must be one that may decrypt, as TPMs call it, and the peer's key must be on its curve. The answer
// travels encrypted.
func (t *TPM) ECDH(ctx context.Context, o Object, a Auth, peer *ecdsa.PublicKey) (*secret.Bytes, error) {
	const what = "agree on a key with key"
	size, err := checkAgree(o.Public, peer)
	if err != nil {
		return nil, a.wrap(what, err)
	}
	point, err := peer.Bytes() // 4, x, y
	if err != nil {
		return nil, a.wrap(what, fmt.Errorf("%w: %v", ErrWrongUse, err))
	}
	x, y := point[1:1+size], point[1+size:]
	var z *secret.Bytes
	err = t.do(ctx, func(ctx context.Context, c *connection) error {
		return c.use(ctx, o, a, tpm2.TPMCCECDHZGen, crypt{encrypt: true}, func(object entity, auths []authorization) error {
			r, err := c.run(ctx, command{code: tpm2.TPMCCECDHZGen, in: []entity{object}, auths: auths, params: put2B(nil, put2B(put2B(nil, x), y))})
			if err != nil {
				return err
			}
			shared, err := r.secret()
			if err != nil {
				return err
			}
			defer shared.Wipe()
			z, err = xOf(shared.Bytes(), size)
			return err
		})
	})
	if err != nil {
		return nil, a.wrap(what, err)
	}
	return z, nil
}

// checkAgree refuses what the key cannot do, and gives the size of the curve's field in bytes.
func checkAgree(p Public, peer *ecdsa.PublicKey) (int, error) {
	key, err := p.Key()
	if err != nil {
		return 0, err
	}
	k, ok := key.(*ecdsa.PublicKey)
	switch attrs := p.Attributes(); {
	case !ok:
		return 0, fmt.Errorf("%w: only elliptic-curve keys agree on keys (%s)", ErrWrongUse, p.Describe())
	case !attrs.Decrypt || attrs.Restricted:
		return 0, fmt.Errorf("%w: it was not made for key agreement (%s)", ErrWrongUse, p.Describe())
	case peer == nil || peer.Curve != k.Curve:
		return 0, fmt.Errorf("%w: the peer's key is not on its curve", ErrWrongUse)
	}
	return (k.Params().BitSize + 7) / 8, nil
}

// xOf reads the x of a TPMS_ECC_POINT, with the zeros that some TPMs leave out in front.
func xOf(point []byte, size int) (*secret.Bytes, error) {
	if len(point) < 2 {
		return nil, fmt.Errorf("%w: a point of %d bytes", ErrMalformed, len(point))
	}
	n := int(point[0])<<8 | int(point[1])
	if n == 0 || n > size || len(point) < 2+n {
		return nil, fmt.Errorf("%w: a point whose x has %d bytes", ErrMalformed, n)
	}
	x := secret.New(size)
	copy(x.Bytes()[size-n:], point[2:2+n])
	return x, nil
}
