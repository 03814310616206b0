package p11

import gocipher "crypto/cipher"

// gcm is Galois/counter mode. It gathers the whole message, up to maxPartLength bytes: nothing of a plaintext is given before its tag
// was checked.
type gcm struct {
	how        Flags
	aead       gocipher.AEAD
	nonce, aad []byte
	held       []byte
}

const gcmNonce, gcmTag = 12, 16

// newGCM reads CK_GCM_PARAMS: the IV and its bits (which older callers leave out), the additional data, the tag's bits. The tag has 96
// to 128 bits, and all of them with an IV that has not 12 bytes.
func newGCM(how Flags, p parameter) (func(gocipher.Block) stream, error) {
	nonce, bits, aad, tagBits := p.bytes(), p.number(), p.bytes(), p.number()
	if err := p.end(); err != nil {
		return nil, err
	}
	tag := int(min(tagBits, 1<<10)) / 8
	switch {
	case len(nonce) == 0 || len(nonce) > 256 || bits != 0 && bits != 8*uint64(len(nonce)):
		return nil, refuse(CKR_MECHANISM_PARAM_INVALID, "a GCM IV of %d bytes and %d bits", len(nonce), bits)
	case tagBits%8 != 0 || tag < gcmNonce || tag > gcmTag || tag != gcmTag && len(nonce) != gcmNonce:
		return nil, refuse(CKR_MECHANISM_PARAM_INVALID, "a GCM tag of %d bits: there are 96 to 128, and 128 alone for an IV that has not 12 bytes", tagBits)
	}
	return func(block gocipher.Block) stream {
		return &gcm{how: how, aead: newAEAD(block, len(nonce), tag), nonce: nonce, aad: aad}
	}, nil
}

// newAEAD is GCM for lengths that newGCM lets through, which cannot fail.
func newAEAD(block gocipher.Block, nonce, tag int) gocipher.AEAD {
	var aead gocipher.AEAD
	var err error
	if nonce != gcmNonce {
		aead, err = gocipher.NewGCMWithNonceSize(block, nonce)
	} else {
		aead, err = gocipher.NewGCMWithTagSize(block, tag)
	}
	if err != nil {
		panic("GCM: " + err.Error())
	}
	return aead
}

func (g *gcm) whole(n int) (int, error) {
	switch {
	case n > maxPartLength:
		return 0, lengthFault(g.how)
	case g.how == CKF_ENCRYPT:
		return n + g.aead.Overhead(), nil
	case n < g.aead.Overhead():
		return 0, lengthFault(g.how)
	}
	return n - g.aead.Overhead(), nil
}

func (g *gcm) room(int) int { return 0 }

func (g *gcm) update(part []byte) ([]byte, error) {
	if len(part) > maxPartLength-len(g.held) {
		return nil, lengthFault(g.how)
	}
	if needed := len(g.held) + len(part); needed > cap(g.held) {
		grown := append(make([]byte, 0, max(2*cap(g.held), needed)), g.held...)
		clear(g.held)
		g.held = grown
	}
	g.held = append(g.held, part...)
	return []byte{}, nil
}

func (g *gcm) rest() int {
	if g.how == CKF_ENCRYPT {
		return len(g.held) + g.aead.Overhead()
	}
	return max(0, len(g.held)-g.aead.Overhead())
}

func (g *gcm) final() ([]byte, error) {
	if g.how == CKF_ENCRYPT {
		return g.aead.Seal(make([]byte, 0, g.rest()), g.nonce, g.held, g.aad), nil
	}
	if len(g.held) < g.aead.Overhead() {
		return nil, CKR_ENCRYPTED_DATA_LEN_RANGE
	}
	plaintext, err := g.aead.Open(make([]byte, 0, len(g.held)), g.nonce, g.held, g.aad)
	if err != nil {
		return nil, CKR_ENCRYPTED_DATA_INVALID
	}
	return plaintext, nil
}

func (g *gcm) wipe() { clear(g.held[:cap(g.held)]) }
