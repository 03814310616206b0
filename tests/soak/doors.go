package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/miekg/pkcs11"

	"github.com/tpm2-p11/tpm2-p11/signer"
)

// keyOf is the key that an operation takes.
var keyOf = map[string]string{"pkcs1": "rsa", "pss": "rsa", "ecdsa": "ec", "bound": "bound", "oaep": "mail"}

var letter = []byte("a letter")

// publicKeys are the keys' public halves, as the command wrote them.
func publicKeys() (map[string]crypto.PublicKey, error) {
	all := map[string]crypto.PublicKey{}
	for label := range keys {
		text, err := os.ReadFile(filepath.Join(os.Getenv("SOAK_DIR"), label+".pub"))
		if err != nil {
			return nil, err
		}
		block, _ := pem.Decode(text)
		if block == nil {
			return nil, fmt.Errorf("%s is no PEM", text)
		}
		if all[label], err = x509.ParsePKIXPublicKey(block.Bytes); err != nil {
			return nil, err
		}
	}
	return all, nil
}

var pssOptions = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}

// checked tells whether a signature is one.
func checked(key crypto.PublicKey, operation string, digest, signature []byte) error {
	good := false
	switch k := key.(type) {
	case *rsa.PublicKey:
		if operation == "pss" {
			good = rsa.VerifyPSS(k, crypto.SHA256, digest, signature, pssOptions) == nil
		} else {
			good = rsa.VerifyPKCS1v15(k, crypto.SHA256, digest, signature) == nil
		}
	case *ecdsa.PublicKey:
		good = ecdsa.VerifyASN1(k, digest, signature)
	}
	if !good {
		return wrong(fmt.Sprintf("a signature that does not verify: %x", signature))
	}
	return nil
}

func opened(got []byte) error {
	if !bytes.Equal(got, letter) {
		return wrong(fmt.Sprintf("the letter became %q", got))
	}
	return nil
}

// module is the PKCS #11 module: a session a thread.
type module struct {
	ctx      *pkcs11.Ctx
	public   map[string]crypto.PublicKey
	mu       sync.Mutex // of sessions
	sessions [threads]pkcs11.SessionHandle
}

func newModule() (door, error) {
	public, err := publicKeys()
	if err != nil {
		return nil, err
	}
	m := &module{ctx: pkcs11.New(os.Getenv("SOAK_MODULE")), public: public}
	if m.ctx == nil {
		return nil, errors.New("the module does not load")
	}
	if err := m.ctx.Initialize(); err != nil {
		return nil, err
	}
	for thread := range threads {
		if err := m.anew(thread); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// anew opens another session and logs in where the login is gone.
func (m *module) anew(thread int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if old := m.sessions[thread]; old != 0 {
		m.sessions[thread] = 0
		if err := m.ctx.CloseSession(old); err != nil && rv(err) != pkcs11.CKR_SESSION_HANDLE_INVALID {
			return honest(err)
		}
	}
	s, err := m.ctx.OpenSession(0, pkcs11.CKF_SERIAL_SESSION)
	if err != nil {
		return honest(err)
	}
	m.sessions[thread] = s
	if err := m.ctx.Login(s, pkcs11.CKU_USER, pin); err != nil && rv(err) != pkcs11.CKR_USER_ALREADY_LOGGED_IN {
		return honest(err)
	}
	return nil
}

func rv(err error) uint {
	if e := pkcs11.Error(0); errors.As(err, &e) {
		return uint(e)
	}
	return pkcs11.CKR_OK
}

// honest makes a wrong answer of errors that blame the application, or nobody. That the TPM does not have a mechanism is not one: what is
// left of an answer after a fault may well say so.
func honest(err error) error {
	if slices.Contains([]uint{
		pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_LOCKED, pkcs11.CKR_ARGUMENTS_BAD, pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED,
		pkcs11.CKR_KEY_TYPE_INCONSISTENT, pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED, pkcs11.CKR_DATA_LEN_RANGE,
	}, rv(err)) {
		return wrong(err.Error())
	}
	return err
}

func (m *module) use(thread int, operation string) error {
	m.mu.Lock()
	s := m.sessions[thread]
	m.mu.Unlock()
	label := keyOf[operation]
	err := m.ctx.FindObjectsInit(s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label)})
	if err != nil {
		return honest(err)
	}
	found, _, err := m.ctx.FindObjects(s, 2)
	if end := m.ctx.FindObjectsFinal(s); err == nil {
		err = end
	}
	switch {
	case err != nil:
		return honest(err)
	case len(found) == 0:
		return errors.New("the key is not there") // for who is not logged in any more
	case len(found) > 1:
		return wrong(fmt.Sprintf("%d keys are called %q", len(found), label))
	}
	if operation == "oaep" {
		return m.decrypt(s, found[0])
	}
	text := make([]byte, 100)
	if _, err := rand.Read(text); err != nil {
		return err
	}
	how := map[string]*pkcs11.Mechanism{
		"pkcs1": pkcs11.NewMechanism(pkcs11.CKM_SHA256_RSA_PKCS, nil),
		"pss":   pkcs11.NewMechanism(pkcs11.CKM_SHA256_RSA_PKCS_PSS, pkcs11.NewPSSParams(pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, 32)),
	}[operation]
	if how == nil {
		how = pkcs11.NewMechanism(pkcs11.CKM_ECDSA_SHA256, nil)
	}
	if err := m.ctx.SignInit(s, []*pkcs11.Mechanism{how}, found[0]); err != nil {
		return honest(err)
	}
	signature, err := m.ctx.Sign(s, text)
	if err != nil {
		return honest(err)
	}
	digest := sha256.Sum256(text)
	if key, ok := m.public[label].(*ecdsa.PublicKey); ok {
		half := len(signature) / 2
		if !ecdsa.Verify(key, digest[:], new(big.Int).SetBytes(signature[:half]), new(big.Int).SetBytes(signature[half:])) {
			return wrong(fmt.Sprintf("a signature that does not verify: %x", signature))
		}
		return nil
	}
	return checked(m.public[label], operation, digest[:], signature)
}

