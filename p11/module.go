package p11

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/tpm2-p11/tpm2-p11/internal/tokens"
	"github.com/tpm2-p11/tpm2-p11/internal/version"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// Module is a Cryptoki library for one application. Its methods are the C functions of the same names; each returns nil for CKR_OK
// and otherwise an error whose return value RVOf knows. Safe for concurrent use, and it starts no goroutine.
type Module struct {
	load   func() (*tokens.Set, error)
	forked bool
	guard  Guard // nil for an application that may use all
	user   *User // whose wrong PINs count; nil for nobody

	sessions int // that may be open at once; 0 for maxSessions

	mu  sync.RWMutex
	lib *library // nil outside of C_Initialize and C_Finalize
}

// New makes a module. load is called by C_Initialize; it must not touch a TPM, since many programs initialise every module there is. A set
// beside an error has the log that tells of it.
func New(load func() (*tokens.Set, error)) *Module { return &Module{load: load} }

// NewForked is New for a forked child of the application that the configuration was written for. It may use keys and make session
// objects, but it makes, changes and deletes nothing that the token keeps, sets no PIN and is no security officer, unless the configuration
// says so: the answer is CKR_TOKEN_WRITE_PROTECTED. user is whose wrong PINs those of all such children are; nil counts none.
func NewForked(load func() (*tokens.Set, error), user *User) *Module {
	return &Module{load: load, forked: true, user: user}
}

// library is what lives from C_Initialize to C_Finalize.
type library struct {
	set    *tokens.Set
	guard  Guard
	forked bool
	user   *User
	log    *slog.Logger
	kms    keyService
	ctx    context.Context // of everything that reaches a TPM; C_Finalize ends it
	cancel context.CancelFunc
	slots  []*slot

	mechanisms  mechanismTable // that the configuration has
	maxSessions int            // that may be open at once

	// mu guards the fields below and those of slots that say so. It is held to look things up, never while a TPM or a disk works.
	mu          sync.Mutex
	sessions    map[SessionHandle]*session
	lastSession SessionHandle
	lastObject  ObjectHandle

	held    atomic.Int64 // bytes that operations keep
	waiting atomic.Int64 // calls of C_WaitForSlotEvent
}

// Initialize is C_Initialize (PKCS #11 v3.1, section 5.4). It reads the configuration and no more. A configuration that is not there
// is none; one that is wrong is CKR_FUNCTION_FAILED, with the reason in the log. An application may forbid threads
// (CKF_LIBRARY_CANT_CREATE_OS_THREADS, as p11-kit does): the runtime's are there since the library was loaded.
func (m *Module) Initialize(flags Flags, hasArgs bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lib != nil {
		return CKR_CRYPTOKI_ALREADY_INITIALIZED
	}
	set, err := m.load()
	if err != nil {
		log := tokens.DefaultLogger()
		if set != nil {
			log = set.Logger
		}
		log.Warn("C_Initialize failed", "rv", CKR_FUNCTION_FAILED.Error(), "reason", err.Error())
		return CKR_FUNCTION_FAILED
	}
	m.lib = newLibrary(set)
	m.lib.guard = m.guard
	m.lib.forked = m.forked
	if m.user != nil {
		m.lib.user, m.lib.ctx = m.user, provider.ForUser(m.lib.ctx, m.user)
	}
	if m.sessions > 0 {
		m.lib.maxSessions = min(m.sessions, maxSessions)
	}
	return nil
}

func newLibrary(set *tokens.Set) *library {
	l := &library{
		set: set, mechanisms: offered(set.Config), maxSessions: maxSessions, log: set.Logger, sessions: map[SessionHandle]*session{},
		lastObject: sessionObjectBit | ObjectHandle(rand.Uint64()>>8),
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	for i, token := range set.Tokens {
		if err := token.Check(); err != nil {
			l.log.Debug("a token cannot be used", "slot", i, "store", token.Dir(), "reason", err.Error())
		} else {
			l.log.Debug("a token", "slot", i, "store", token.Dir(), "label", token.Label(), "tpm", token.TPM().String())
		}
		l.slots = append(l.slots, &slot{id: SlotID(i), token: token, sessions: map[SessionHandle]*session{}, objects: map[ObjectHandle]*object{}, stored: newInventory()})
	}
	return l
}

// Finalize is C_Finalize: it ends what runs, closes all sessions, wipes the secrets and lets go of the TPMs.
func (m *Module) Finalize() (err error) {
	m.mu.Lock()
	l := m.lib
	m.lib = nil
	m.mu.Unlock()
	if l == nil {
		return CKR_CRYPTOKI_NOT_INITIALIZED
	}
	defer l.report("C_Finalize", &err)
	l.cancel()
	for _, s := range l.slots {
		l.closeAll(s)
	}
	return l.set.Close()
}

// Release lets go of the TPMs that no call uses now, which flushes the sessions
// kept in them: for a process that ends without C_Finalize.
func (m *Module) Release() {
	if l, err := m.library(); err == nil {
		l.set.Release()
	}
}

// GetInfo is C_GetInfo.
func (m *Module) GetInfo() (Info, error) {
	if _, err := m.library(); err != nil {
		return Info{}, err
	}
	major, minor := version.MajorMinor()
	return Info{
		CryptokiVersion:    Version{3, 2},
		ManufacturerID:     "tpm2-p11",
		LibraryDescription: "Keys in a TPM 2.0",
		LibraryVersion:     Version{major, minor},
	}, nil
}

func (m *Module) library() (*library, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.lib == nil {
		return nil, CKR_CRYPTOKI_NOT_INITIALIZED
	}
	return m.lib, nil
}

// report logs why a call failed. A bare RV is the application's own affair; everything else the operator must be able to find out.
func (l *library) report(function string, err *error) {
	switch e := (*err).(type) {
	case nil:
	case RV:
		l.log.Debug(function, "rv", e.Error())
	default:
		l.log.Warn(function+" failed", "rv", RVOf(e).Error(), "reason", brief(e.Error()))
	}
}

// maxReason is how many bytes of a reason the log has: an application may choose what is in it, a label of a megabyte, say.
const maxReason = 2 << 10

func brief(reason string) string {
	if len(reason) <= maxReason {
		return reason
	}
	return strings.ToValidUTF8(reason[:maxReason], "") + "…"
}
