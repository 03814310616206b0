package tests

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	_ "crypto/sha1"
	_ "crypto/sha256"
	_ "crypto/sha512"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"testing"

	"github.com/miekg/pkcs11"
)

// signatureScheme is how Go makes the input of a mechanism and judges its signatures.
type signatureScheme struct {
	hash    crypto.Hash
	hashed  bool // the application hashes
	verify  func(key crypto.PublicKey, h crypto.Hash, digest, signature []byte) error
	keys    []string
	mgf     uint // of RSASSA-PSS
	hashAlg uint
}

var signatureSchemes = map[uint]signatureScheme{
	pkcs11.CKM_RSA_PKCS:            {crypto.SHA256, true, verifyPKCS1, rsaKeys, 0, 0},
	pkcs11.CKM_SHA256_RSA_PKCS:     {crypto.SHA256, false, verifyPKCS1, rsaKeys, 0, 0},
	pkcs11.CKM_SHA384_RSA_PKCS:     {crypto.SHA384, false, verifyPKCS1, rsaKeys, 0, 0},
	pkcs11.CKM_SHA512_RSA_PKCS:     {crypto.SHA512, false, verifyPKCS1, rsaKeys, 0, 0},
	pkcs11.CKM_RSA_PKCS_PSS:        {crypto.SHA256, true, verifyPSS, rsaKeys, pkcs11.CKG_MGF1_SHA256, pkcs11.CKM_SHA256},
	pkcs11.CKM_SHA256_RSA_PKCS_PSS: {crypto.SHA256, false, verifyPSS, rsaKeys, pkcs11.CKG_MGF1_SHA256, pkcs11.CKM_SHA256},
	pkcs11.CKM_SHA384_RSA_PKCS_PSS: {crypto.SHA384, false, verifyPSS, rsaKeys, pkcs11.CKG_MGF1_SHA384, pkcs11.CKM_SHA384},
	pkcs11.CKM_SHA512_RSA_PKCS_PSS: {crypto.SHA512, false, verifyPSS, rsaKeys, pkcs11.CKG_MGF1_SHA512, pkcs11.CKM_SHA512},
	pkcs11.CKM_ECDSA:               {crypto.SHA256, true, verifyECDSA, ecKeys, 0, 0},
	pkcs11.CKM_ECDSA_SHA256:        {crypto.SHA256, false, verifyECDSA, ecKeys, 0, 0},
	pkcs11.CKM_ECDSA_SHA384:        {crypto.SHA384, false, verifyECDSA, ecKeys, 0, 0},
	pkcs11.CKM_ECDSA_SHA512:        {crypto.SHA512, false, verifyECDSA, ecKeys, 0, 0},
}

var (
	rsaKeys = []string{"rsa"}
	ecKeys  = []string{"p256", "p384", "p521"}
)

func verifyPKCS1(key crypto.PublicKey, h crypto.Hash, digest, signature []byte) error {
	return rsa.VerifyPKCS1v15(key.(*rsa.PublicKey), h, digest, signature)
}

func verifyPSS(key crypto.PublicKey, h crypto.Hash, digest, signature []byte) error {
	return rsa.VerifyPSS(key.(*rsa.PublicKey), h, digest, signature, &rsa.PSSOptions{SaltLength: h.Size()})
}

func verifyECDSA(key crypto.PublicKey, _ crypto.Hash, digest, signature []byte) error {
	half := len(signature) / 2
	if !ecdsa.Verify(key.(*ecdsa.PublicKey), digest, new(big.Int).SetBytes(signature[:half]), new(big.Int).SetBytes(signature[half:])) {
		return errors.New("ecdsa: wrong signature")
	}
	return nil
}

func (s signatureScheme) mechanism(id uint) *pkcs11.Mechanism {
	if s.hashAlg == 0 {
		return mechanism(id)
	}
	return pkcs11.NewMechanism(id, pkcs11.NewPSSParams(s.hashAlg, s.mgf, uint(s.hash.Size())))
}

