package provider

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"fmt"
	"math/big"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// SignScheme is a TPM signing scheme.
type SignScheme int

// The schemes.
const (
	RSASSA SignScheme = iota + 1
	RSAPSS            // salt length = hash length
	ECDSA
)

// String is the scheme's name in the TPM specification.
func (s SignScheme) String() string {
	switch s {
	case RSASSA:
		return "RSASSA"
	case RSAPSS:
		return "RSAPSS"
	case ECDSA:
		return "ECDSA"
	}
	return fmt.Sprintf("SignScheme(%d)", int(s))
}

var schemeAlgs = map[SignScheme]tpm2.TPMAlgID{RSASSA: tpm2.TPMAlgRSASSA, RSAPSS: tpm2.TPMAlgRSAPSS, ECDSA: tpm2.TPMAlgECDSA}

var hashAlgs = map[crypto.Hash]tpm2.TPMAlgID{
	crypto.SHA1:   tpm2.TPMAlgSHA1,
	crypto.SHA256: tpm2.TPMAlgSHA256,
	crypto.SHA384: tpm2.TPMAlgSHA384,
	crypto.SHA512: tpm2.TPMAlgSHA512,
}

// Sign signs a digest of hash h (SHA-1, SHA-256, SHA-384, SHA-512) by TPM2_Sign (TPM 2.0 Part 3, section 20.2). RSA signatures
// are k bytes, ECDSA's are r || s, each as long as the curve's order. RSA signatures are verified before they are
// returned (a faulty one could reveal the key), and of a persistent ECDSA key one in each second, lest another key came to its handle; see
// WithVerify.
func (t *TPM) Sign(ctx context.Context, o Object, a Auth, s SignScheme, h crypto.Hash, digest []byte) ([]byte, error) {
	key, err := checkSign(o.Public, s, h, digest)
	if err != nil {
		return nil, a.wrap("sign with key", err)
	}
	var signature []byte
	proven := false
	err = t.turn(ctx, signAhead(o, a, s, h, digest), true, func(ctx context.Context, c *connection) error {
		return c.use(ctx, o, a, tpm2.TPMCCSign, crypt{}, func(object entity, auths []authorization) (err error) {
			if signature, err = c.sign(ctx, object, auths, key, s, h, digest); err != nil || !c.proofDue(object.handle) {
				return err
			}
			if err = t.verifySignature(key, s, h, digest, signature, true); err == nil {
				proven, c.names[object.handle] = true, shownName{object.name, time.Now()}
			}
			return err
		})
	})
	if err == nil && !proven { // the next one has its turn meanwhile
		if err = t.verifySignature(key, s, h, digest, signature, false); err != nil {
			t.suspect.Store(true)
		}
	}
	if err != nil {
		return nil, a.wrap("sign with key", err)
	}
	return signature, nil
}

// checkSign refuses what the key cannot do before the TPM is asked.
func checkSign(p Public, s SignScheme, h crypto.Hash, digest []byte) (crypto.PublicKey, error) {
	if _, ok := hashAlgs[h]; !ok {
		return nil, fmt.Errorf("%w: hash %v", ErrUnsupported, h)
	}
	if len(digest) != h.Size() {
		return nil, fmt.Errorf("%w: a digest of %d bytes: %v has %d", ErrWrongUse, len(digest), h, h.Size())
	}
	key, err := p.Key()
	if err != nil {
		return nil, err
	}
	switch attrs := p.Attributes(); {
	case !attrs.SignEncrypt:
		return nil, fmt.Errorf("%w: it may not sign (%s)", ErrWrongUse, p.Describe())
	case attrs.Restricted:
		return nil, fmt.Errorf("%w: it signs only what the TPM itself hashed (%s)", ErrWrongUse, p.Describe())
	}
	own, ownHash, err := p.Scheme()
	if err != nil {
		return nil, err
	}
	if own != tpm2.TPMAlgNull && (own != schemeAlgs[s] || ownHash != hashAlgs[h]) {
		return nil, fmt.Errorf("%w: it has a scheme of its own (0x%04X with hash 0x%04X), asked was %v with %v", ErrWrongUse, uint16(own), uint16(ownHash), s, h)
	}
	switch k := key.(type) {
	case *rsa.PublicKey:
		if s != RSASSA && s != RSAPSS {
			return nil, fmt.Errorf("%w: %v with an RSA key", ErrWrongUse, s)
		}
		if need := 2*h.Size() + 2; s == RSAPSS && k.Size() < need {
			return nil, fmt.Errorf("%w: %v with %v needs a key of %d bytes, it has %d", ErrWrongUse, s, h, need, k.Size())
		}
	case *ecdsa.PublicKey:
		if s != ECDSA {
			return nil, fmt.Errorf("%w: %v with an elliptic curve key", ErrWrongUse, s)
		}
	}
	return key, nil
}

