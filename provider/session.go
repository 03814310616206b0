package provider

import (
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// Session attributes, TPMA_SESSION (TPM 2.0 Part 2, section 8.4).
const (
	attrContinueSession = 0x01
	attrDecrypt         = 0x20
	attrEncrypt         = 0x40
	attrAudit           = 0x80
)

// session is an HMAC or policy session and, where it is salted, encrypts with AES-128-CFB.
type session struct {
	handle      Handle
	hash        crypto.Hash // authHash
	key         []byte      // sessionKey, empty in a session that is neither salted nor bound
	nonceTPM    []byte
	nonceCaller []byte
	reused      bool // continueSession: the TPM keeps it after use
	policy      bool
	authValue   bool // a policy session in which TPM2_PolicyAuthValue ran
	proven      bool // a salted session in which the TPM answered: nobody else's has this handle and this nonceTPM
}

// roll takes a fresh nonceCaller, as each use of a session needs one.
func (s *session) roll() {
	s.nonceCaller = make([]byte, s.hash.Size())
	rand.Read(s.nonceCaller)
}

// encrypts tells a session that can encrypt parameters: one without a session key would encrypt to everybody.
func (s *session) encrypts() bool { return len(s.key) > 0 }

// wipe forgets the session key.
func (s *session) wipe() {
	clear(s.key)
	s.key = nil
}

// startSession starts a session; salted to a storage key if there is one given (Part 1, section 17.6).
func (c *connection) startSession(ctx context.Context, kind tpm2.TPMSE, hash crypto.Hash, salt *loadedKey) (*session, error) {
	// A TPM has few sessions, and behind Linux's resource manager each makes every command dearer: two are kept where a use needs both.
	c.endPolicy(ctx)
	if s := c.session; s != nil && kind == tpm2.TPMSEPolicy && salt != nil {
		c.session = nil
		c.end(ctx, s)
	}
	s := &session{policy: kind == tpm2.TPMSEPolicy, hash: hash}
	s.roll()
	key := permanent(tpm2.TPMRHNull)
	var encrypted, salted []byte
	symmetric := put16(nil, uint16(tpm2.TPMAlgNull))
	if salt != nil {
		var err error
		if salted, encrypted, err = shareSecret(salt.public, "SECRET"); err != nil {
			return nil, err
		}
		defer clear(salted)
		key = salt.entity()
		symmetric = put16(nil, uint16(tpm2.TPMAlgAES))
		symmetric = put16(symmetric, 128)
		symmetric = put16(symmetric, uint16(tpm2.TPMAlgCFB))
	}
	p := put2B(nil, s.nonceCaller)
	p = put2B(p, encrypted)
	p = append(p, byte(kind))
	p = append(p, symmetric...)
	p = put16(p, uint16(hashAlgs[hash]))
	r, err := c.run(ctx, command{
		code:   tpm2.TPMCCStartAuthSession,
		in:     []entity{key, permanent(tpm2.TPMRHNull)},
		params: p,
		loads:  true,
	})
	if err != nil {
		return nil, err
	}
	s.handle = r.handle
	s.nonceTPM = append([]byte(nil), r.sized()...)
	if err := r.end(); err != nil || len(s.nonceTPM) < 16 {
		c.flush(ctx, s.handle)
		return nil, fmt.Errorf("%w: TPM2_StartAuthSession: nonce", ErrMalformed)
	}
	if salt != nil {
		s.key = tpm2.KDFa(hash, salted, "ATH", s.nonceTPM, s.nonceCaller, hash.Size()*8)
	}
	return s, nil
}

// hmacSession gives the connection's salted HMAC session, which is started once and reused.
func (c *connection) hmacSession(ctx context.Context) (*session, error) {
	if c.session != nil {
		return c.session, nil
	}
	err := c.withSRK(ctx, func(srk *loadedKey) (err error) {
		c.session, err = c.startSession(ctx, tpm2.TPMSEHMAC, crypto.SHA256, srk)
		return err
	})
	if err != nil {
		return nil, err
	}
	c.session.reused = true
	return c.session, nil
}

// prove has the TPM answer in a salted session, if it did not yet: whoever sits between might have given the handle of a session of
// their own as the new one's.
func (c *connection) prove(ctx context.Context, s *session) error {
	if s.proven {
		return nil
	}
	_, err := c.run(ctx, command{
		code:   tpm2.TPMCCGetRandom,
		auths:  []authorization{{session: s, encrypt: true}},
		params: put16(nil, randomChunk),
	})
	if isCode(err, tpm2.TPMRCAuthFail) || isCode(err, tpm2.TPMRCBadAuth) {
		return fmt.Errorf("%w: the session is not the one that was started: %v", ErrIntegrity, err)
	}
	return err
}

func (a *authorization) attributes() (attrs byte) {
	if a.session.reused {
		attrs |= attrContinueSession
	}
	if a.decrypt {
		attrs |= attrDecrypt
	}
	if a.encrypt {
		attrs |= attrEncrypt
	}
	if a.audit {
		attrs |= attrAudit
	}
	return attrs
}

// hmac authenticates a command or a response (Part 1, section 17.6.5). The key of a policy session has the authValue only
// after TPM2_PolicyAuthValue; without any key a policy session has no HMAC.
func (a *authorization) hmac(pHash, nonceNewer, nonceOlder, cryptNonces []byte, attrs byte) []byte {
	s := a.session
	value := a.value
	if s.policy && !s.authValue {
		value = nil
	}
	key := slices.Concat(s.key, value)
	defer clear(key)
	if s.policy && len(key) == 0 {
		return nil
	}
	m := hmac.New(s.hash.New, key)
	m.Write(pHash)
	m.Write(nonceNewer)
	m.Write(nonceOlder)
	m.Write(cryptNonces)
	m.Write([]byte{attrs})
	return m.Sum(nil)
}

// cryptParameter encrypts or decrypts the TPM2B at the beginning of params in place (Part 1, section 21.3).
// The authValue takes part whenever the session authorises something. It tells whether there was a TPM2B.
func (a *authorization) cryptParameter(params, nonceNewer, nonceOlder []byte, encrypt bool) bool {
	if len(params) < 2 {
		return false
	}
	n := int(binary.BigEndian.Uint16(params))
	if n > len(params)-2 {
		return false
	}
	data := params[2 : 2+n]
	value := slices.Concat(a.session.key, a.value)
	defer clear(value)
	keyIV := tpm2.KDFa(a.session.hash, value, "CFB", nonceNewer, nonceOlder, 256)
	defer clear(keyIV)
	cfb(keyIV[:16], keyIV[16:], data, encrypt)
	return true
}

// cfb is AES-CFB in place, the only mode that TPMs have for this.
func cfb(key, iv, data []byte, encrypt bool) {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // the keys are 16 bytes long
	}
	if encrypt {
		cipher.NewCFBEncrypter(block, iv).XORKeyStream(data, data)
	} else {
		cipher.NewCFBDecrypter(block, iv).XORKeyStream(data, data)
	}
}