// digestInfoSHA256 is the DER before a SHA-256 digest in a DigestInfo (RFC 8017, section 9.2, note 1).
var digestInfoSHA256 = []byte("\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20")

func (s signatureScheme) input(id uint) []byte {
	switch {
	case id == pkcs11.CKM_RSA_PKCS:
		return append(bytes.Clone(digestInfoSHA256), digest(s.hash, message)...)
	case s.hashed:
		return digest(s.hash, message)
	}
	return message
}

func digest(h crypto.Hash, data []byte) []byte {
	d := h.New()
	d.Write(data)
	return d.Sum(nil)
}

// macs are the mechanisms that sign with secret keys, of which secrets_test.go tells.
var macs = []uint{
	pkcs11.CKM_SHA224_HMAC, pkcs11.CKM_SHA224_HMAC_GENERAL, pkcs11.CKM_SHA256_HMAC, pkcs11.CKM_SHA256_HMAC_GENERAL,
	pkcs11.CKM_SHA384_HMAC, pkcs11.CKM_SHA384_HMAC_GENERAL, pkcs11.CKM_SHA512_HMAC, pkcs11.CKM_SHA512_HMAC_GENERAL,
}

// An application signs with every mechanism for private keys that the token offers. Go's own
// crypto, which knows nothing of the module, takes each signature, and so does
// C_Verify; neither takes one that was changed.
func TestEveryMechanismSigns(t *testing.T) {
	story{
		before: func(m *machine) {
			m.tpm2p11("init", "--no-pin")
			for label, kind := range map[string]string{"rsa": "rsa2048", "p256": "p256", "p384": "p384", "p521": "p521"} {
				m.tpm2p11("key", "create", label, "--type", kind)
				m.tpm2p11("key", "public", label, "--out", label+".pub")
			}
		},
		app: func(a *application) {
			offered, err := a.p11().GetMechanismList(0)
			a.ok("C_GetMechanismList", err)
			for _, m := range offered {
				info, err := a.p11().GetMechanismInfo(0, []*pkcs11.Mechanism{m})
				a.ok("C_GetMechanismInfo", err)
				if info.Flags&pkcs11.CKF_SIGN == 0 || slices.Contains(macs, m.Mechanism) {
					continue
				}
				scheme, known := signatureSchemes[m.Mechanism]
				if !known {
					a.t.Errorf("mechanism 0x%x is offered, and this test knows nothing of it", m.Mechanism)
				}
				for _, label := range scheme.keys {
					a.signsBy(m.Mechanism, scheme, label)
				}
			}
		},
	}.tell(t)
}

func (a *application) signsBy(id uint, scheme signatureScheme, label string) {
	a.t.Helper()
	what := fmt.Sprintf("%s with mechanism 0x%x", label, id)
	m, input, public := scheme.mechanism(id), scheme.input(id), a.publicKey(label+".pub")
	one, err := a.sign(a.session, m, a.private(label), input)
	a.ok("C_Sign: "+what, err)
	a.ok("Go on the signature of "+what, scheme.verify(public, scheme.hash, digest(scheme.hash, message), one))
	a.ok("C_Verify: "+what, a.verify(a.session, m, a.public(label), input, one))

	changed := bytes.Clone(one)
	changed[len(changed)-1] ^= 1
	a.refused("C_Verify of a changed signature: "+what, pkcs11.CKR_SIGNATURE_INVALID, a.verify(a.session, m, a.public(label), input, changed))
	a.refused("C_Verify of a short signature: "+what, pkcs11.CKR_SIGNATURE_LEN_RANGE, a.verify(a.session, m, a.public(label), input, one[1:]))
	if scheme.hashed {
		return
	}

	a.ok("C_SignInit: "+what, a.p11().SignInit(a.session, []*pkcs11.Mechanism{m}, a.private(label)))
	a.ok("C_VerifyInit: "+what, a.p11().VerifyInit(a.session, []*pkcs11.Mechanism{m}, a.public(label)))
	for _, part := range [][]byte{input[:1], input[1:700], input[700:]} {
		a.ok("C_SignUpdate: "+what, a.p11().SignUpdate(a.session, part))
		a.ok("C_VerifyUpdate: "+what, a.p11().VerifyUpdate(a.session, part))
	}
	parts, err := a.p11().SignFinal(a.session)
	a.ok("C_SignFinal: "+what, err)
	a.ok("Go on the signature in parts of "+what, scheme.verify(public, scheme.hash, digest(scheme.hash, message), parts))
	a.ok("C_VerifyFinal: "+what, a.p11().VerifyFinal(a.session, parts))
}

