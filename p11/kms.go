package p11

import (
	"context"
	"crypto"
	"io"
	"sync"

	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/internal/attested"
	"github.com/tpm2-p11/tpm2-p11/internal/tokens"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/kms"
	"github.com/tpm2-p11/tpm2-p11/provider"
	"github.com/tpm2-p11/tpm2-p11/signer"
)

// keyService is a library's way to AWS KMS. Nothing is asked of anybody before its first use.
type keyService struct {
	mu       sync.Mutex
	services map[string]*kms.Service // by region
}

// What is kept for the next call. Applications name regions and keys as they like; beyond this nothing more of it is kept.
const (
	maxServices   = 16
	maxUnwrappers = 256
)

// service gives the way to KMS in a region, "" for the environment's or the instance's. No lock is held while it is made: the metadata
// service may be asked.
func (l *library) service(c config.KMS) (*kms.Service, error) {
	l.kms.mu.Lock()
	known := l.kms.services[c.Region]
	l.kms.mu.Unlock()
	if known != nil {
		return known, nil
	}
	made, err := attested.Service(l.ctx, c, l.log)
	if err != nil {
		return nil, err
	}
	l.kms.mu.Lock()
	defer l.kms.mu.Unlock()
	if known := l.kms.services[c.Region]; known != nil { // another thread was faster
		return known, nil
	}
	if l.kms.services == nil {
		l.kms.services = make(map[string]*kms.Service)
	}
	if len(l.kms.services) < maxServices {
		l.kms.services[c.Region] = made
	}
	return made, nil
}

// unwrapping is what an unwrapper is for: a recipient of the token, and a key of KMS.
type unwrapping struct {
	recipient     string // its Name
	handle        provider.Handle
	region, keyID string
}

// unwrapper unwraps for a key of the token. With a cache in [kms] it is kept until the logout, since whoever may use what is cached
// may use the key; done ends what is not kept.
func (s *session) unwrapper(o *object, c config.KMS) (u *kms.Unwrapper, done func(), err error) {
	use := unwrapping{string(o.entry.Object.Public.Name()), o.entry.Object.Handle, c.Region, c.KeyID}
	s.lib.mu.Lock()
	kept := s.slot.unwrappers[use]
	s.lib.mu.Unlock()
	if kept != nil {
		return kept, func() {}, nil
	}
	service, err := s.lib.service(c)
	if err != nil {
		return nil, nil, err
	}
	key, err := signer.ForEntry(s.slot.token, o.entry, nil)
	if err != nil {
		return nil, nil, err
	}
	r, err := attested.Stored(s.lib.ctx, s.slot.token.TPM(), o.entry.Object, recipient{key, s.lib, s.slot.token.TPM(), o.entry})
	if err != nil {
		key.Close()
		return nil, nil, err
	}
	made, err := attested.Unwrapper(service, c, r)
	if err != nil {
		key.Close()
		return nil, nil, err
	}
	if c.CacheFor > 0 {
		if kept := s.keepUnwrapper(o, use, made); kept != nil {
			return kept, func() {}, nil
		}
	}
	return made, func() { made.Close(); key.Close() }, nil
}

// keepUnwrapper keeps an unwrapper until the logout, and gives the one that is kept: another thread may have been faster. It gives nil
// for one that is not kept, as after a logout meanwhile.
func (s *session) keepUnwrapper(o *object, use unwrapping, made *kms.Unwrapper) *kms.Unwrapper {
	s.lib.mu.Lock()
	defer s.lib.mu.Unlock()
	loggedOut := o.private && s.slot.role() != keystore.User
	if kept := s.slot.unwrappers[use]; kept != nil && !loggedOut {
		made.Close()
		return kept
	}
	if s.lib.sessions[s.handle] == nil || loggedOut || len(s.slot.unwrappers) >= maxUnwrappers {
		return nil
	}
	if s.slot.unwrappers == nil {
		s.slot.unwrappers = make(map[unwrapping]*kms.Unwrapper)
	}
	s.slot.unwrappers[use] = made
	return made
}

// forgetUnwrapped wipes what is cached; library.mu is held.
func (s *slot) forgetUnwrapped() {
	for _, u := range s.unwrappers {
		u.Close()
	}
	s.unwrappers = nil
}

// kmsClient has the key of [kms] as its recipient, or without one a key that the TPM makes for it.
func (s *session) kmsClient(c config.KMS) (client *kms.Client, done func(), err error) {
	service, err := s.lib.service(c)
	if err != nil {
		return nil, nil, err
	}
	r, done, err := s.recipient(c)
	if err != nil {
		return nil, nil, err
	}
	if client, err = attested.Client(service, r); err != nil {
		done()
		return nil, nil, err
	}
	return client, done, nil
}

func (s *session) recipient(c config.KMS) (r attested.Recipient, done func(), err error) {
	if c.Recipient == "" {
		if s.lib.restrains(s.slot) {
			return r, nil, refuse(CKR_TOKEN_WRITE_PROTECTED, "%s; [kms] names no recipient, and none is made here", restraint)
		}
		r, err = attested.Ephemeral(s.lib.ctx, s.slot.token.TPM())
		return r, func() {}, err
	}
	name, err := tokens.ParseName(c.Recipient)
	if err != nil {
		return r, nil, err
	}
	found, err := s.lib.set.Find(name, []int{int(s.slot.id)})
	if err != nil {
		return r, nil, refuse(CKR_FUNCTION_FAILED, "the recipient of [kms]: %v", err)
	}
	if !s.lib.guard.permits(found.Token.Label(), found.Entry.Label, CKF_UNWRAP) {
		return r, nil, refuse(CKR_KEY_FUNCTION_NOT_PERMITTED, "the recipient of [kms], %q, is not for this client to use so: an [[access]] table would say it", found.Entry.Label)
	}
	if !found.Entry.Object.Public.Attributes().Decrypt || found.Entry.AsksOwnPIN() {
		return r, nil, refuse(CKR_KEY_FUNCTION_NOT_PERMITTED, "the recipient of [kms], %q, must be a key that decrypts without a PIN of its own: `tpm2-p11 key create recipient --use decrypt` makes one", found.Entry.Label)
	}
	key, err := signer.ForEntry(s.slot.token, found.Entry, nil)
	if err != nil {
		return r, nil, err
	}
	if r, err = attested.Stored(s.lib.ctx, s.slot.token.TPM(), found.Entry.Object, recipient{key, s.lib, s.slot.token.TPM(), found.Entry}); err != nil {
		key.Close()
		return r, nil, err
	}
	return r, func() { key.Close() }, nil
}

// recipient is a key of the token as the application's user has it.
type recipient struct {
	key   *signer.Key
	lib   *library
	tpm   *provider.TPM
	entry keystore.Entry
}

func (r recipient) Public() crypto.PublicKey { return r.key.Public() }

// Decrypt implements crypto.Decrypter.
func (r recipient) Decrypt(_ io.Reader, ciphertext []byte, opts crypto.DecrypterOpts) ([]byte, error) {
	return r.DecryptContext(r.lib.ctx, ciphertext, opts)
}

// DecryptContext is Decrypt with a context.
func (r recipient) DecryptContext(ctx context.Context, ciphertext []byte, opts crypto.DecrypterOpts) (plaintext []byte, err error) {
	err = r.lib.use(r.tpm, r.entry, func() (err error) {
		plaintext, err = r.key.DecryptContext(ctx, ciphertext, opts)
		return err
	})
	return plaintext, err
}
