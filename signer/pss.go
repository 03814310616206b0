package signer

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"fmt"

	// The hashes that are computed here, whatever else the program links.
	_ "crypto/sha256"
	_ "crypto/sha512"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/internal/client"
	"github.com/tpm2-p11/tpm2-p11/internal/keyuse"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// PSSSaltLengthZero in rsa.PSSOptions.SaltLength asks for a signature without
// salt, for which the standard library has no value: its 0 is PSSSaltLengthAuto.
const PSSSaltLengthZero = -2

// planPSS is an RSASSA-PSS signature with MGF1 of the same hash (RFC 8017, section 8.1).
func planPSS(l limits, public *rsa.PublicKey, digest []byte, opts *rsa.PSSOptions) (task, error) {
	if opts == nil {
		return task{}, fmt.Errorf("%w: no rsa.PSSOptions were given", ErrAlgorithm)
	}
	h := opts.HashFunc()
	if err := checkDigest(h, digest); err != nil {
		return task{}, err
	}
	return planHashedPSS(l, public, h, digest, opts.SaltLength)
}

// planHashedPSS is planPSS for a digest that was found good.
func planHashedPSS(l limits, public *rsa.PublicKey, h crypto.Hash, digest []byte, saltLength int) (task, error) {
	if err := l.allowSign(tpm2.TPMAlgRSAPSS, h); err != nil {
		return task{}, err
	}
	switch n := saltLength; {
	case n == rsa.PSSSaltLengthAuto || n == rsa.PSSSaltLengthEqualsHash || n == h.Size():
		return signInTPM(provider.RSAPSS, h, digest, client.SignPSS(h, h.Size(), digest)), nil
	case n == PSSSaltLengthZero:
		return planSalted(l, public, h, digest, 0)
	case n < 0:
		return task{}, fmt.Errorf("%w: a salt of %d bytes", ErrLength, n)
	default:
		return planSalted(l, public, h, digest, n)
	}
}

// planSHA1PSS is planPSS with SHA-1, which the caller has to answer for.
func planSHA1PSS(l limits, public *rsa.PublicKey, digest []byte, opts keyuse.SHA1PSS) (task, error) {
	if len(digest) != crypto.SHA1.Size() {
		return task{}, fmt.Errorf("%w: a SHA-1 digest has %d bytes, not %d", ErrLength, crypto.SHA1.Size(), len(digest))
	}
	return planHashedPSS(l, public, crypto.SHA1, digest, opts.SaltLength)
}

// planSalted is a signature with a salt of a length that TPMs do not know.
func planSalted(l limits, public *rsa.PublicKey, h crypto.Hash, digest []byte, saltLength int) (task, error) {
	if !l.Raw() {
		return task{}, fmt.Errorf("%w: a TPM salts with as many bytes as the hash has, here %d; a salt of %d bytes is added outside "+
			"the TPM and needs its raw RSA operation, which it grants only to keys that may also decrypt: "+
			"use rsa.PSSSaltLengthEqualsHash, or a key made with `--use sign,decrypt`", ErrWrongUse, h.Size(), saltLength)
	}
	emBits := public.N.BitLen() - 1
	if most := (emBits+7)/8 - h.Size() - 2; saltLength > most {
		return task{}, fmt.Errorf("%w: a salt of %d bytes: at most %d fit", ErrLength, saltLength, most)
	}
	encode := func() []byte {
		salt := make([]byte, saltLength)
		rand.Read(salt)
		return emsaPSS(h, digest, salt, emBits, public.Size())
	}
	return signBlock(encode, func(signature []byte) error {
		return rsa.VerifyPSS(public, h, digest, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto})
	}, client.SignPSS(h, saltLength, digest)), nil
}

// emsaPSS is EMSA-PSS-ENCODE (RFC 8017, section 9.1.1) for a salt that fits, with zero bytes in front up to k bytes.
func emsaPSS(h crypto.Hash, digest, salt []byte, emBits, k int) []byte {
	emLen := (emBits + 7) / 8
	block := make([]byte, k)
	em := block[k-emLen:]
	db, rest := em[:emLen-h.Size()-1], em[emLen-h.Size()-1:]

	hash := h.New()
	hash.Write(make([]byte, 8))
	hash.Write(digest)
	hash.Write(salt)
	seed := hash.Sum(nil)
	copy(rest, seed)
	rest[h.Size()] = 0xbc

	db[len(db)-len(salt)-1] = 1
	copy(db[len(db)-len(salt):], salt)
	maskMGF1(db, h, seed)
	db[0] &= 0xff >> (8*emLen - emBits)
	return block
}

// maskMGF1 XORs MGF1(seed) into out (RFC 8017, appendix B.2.1).
func maskMGF1(out []byte, h crypto.Hash, seed []byte) {
	hash := h.New()
	var mask []byte
	for counter := uint32(0); len(mask) < len(out); counter++ {
		hash.Reset()
		hash.Write(seed)
		hash.Write(binary.BigEndian.AppendUint32(nil, counter))
		mask = hash.Sum(mask)
	}
	for i := range out {
		out[i] ^= mask[i]
	}
}