// What is longer than a message of the boundary goes in parts.
func TestLongMessages(t *testing.T) {
	story{
		before: func(m *machine) {
			m.tpm2p11("init", "--no-pin")
			m.tpm2p11("key", "create", "p256", "--type", "p256")
			m.tpm2p11("key", "public", "p256", "--out", "p256.pub")
		},
		app: func(a *application) {
			long := bytes.Repeat(message, 3000)
			a.ok("C_SignInit", a.p11().SignInit(a.session, []*pkcs11.Mechanism{ecdsaSHA256()}, a.private("p256")))
			a.ok("C_SignUpdate", a.p11().SignUpdate(a.session, long))
			signature, err := a.p11().SignFinal(a.session)
			a.ok("C_SignFinal", err)
			a.ok("Go on the signature", verifyECDSA(a.publicKey("p256.pub"), 0, digest(crypto.SHA256, long), signature))
			other := a.open(0)
			_, err = a.sign(other, ecdsaSHA256(), a.private("p256"), long)
			a.refused("C_Sign of all at once", pkcs11.CKR_DATA_LEN_RANGE, err)
			a.ok("C_CloseSession", a.p11().CloseSession(other))
			a.works("p256")
		},
	}.tell(t)
}

// Hashes are computed in software, random numbers come from the TPM.
func TestDigestsAndRandomNumbers(t *testing.T) {
	story{
		before: func(m *machine) { m.tpm2p11("init", "--no-pin") },
		app: func(a *application) {
			for id, h := range map[uint]crypto.Hash{pkcs11.CKM_SHA_1: crypto.SHA1, pkcs11.CKM_SHA256: crypto.SHA256, pkcs11.CKM_SHA384: crypto.SHA384, pkcs11.CKM_SHA512: crypto.SHA512} {
				m := []*pkcs11.Mechanism{mechanism(id)}
				a.ok("C_DigestInit", a.p11().DigestInit(a.session, m))
				one, err := a.p11().Digest(a.session, message)
				a.ok("C_Digest", err)
				a.ok("C_DigestInit", a.p11().DigestInit(a.session, m))
				a.ok("C_DigestUpdate", a.p11().DigestUpdate(a.session, message[:1]))
				a.ok("C_DigestUpdate", a.p11().DigestUpdate(a.session, message[1:]))
				parts, err := a.p11().DigestFinal(a.session)
				a.ok("C_DigestFinal", err)
				if want := digest(h, message); !bytes.Equal(one, want) || !bytes.Equal(parts, want) {
					a.t.Errorf("%v is %x, and in parts %x, not %x", h, one, parts, want)
				}
			}
			seen := map[string]bool{}
			for _, n := range []int{16, 16, 32, 33, 100, 4096} {
				random, err := a.p11().GenerateRandom(a.session, n)
				a.ok("C_GenerateRandom", err)
				if len(random) != n || seen[string(random[:16])] || bytes.Count(random, []byte{0}) > n/4 {
					a.t.Errorf("%d random bytes: %x", n, random)
				}
				seen[string(random[:16])] = true
			}
		},
	}.tell(t)
}