func (m *module) decrypt(s pkcs11.SessionHandle, key pkcs11.ObjectHandle) error {
	ciphertext, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, m.public["mail"].(*rsa.PublicKey), letter, nil)
	if err != nil {
		return err
	}
	how := pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_OAEP, pkcs11.NewOAEPParams(pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, pkcs11.CKZ_DATA_SPECIFIED, nil))
	if err := m.ctx.DecryptInit(s, []*pkcs11.Mechanism{how}, key); err != nil {
		return honest(err)
	}
	got, err := m.ctx.Decrypt(s, ciphertext)
	if err != nil {
		return honest(err)
	}
	return opened(got)
}

func (m *module) close() error {
	if err := m.ctx.Finalize(); err != nil {
		return err
	}
	m.ctx.Destroy()
	return nil
}

// goPackage is the Go package: all threads share each key.
type goPackage struct {
	public map[string]crypto.PublicKey
	keys   map[string]*signer.Key
}

func newSigner() (door, error) {
	public, err := publicKeys()
	if err != nil {
		return nil, err
	}
	s := &goPackage{public, map[string]*signer.Key{}}
	for label := range keys {
		if s.keys[label], err = signer.Open(context.Background(), label, signer.WithPIN(func() ([]byte, error) { return []byte(pin), nil })); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// anew has nothing to do: a key goes on by itself.
func (s *goPackage) anew(int) error { return nil }

func (s *goPackage) use(_ int, operation string) error {
	label := keyOf[operation]
	key := s.keys[label]
	if operation == "oaep" {
		ciphertext, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, s.public[label].(*rsa.PublicKey), letter, nil)
		if err != nil {
			return err
		}
		got, err := key.Decrypt(nil, ciphertext, &rsa.OAEPOptions{Hash: crypto.SHA256})
		if err != nil {
			return fair(err)
		}
		return opened(got)
	}
	var digest [sha256.Size]byte
	if _, err := rand.Read(digest[:]); err != nil {
		return err
	}
	var options crypto.SignerOpts = crypto.SHA256
	if operation == "pss" {
		options = pssOptions
	}
	signature, err := key.Sign(nil, digest[:], options)
	if err != nil {
		return fair(err)
	}
	return checked(s.public[label], operation, digest[:], signature)
}

// fair makes a wrong answer of errors that blame the application.
func fair(err error) error {
	for _, blame := range []error{signer.ErrPIN, signer.ErrLockout, signer.ErrPINNeeded, signer.ErrNotFound, signer.ErrNotInitialized} {
		if errors.Is(err, blame) {
			return wrong(err.Error())
		}
	}
	return err
}

func (s *goPackage) close() error {
	var all error
	for _, k := range s.keys {
		all = errors.Join(all, k.Close())
	}
	return all
}
