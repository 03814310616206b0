package p11

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tpm2-p11/tpm2-p11/internal/p11uri"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/kms"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// maxSessions is the most sessions that any application may have open at once.
const maxSessions = 65536

// slot is one token of the configuration and what the application has going on in it.
type slot struct {
	id    SlotID
	token *keystore.Token

	// pinMu serialises what checks or changes PINs, so that a login and its effect are one step. Nothing else waits for it.
	pinMu sync.Mutex

	// Guarded by library.mu.
	login      keystore.Role // 0 for none
	byPIN      bool          // the login's PIN opened the token's secret
	sessions   map[SessionHandle]*session
	objects    map[ObjectHandle]*object      // session objects
	stored     *inventory                    // what is known of the store
	unwrappers map[unwrapping]*kms.Unwrapper // with what they cache, until the logout
	changes    uint64                        // how often stored was forgotten
	refused    ObjectHandle                  // the key whose use was refused last, unless it worked since
	keys       *keySizes                     // what the TPM can make; nil before it was asked
	keysSilent time.Time                     // when it was asked in vain
}

// role is who is logged in. A token that another process made anew has lost its secret, and with it the login. library.mu is held.
func (s *slot) role() keystore.Role {
	if s.byPIN && s.token.LoggedIn() != s.login {
		s.logout()
	}
	return s.login
}

func (l *library) slot(id SlotID) (*slot, error) {
	if id >= SlotID(len(l.slots)) {
		return nil, CKR_SLOT_ID_INVALID
	}
	return l.slots[id], nil
}

// GetSlotList is C_GetSlotList: one slot for each token of the configuration, in its order. A slot always has its token, whether or
// not the TPM answers: listing slots touches no TPM.
func (m *Module) GetSlotList(tokenPresent bool) ([]SlotID, error) {
	l, err := m.library()
	if err != nil {
		return nil, err
	}
	ids := make([]SlotID, len(l.slots))
	for i, s := range l.slots {
		ids[i] = s.id
	}
	return ids, nil
}

// GetSlotInfo is C_GetSlotInfo.
func (m *Module) GetSlotInfo(id SlotID) (SlotInfo, error) {
	l, err := m.library()
	if err != nil {
		return SlotInfo{}, err
	}
	s, err := l.slot(id)
	if err != nil {
		return SlotInfo{}, err
	}
	return SlotInfo{
		SlotDescription: "TPM " + s.token.TPM().String(),
		ManufacturerID:  p11uri.OurManufacturer,
		Flags:           CKF_TOKEN_PRESENT | CKF_HW_SLOT,
		HardwareVersion: Version{2, 0},
	}, nil
}

// GetTokenInfo is C_GetTokenInfo. It asks the TPM one thing, its lockout counters, and only for a token with a PIN that nobody is
// logged in to.
func (m *Module) GetTokenInfo(id SlotID) (TokenInfo, error) {
	l, err := m.library()
	if err != nil {
		return TokenInfo{}, err
	}
	s, err := l.slot(id)
	if err != nil {
		return TokenInfo{}, err
	}
	token := s.token.Now()
	info := TokenInfo{
		Label:              token.Label(),
		ManufacturerID:     p11uri.OurManufacturer,
		Model:              p11uri.OurModel,
		SerialNumber:       token.Serial(),
		Flags:              CKF_RNG,
		MaxSessionCount:    uint64(l.maxSessions),
		MaxRwSessionCount:  uint64(l.maxSessions),
		MaxPinLen:          keystore.MaxPIN,
		MinPinLen:          keystore.MinPIN,
		TotalPublicMemory:  CK_UNAVAILABLE_INFORMATION,
		FreePublicMemory:   CK_UNAVAILABLE_INFORMATION,
		TotalPrivateMemory: CK_UNAVAILABLE_INFORMATION,
		FreePrivateMemory:  CK_UNAVAILABLE_INFORMATION,
		HardwareVersion:    Version{2, 0},
	}
	if !s.token.Writable() {
		info.Flags |= CKF_WRITE_PROTECTED
	}
	l.mu.Lock()
	for _, open := range s.sessions {
		info.SessionCount++
		if open.readWrite() {
			info.RwSessionCount++
		}
	}
	loggedIn := s.role() != 0
	l.mu.Unlock()
	if !token.Initialized() {
		return info, nil
	}
	info.Flags |= CKF_TOKEN_INITIALIZED
	if token.HasPIN() {
		info.Flags |= CKF_LOGIN_REQUIRED
		if token.HasUserPIN() {
			info.Flags |= CKF_USER_PIN_INITIALIZED
		}
		if !loggedIn {
			info.Flags |= l.lockoutFlags(s.token.TPM())
		}
	}
	return info, nil
}

// lockout asks for the TPM's counters, for a moment.
func (l *library) lockout(t *provider.TPM) (provider.Lockout, error) {
	ctx, cancel := context.WithTimeout(l.ctx, 2*time.Second)
	defer cancel()
	return t.Lockout(ctx)
}

// countTries adds to a wrong PIN how many more the TPM takes, as far as it can be asked: it is where the log's reader learns it.
func (l *library) countTries(t *provider.TPM, err error) error {
	if !errors.Is(err, provider.ErrAuth) {
		return err
	}
	p, unknown := l.lockout(t)
	switch {
	case unknown != nil:
		return err
	case p.InLockout:
		return fmt.Errorf("%w: that was one too many, and the TPM takes no PIN for a while: see `tpm2-p11 lockout show`", err)
	}
	return fmt.Errorf("%w: wrong tries left before the TPM takes no PIN for a while: %d", err, p.MaxAuthFail-min(p.LockoutCounter, p.MaxAuthFail))
}

// lockoutFlags tells how near the TPM is to its lockout, which user and security officer share. A TPM that does not answer soon tells nothing.
func (l *library) lockoutFlags(t *provider.TPM) Flags {
	p, err := l.lockout(t)
	if err != nil {
		l.log.Debug("lockout counters are not known", "reason", err.Error())
		return 0
	}
	left := p.MaxAuthFail - min(p.LockoutCounter, p.MaxAuthFail)
	if l.user != nil {
		left = triesOfUsers(p)
	}
	switch {
	case p.InLockout || left == 0:
		return CKF_USER_PIN_LOCKED | CKF_SO_PIN_LOCKED
	case p.LockoutCounter == 0:
		return 0
	case left == 1:
		return CKF_USER_PIN_COUNT_LOW | CKF_SO_PIN_COUNT_LOW | CKF_USER_PIN_FINAL_TRY | CKF_SO_PIN_FINAL_TRY
	}
	return CKF_USER_PIN_COUNT_LOW | CKF_SO_PIN_COUNT_LOW
}
