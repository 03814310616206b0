package p11

import (
	"fmt"
	"sync"

	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/internal/attested"
	"github.com/tpm2-p11/tpm2-p11/internal/tokens"
	"github.com/tpm2-p11/tpm2-p11/kms"
	"github.com/tpm2-p11/tpm2-p11/signer"
)

// keyService is a library's way to AWS KMS. Nothing is asked of anybody before its first use.
type keyService struct {
	mu       sync.Mutex
	services map[string]*kms.Service // by region
}

// service gives the way to KMS in a region, "" for the environment's or the instance's.
func (l *library) service(c config.KMS) (*kms.Service, error) {
	l.kms.mu.Lock()
	defer l.kms.mu.Unlock()
	if known := l.kms.services[c.Region]; known != nil {
		return known, nil
	}
	made, err := attested.Service(l.ctx, c, l.log)
	if err != nil {
		return nil, err
	}
	if l.kms.services == nil {
		l.kms.services = make(map[string]*kms.Service)
	}
	l.kms.services[c.Region] = made
	return made, nil
}

// unwrapper unwraps for a key of the token. With a cache in [kms] it is kept until the logout, since whoever may use what is cached
// may use the key; done ends what is not kept.
func (s *session) unwrapper(o *object, c config.KMS) (u *kms.Unwrapper, done func(), err error) {
	name := fmt.Sprintf("%x %x %s %s", o.entry.Object.Public.Name(), o.entry.Object.Handle, c.Region, c.KeyID)
	s.lib.mu.Lock()
	kept := s.slot.unwrappers[name]
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
	made, err := attested.Unwrapper(service, c, attested.Recipient{Key: key, TPM: s.slot.token.TPM()})
	if err != nil {
		return nil, nil, err
	}
	if c.CacheFor == 0 {
		return made, func() { made.Close(); key.Close() }, nil
	}
	s.lib.mu.Lock()
	defer s.lib.mu.Unlock()
	if s.lib.sessions[s.handle] == nil { // logged out meanwhile
		return made, func() { made.Close(); key.Close() }, nil
	}
	if kept := s.slot.unwrappers[name]; kept != nil { // another thread was faster
		made.Close()
		return kept, func() {}, nil
	}
	if s.slot.unwrappers == nil {
		s.slot.unwrappers = make(map[string]*kms.Unwrapper)
	}
	s.slot.unwrappers[name] = made
	return made, func() {}, nil
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
	key, err := signer.ForEntry(s.slot.token, found.Entry, nil)
	if err != nil {
		return r, nil, err
	}
	return attested.Recipient{Key: key, TPM: s.slot.token.TPM()}, func() { key.Close() }, nil
}
