package provider

import (
	"bytes"
	"crypto"
	"crypto/subtle"
	"encoding/binary"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
)

// unpadOAEP undoes EME-OAEP (RFC 8017, section 7.1.2, step 3) on what the raw operation gave for a key of k bytes. The time it takes
// does not tell where a bad padding is bad (Manger's attack).
func unpadOAEP(h crypto.Hash, label, em []byte, k int) (*secret.Bytes, error) {
	if len(em) > k || k < 2*h.Size()+2 {
		return nil, ErrDecrypt
	}
	padded := make([]byte, k)
	defer clear(padded)
	copy(padded[k-len(em):], em)

	seed := padded[1 : 1+h.Size()]
	db := padded[1+h.Size():]
	xorMGF1(h, seed, db)
	xorMGF1(h, db, seed)

	labelHash := h.New()
	labelHash.Write(label)
	good := subtle.ConstantTimeByteEq(padded[0], 0)
	good &= subtle.ConstantTimeCompare(db[:h.Size()], labelHash.Sum(nil))

	rest := db[h.Size():]
	looking, at := 1, 0 // for the 0x01 that ends the zeros
	for i, b := range rest {
		zero := subtle.ConstantTimeByteEq(b, 0)
		one := subtle.ConstantTimeByteEq(b, 1)
		at = subtle.ConstantTimeSelect(looking&one, i, at)
		good &= subtle.ConstantTimeSelect(looking, zero|one, 1)
		looking &= 1 - one
	}
	if good&(1-looking) != 1 {
		return nil, ErrDecrypt
	}
	return secret.From(bytes.Clone(rest[at+1:])), nil
}

// xorMGF1 takes the mask MGF1(seed) (RFC 8017, section B.2.1) off target.
func xorMGF1(h crypto.Hash, target, seed []byte) {
	var counter [4]byte
	for n := uint32(0); len(target) > 0; n++ {
		binary.BigEndian.PutUint32(counter[:], n)
		d := h.New()
		d.Write(seed)
		d.Write(counter[:])
		target = target[subtle.XORBytes(target, target, d.Sum(nil)):]
	}
}
