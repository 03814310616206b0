package p11

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/binary"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/internal/keyuse"
	"github.com/tpm2-p11/tpm2-p11/provider"
	"github.com/tpm2-p11/tpm2-p11/signer"
)

// mechanism is a row of the table of mechanisms. What it cannot do is nil.
type mechanism struct {
	id     MechanismType
	flags  Flags
	keys   uint64        // CKK_ of its keys
	scheme tpm2.TPMAlgID // what the TPM calls it, for keys that were made for one scheme
	hash   crypto.Hash   // the hash of the scheme; 0 for any
	digest crypto.Hash   // of C_Digest
	sign   newSignature  // for C_Sign and C_Verify
	cipher newCipher     // for C_Encrypt and C_Decrypt
	sizes  func(keySizes) (least, most uint64)

	// Of secret keys.
	alsoKeys []uint64                       // more CKK_ of its keys
	stream   newStream                      // for C_Encrypt and C_Decrypt
	mac      crypto.Hash                    // for C_Sign and C_Verify: HMAC
	general  bool                           // the MAC's length is the parameter
	generate generateKey                    // for C_GenerateKey
	wrap     wrapKey                        // for C_WrapKey
	wrapped  func(n int) int                // how long a wrapped key of n bytes is
	unwrap   unwrapKey                      // for C_UnwrapKey
	guards   func(*session, template) error // more that a template of what is made must fulfil; nil for nothing
	private  bool                           // it unwraps private keys too
	kms      bool                           // it is there with [kms] alone
	legacy   legacy                         // what it does besides where the configuration says so
	raw      bool                           // it shows what the bare RSA operation makes of anything
}

// legacy is what a mechanism does for old applications alone: one of config.LegacyUses, and the flags of it.
type legacy struct {
	word  string
	flags Flags
}

// newSignature checks a mechanism's parameter and makes its scheme for one key, if the key can do that: how is CKF_SIGN or CKF_VERIFY.
type newSignature func(m *mechanism, how Flags, key *object, p parameter) (signature, error)

// signature is a signature scheme of one key.
type signature interface {
	hash() crypto.Hash // of the message; 0 when the caller hashes
	limit() int        // most bytes the caller may give when hash is 0
	size() int         // of every signature
	sign(ctx context.Context, key *signer.Key, digest []byte) ([]byte, error)
	verify(digest, signature []byte) error // CKR_SIGNATURE_INVALID
}

// newCipher is newSignature for encryption schemes: how is CKF_ENCRYPT or CKF_DECRYPT.
type newCipher func(m *mechanism, how Flags, key *object, p parameter) (cipher, error)

// cipher is an encryption scheme of one key.
type cipher interface {
	limit() int // most bytes of plaintext
	size() int  // of every ciphertext
	encrypt(plaintext []byte) ([]byte, error)
	decrypt(ctx context.Context, key *signer.Key, ciphertext []byte) ([]byte, error)
}

// mechanismTable are mechanisms in the order of C_GetMechanismList.
type mechanismTable []mechanism

// mechanisms are all that there can be.
var mechanisms mechanismTable

// The rows reach for the table through the attributes of what they make.
func init() {
	mechanisms = slices.Concat(keyGenerations, rsaPKCS1Mechanisms, rsaX509Mechanisms, rsaPSSMechanisms, rsaOAEPMechanisms, ecdsaMechanisms, deriveMechanisms,
		digestMechanisms, aesMechanisms, aesWrapMechanisms, hmacMechanisms, kmsMechanisms)
}

// offered are those that a configuration has.
func offered(c config.Config) (t mechanismTable) {
	for _, m := range mechanisms {
		if slices.Contains(c.Legacy, m.legacy.word) {
			m.flags |= m.legacy.flags
		}
		if m.flags != 0 && (!m.kms || c.KMS.Line > 0) {
			t = append(t, m)
		}
	}
	return t
}

// find gives a mechanism that does all of uses.
func (t mechanismTable) find(id MechanismType, uses Flags) (*mechanism, error) {
	for i := range t {
		if m := &t[i]; m.id == id && m.flags&uses == uses {
			return m, nil
		}
	}
	return nil, CKR_MECHANISM_INVALID
}

// mechanism finds one among those that the configuration has.
func (l *library) mechanism(id MechanismType, uses Flags) (*mechanism, error) {
	m, err := l.mechanisms.find(id, uses)
	if err == nil {
		return m, nil
	}
	for i := range mechanisms {
		switch m := &mechanisms[i]; {
		case m.id == id && m.kms:
			return nil, refuse(CKR_MECHANISM_INVALID, "mechanism 0x%x takes a [kms] table in the configuration", uint64(id))
		case m.id == id && m.legacy.flags != 0 && (m.flags|m.legacy.flags)&uses == uses:
			return nil, refuse(CKR_MECHANISM_INVALID, "mechanism 0x%x does this only where the configuration's legacy has %q", uint64(id), m.legacy.word)
		}
	}
	return nil, refuse(CKR_MECHANISM_INVALID, "mechanism 0x%x", uint64(id))
}

func keyTypeOf(public crypto.PublicKey) uint64 {
	if _, ok := public.(*ecdsa.PublicKey); ok {
		return CKK_EC
	}
	return CKK_RSA
}