// shareSecret makes a secret that only the TPM with this key can find, and the TPM2B_ENCRYPTED_SECRET's contents to
// send for it.
func shareSecret(to Public, use string) (shared, encrypted []byte, err error) {
	key, err := to.Key()
	if err != nil {
		return nil, nil, err
	}
	hash, err := to.Area().NameAlg.Hash()
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	switch key := key.(type) {
	case *rsa.PublicKey:
		return shareRSA(key, hash, use)
	case *ecdsa.PublicKey:
		return shareECC(key, hash, use)
	}
	return nil, nil, fmt.Errorf("%w: no secret can be shared with %s", ErrUnsupported, to.Describe())
}

// shareRSA encrypts a random secret with OAEP (Part 1, section B.10.2); the label's NUL counts.
func shareRSA(key *rsa.PublicKey, hash crypto.Hash, use string) (shared, encrypted []byte, err error) {
	shared = make([]byte, hash.Size())
	rand.Read(shared)
	encrypted, err = rsa.EncryptOAEP(hash.New(), rand.Reader, key, shared, []byte(use+"\x00"))
	return shared, encrypted, err
}

// shareECC is one-pass ECDH and KDFe (Part 1, section C.6.4).
func shareECC(key *ecdsa.PublicKey, hash crypto.Hash, use string) (shared, encrypted []byte, err error) {
	static, err := key.ECDH()
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	ephemeral, err := static.Curve().GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	z, err := ephemeral.ECDH(static)
	if err != nil {
		return nil, nil, err
	}
	defer clear(z)
	x, y := coordinates(ephemeral.PublicKey())
	staticX, _ := coordinates(static)
	encrypted = put2B(put2B(nil, x), y)
	return tpm2.KDFe(hash, z, use, x, staticX, hash.Size()*8), encrypted, nil
}

// coordinates splits the uncompressed point that crypto/ecdh gives.
func coordinates(k *ecdh.PublicKey) (x, y []byte) {
	p := k.Bytes()[1:]
	return p[:len(p)/2], p[len(p)/2:]
}
