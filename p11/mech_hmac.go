package p11

import (
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/subtle"
	"hash"

	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/signer"
)

// hmacMechanisms are HMAC (PKCS #11 v3.1, sections 6.20 to 6.25), in software. The _GENERAL ones have a MAC length as their
// parameter, and give the first bytes. With SHA-1 what is there is verified, and no more made unless the configuration says so.
var hmacMechanisms = []mechanism{
	{id: CKM_GENERIC_SECRET_KEY_GEN, flags: CKF_GENERATE, keys: CKK_GENERIC_SECRET, generate: generateHere, sizes: genericSizes},
	{id: CKM_SHA_1_HMAC, flags: CKF_VERIFY, keys: CKK_GENERIC_SECRET, alsoKeys: []uint64{CKK_SHA_1_HMAC}, mac: crypto.SHA1, sizes: hmacSizes, legacy: legacy{config.SHA1Signatures, CKF_SIGN}},
	{id: CKM_SHA_1_HMAC_GENERAL, flags: CKF_VERIFY, keys: CKK_GENERIC_SECRET, alsoKeys: []uint64{CKK_SHA_1_HMAC}, mac: crypto.SHA1, general: true, sizes: hmacSizes, legacy: legacy{config.SHA1Signatures, CKF_SIGN}},
	{id: CKM_SHA224_HMAC, flags: CKF_SIGN | CKF_VERIFY, keys: CKK_GENERIC_SECRET, alsoKeys: []uint64{CKK_SHA224_HMAC}, mac: crypto.SHA224, sizes: hmacSizes},
	{id: CKM_SHA224_HMAC_GENERAL, flags: CKF_SIGN | CKF_VERIFY, keys: CKK_GENERIC_SECRET, alsoKeys: []uint64{CKK_SHA224_HMAC}, mac: crypto.SHA224, general: true, sizes: hmacSizes},
	{id: CKM_SHA256_HMAC, flags: CKF_SIGN | CKF_VERIFY, keys: CKK_GENERIC_SECRET, alsoKeys: []uint64{CKK_SHA256_HMAC}, mac: crypto.SHA256, sizes: hmacSizes},
	{id: CKM_SHA256_HMAC_GENERAL, flags: CKF_SIGN | CKF_VERIFY, keys: CKK_GENERIC_SECRET, alsoKeys: []uint64{CKK_SHA256_HMAC}, mac: crypto.SHA256, general: true, sizes: hmacSizes},
	{id: CKM_SHA384_HMAC, flags: CKF_SIGN | CKF_VERIFY, keys: CKK_GENERIC_SECRET, alsoKeys: []uint64{CKK_SHA384_HMAC}, mac: crypto.SHA384, sizes: hmacSizes},
	{id: CKM_SHA384_HMAC_GENERAL, flags: CKF_SIGN | CKF_VERIFY, keys: CKK_GENERIC_SECRET, alsoKeys: []uint64{CKK_SHA384_HMAC}, mac: crypto.SHA384, general: true, sizes: hmacSizes},
	{id: CKM_SHA512_HMAC, flags: CKF_SIGN | CKF_VERIFY, keys: CKK_GENERIC_SECRET, alsoKeys: []uint64{CKK_SHA512_HMAC}, mac: crypto.SHA512, sizes: hmacSizes},
	{id: CKM_SHA512_HMAC_GENERAL, flags: CKF_SIGN | CKF_VERIFY, keys: CKK_GENERIC_SECRET, alsoKeys: []uint64{CKK_SHA512_HMAC}, mac: crypto.SHA512, general: true, sizes: hmacSizes},
}

// hmacSizes are bytes; genericSizes bits, as the standard wants them.
func hmacSizes(keySizes) (least, most uint64)    { return 1, keystore.MaxSecretKey }
func genericSizes(keySizes) (least, most uint64) { return 8, 8 * keystore.MaxSecretKey }

// leastMAC is the shortest MAC of the general forms, in bytes: shorter ones can be guessed (NIST SP 800-224, section 3.2 of the draft).
const leastMAC = 4

// hmacScheme is HMAC with one key: its input is hashed with the key, and the MAC is what came out.
type hmacScheme struct {
	s    *session
	key  *object
	mac  hash.Cloner // before a message
	most int         // bytes of a MAC
}

// newHMAC checks a HMAC mechanism's parameter and reads its key.
func (s *session) newHMAC(row *mechanism, o *object, p parameter) (signature, error) {
	size := row.mac.Size()
	if row.general {
		n := p.number()
		if n < leastMAC || n > uint64(size) {
			return nil, refuse(CKR_MECHANISM_PARAM_INVALID, "a MAC of %d bytes: it has %d to %d", n, leastMAC, size)
		}
		size = int(n)
	}
	if err := p.end(); err != nil {
		return nil, err
	}
	key, err := s.reveal(o, CKF_SIGN)
	if err != nil {
		return nil, keyFault(err)
	}
	defer key.Wipe()
	mac, ok := hmac.New(row.mac.New, key.Bytes()).(hash.Cloner)
	if !ok {
		return nil, CKR_MECHANISM_INVALID
	}
	return &hmacScheme{s, o, mac, size}, nil
}

func (h *hmacScheme) hash() crypto.Hash { return 0 }
func (h *hmacScheme) limit() int        { return 0 }
func (h *hmacScheme) size() int         { return h.most }

// begin is a hash of the key's own for one message.
func (h *hmacScheme) begin() hash.Hash {
	mac, err := h.mac.Clone()
	if err != nil {
		panic("HMAC: " + err.Error()) // all hashes of the table can be cloned
	}
	return mac
}

func (h *hmacScheme) sign(_ context.Context, _ *signer.Key, mac []byte) ([]byte, error) {
	return mac[:h.most], nil
}

// verify compares in a time that does not depend on the bytes.
func (h *hmacScheme) verify(mac, have []byte) error {
	if err := h.s.mayUse(h.key, CKF_SIGN); err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(mac[:h.most], have) != 1 {
		return CKR_SIGNATURE_INVALID
	}
	return nil
}