// use is what a token's key may be used for here.
type use struct {
	keyuse.Use
	Derive bool // keys, by ECDH
	Bound  bool // to a policy, or it may be KMS's recipient: the bare RSA operation is not for it
}

// useOf reads a public area. EC keys derive where RSA keys decrypt.
func useOf(p provider.Public) *use {
	u := &use{Use: keyuse.Of(p)}
	u.Sign = u.Sign && !u.Restricted
	u.Decrypt = u.Decrypt && !u.Restricted
	if p.Area().Type == tpm2.TPMAlgECC {
		u.Derive, u.Decrypt = u.Decrypt && u.Fits(tpm2.TPMAlgECDH, 0), false
	}
	return u
}

// permits tells whether the key may be used with a mechanism for any of some uses. Nothing is encrypted to a key that it will not decrypt.
func (u *use) permits(m *mechanism, uses Flags) bool {
	uses &= m.flags
	if m.flags&CKF_DECRYPT == 0 {
		uses &^= CKF_ENCRYPT
	}
	if m.raw && (u.Bound || !u.Decrypt) { // to a TPM the bare operation is a decryption
		return false
	}
	return uses != 0 && u.Fits(m.scheme, m.hash)
}

// ways are those in which a key's use in one way is a use: to a TPM the bare RSA operation is the same for signatures and decryption.
func (m *mechanism) ways(how Flags) Flags {
	if m.raw && how&(CKF_SIGN|CKF_DECRYPT) != 0 {
		return CKF_SIGN | CKF_DECRYPT
	}
	return how
}

// fits tells whether a key may be used with a scheme and a hash; one that is not the TPM's may.
func (o *object) fits(scheme tpm2.TPMAlgID, h crypto.Hash) error {
	if o.tpm == nil || o.tpm.Fits(scheme, h) {
		return nil
	}
	return refuse(CKR_MECHANISM_PARAM_INVALID, "key %q was made for %v only", o.entry.Label, o.tpm.Hash)
}

// of are those a key of a token may be used with for any of some uses.
func (t mechanismTable) of(u *use, public crypto.PublicKey, uses Flags) (ids []MechanismType) {
	if !u.Sign {
		uses &^= CKF_SIGN | CKF_VERIFY | CKF_SIGN_RECOVER | CKF_VERIFY_RECOVER
	}
	if !u.Derive {
		uses &^= CKF_DERIVE
	}
	if !u.Decrypt {
		uses &^= CKF_DECRYPT | CKF_ENCRYPT | CKF_UNWRAP
	}
	for i := range t {
		m := &t[i]
		if m.keys == keyTypeOf(public) && u.permits(m, uses) {
			ids = append(ids, m.id)
		}
	}
	return ids
}

// mechanismList is the value of CKA_ALLOWED_MECHANISMS.
func mechanismList(ids []MechanismType) []byte {
	list := []byte{}
	for _, id := range ids {
		list = append(list, ulong(uint64(id))...)
	}
	return list
}

// parameter reads a mechanism's parameter field by field.
type parameter struct {
	rest []byte
	bad  bool
}

func (p *parameter) number() uint64 {
	if len(p.rest) < 8 {
		p.bad = true
		return 0
	}
	n := binary.LittleEndian.Uint64(p.rest)
	p.rest = p.rest[8:]
	return n
}

// bytes reads a buffer; nil for a NULL one.
func (p *parameter) bytes() []byte {
	n := p.number()
	if p.bad || n == ^uint64(0) {
		return nil
	}
	if n > uint64(len(p.rest)) {
		p.bad = true
		return nil
	}
	b := p.rest[:n]
	p.rest = p.rest[n:]
	return b
}

// end refuses a parameter that was too short or too long.
func (p *parameter) end() error {
	if p.bad || len(p.rest) != 0 {
		return CKR_MECHANISM_PARAM_INVALID
	}
	return nil
}

// hashMechanisms are the hashes by their mechanism and mask generation function.
var hashMechanisms = []struct {
	id   MechanismType
	mgf1 uint64
	hash crypto.Hash
}{
	{CKM_SHA_1, CKG_MGF1_SHA1, crypto.SHA1},
	{CKM_SHA256, CKG_MGF1_SHA256, crypto.SHA256},
	{CKM_SHA384, CKG_MGF1_SHA384, crypto.SHA384},
	{CKM_SHA512, CKG_MGF1_SHA512, crypto.SHA512},
}

// hashPair gives the hash of a hash mechanism and an MGF that belong together: a TPM uses one hash for both.
func hashPair(id MechanismType, mgf uint64) (crypto.Hash, error) {
	for _, known := range hashMechanisms {
		if known.id == id && known.mgf1 == mgf {
			return known.hash, nil
		}
	}
	return 0, refuse(CKR_MECHANISM_PARAM_INVALID, "hash 0x%x with mask generation function %d: a TPM uses one hash, SHA-1, SHA-256, SHA-384 or SHA-512, for both", uint64(id), mgf)
}

func rsaKeyOf(public crypto.PublicKey) (*rsa.PublicKey, error) {
	key, ok := public.(*rsa.PublicKey)
	if !ok {
		return nil, CKR_KEY_TYPE_INCONSISTENT
	}
	return key, nil
}