// signAhead makes TPM2_Sign with a persistent key that needs no more than an empty password; nil for any other use.
func signAhead(o Object, a Auth, s SignScheme, h crypto.Hash, digest []byte) func() *earlyCommand {
	if !isPersistent(o.Handle) || !a.Policy.IsZero() || len(authValue(a.Value)) > 0 {
		return nil
	}
	return func() *earlyCommand {
		object := entity{o.Handle, o.Public.name}
		cmd := signCommand(object, []authorization{{}}, s, h, digest)
		b, err := cmd.marshal(nil)
		if err != nil {
			return nil
		}
		return &earlyCommand{object: object, bytes: b}
	}
}

// signCommand is TPM2_Sign (Part 3, section 20.2) with an unrestricted key, which needs no ticket.
func signCommand(object entity, auths []authorization, s SignScheme, h crypto.Hash, digest []byte) command {
	p := put2B(make([]byte, 0, 128), digest)
	p = put16(p, uint16(schemeAlgs[s]))
	p = put16(p, uint16(hashAlgs[h]))
	p = put16(p, uint16(tpm2.TPMSTHashCheck))
	p = put32(p, uint32(tpm2.TPMRHNull))
	p = put2B(p, nil)
	return command{code: tpm2.TPMCCSign, in: []entity{object}, auths: auths, params: p}
}

// sign has the TPM sign, and takes the signature apart.
func (c *connection) sign(ctx context.Context, object entity, auths []authorization, key crypto.PublicKey, s SignScheme, h crypto.Hash, digest []byte) ([]byte, error) {
	r, err := c.run(ctx, signCommand(object, auths, s, h, digest))
	if err != nil {
		return nil, err
	}
	if scheme, hash := r.u16(), r.u16(); r.err == nil && (scheme != uint16(schemeAlgs[s]) || hash != uint16(hashAlgs[h])) {
		r.fail("TPM2_Sign: a signature of scheme 0x%04X with hash 0x%04X", scheme, hash)
	}
	var signature []byte
	switch k := key.(type) {
	case *rsa.PublicKey:
		b := r.sized()
		if r.err == nil && len(b) != k.Size() {
			r.fail("TPM2_Sign: a signature of %d bytes", len(b))
		}
		signature = append(signature, b...)
	case *ecdsa.PublicKey:
		size := (k.Curve.Params().N.BitLen() + 7) / 8
		for range 2 {
			b := r.sized()
			if len(b) > size {
				r.fail("TPM2_Sign: a signature part of %d bytes", len(b))
				break
			}
			signature = append(signature, make([]byte, size-len(b))...)
			signature = append(signature, b...)
		}
	}
	return signature, r.end()
}

// verifySignature verifies a signature that the TPM made, of an ECDSA key only if all are verified or this one is to prove the key.
func (t *TPM) verifySignature(key crypto.PublicKey, s SignScheme, h crypto.Hash, digest, signature []byte, prove bool) error {
	ok := true
	switch k := key.(type) {
	case *rsa.PublicKey:
		switch {
		case t.verify == VerifyNone:
		case s == RSASSA:
			ok = rsa.VerifyPKCS1v15(k, h, digest, signature) == nil
		default:
			ok = rsa.VerifyPSS(k, h, digest, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		}
	case *ecdsa.PublicKey:
		if t.verify == VerifyNone || t.verify == VerifyRSA && !prove {
			break
		}
		r, s := new(big.Int).SetBytes(signature[:len(signature)/2]), new(big.Int).SetBytes(signature[len(signature)/2:])
		ok = ecdsa.Verify(k, digest, r, s)
	}
	if !ok {
		return fmt.Errorf("%w: the signature does not verify", ErrIntegrity)
	}
	return nil
}
