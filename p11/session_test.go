package p11

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/internal/tokens"
	"github.com/tpm2-p11/tpm2-p11/internal/version"
	"github.com/tpm2-p11/tpm2-p11/keystore"
)

func TestNothingWorksBeforeInitialize(t *testing.T) {
	t.Parallel()
	m := New(func() (*tokens.Set, error) { return &tokens.Set{}, nil })
	if _, err := m.GetSlotList(true); !errors.Is(err, CKR_CRYPTOKI_NOT_INITIALIZED) {
		t.Errorf("C_GetSlotList: %v", err)
	}
	if err := m.CloseSession(1); !errors.Is(err, CKR_CRYPTOKI_NOT_INITIALIZED) {
		t.Errorf("C_CloseSession: %v", err)
	}
	if err := m.Finalize(); !errors.Is(err, CKR_CRYPTOKI_NOT_INITIALIZED) {
		t.Errorf("C_Finalize: %v", err)
	}
}

func TestInitializeAndFinalizeManyTimes(t *testing.T) {
	t.Parallel()
	m := New(func() (*tokens.Set, error) { return &tokens.Set{}, nil })
	for range 3 {
		if err := m.Initialize(0, false); err != nil {
			t.Fatal(err)
		}
		if err := m.Initialize(0, false); !errors.Is(err, CKR_CRYPTOKI_ALREADY_INITIALIZED) {
			t.Errorf("second C_Initialize: %v", err)
		}
		if err := m.Finalize(); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Initialize(CKF_LIBRARY_CANT_CREATE_OS_THREADS, true); err != nil {
		t.Errorf("C_Initialize of an application that forbids threads, as p11-kit does: %v", err)
	}
}

func TestWrongConfigurationFailsInitialize(t *testing.T) {
	t.Parallel()
	m := New(func() (*tokens.Set, error) { return nil, errors.New("tpm2-p11.conf:3: unknown key") })
	if err := m.Initialize(0, false); RVOf(err) != CKR_FUNCTION_FAILED {
		t.Errorf("C_Initialize: %v", err)
	}
	if err := m.Finalize(); !errors.Is(err, CKR_CRYPTOKI_NOT_INITIALIZED) {
		t.Errorf("C_Finalize: %v", err)
	}
}

func TestLookingAroundTouchesNoTPM(t *testing.T) {
	t.Parallel()
	w := open(t)
	n := w.commands(func() {
		w.must(w.Finalize())
		w.must(w.Initialize(0, false))
		about, err := w.GetInfo()
		w.must(err)
		if major, minor := version.MajorMinor(); about.LibraryVersion != (Version{major, minor}) {
			t.Errorf("library version %v", about.LibraryVersion)
		}
		ids, err := w.GetSlotList(true)
		w.must(err)
		if len(ids) != 1 {
			t.Errorf("%d slots", len(ids))
		}
		info, err := w.GetTokenInfo(0)
		w.must(err)
		if want := CKF_RNG | CKF_TOKEN_INITIALIZED; info.Flags != want || info.Label != "open" {
			t.Errorf("token %q with flags 0x%x, want 0x%x", info.Label, info.Flags, want)
		}
		s := w.session(true)
		w.find(s)
		w.must(w.Login(s, CKU_USER, nil))
		w.must(w.CloseSession(s))
	})
	if n != 0 {
		t.Errorf("%d TPM commands", n)
	}
	if _, err := w.GetTokenInfo(1); RVOf(err) != CKR_SLOT_ID_INVALID {
		t.Errorf("C_GetTokenInfo of no slot: %v", err)
	}
}

func TestUninitialisedTokenIsThereButOpensNoSession(t *testing.T) {
	t.Parallel()
	w := fresh(t)
	if text := w.log.String(); !strings.Contains(text, "level=DEBUG msg=\"a token cannot be used\" slot=0 store="+w.token.Dir()) {
		t.Errorf("whoever looks for the token in the log finds %s", text)
	}
	slot, err := w.GetSlotInfo(0)
	w.must(err)
	info, err := w.GetTokenInfo(0)
	w.must(err)
	if slot.Flags&CKF_TOKEN_PRESENT == 0 || info.Flags&CKF_TOKEN_INITIALIZED != 0 {
		t.Errorf("slot flags 0x%x, token flags 0x%x", slot.Flags, info.Flags)
	}
	_, err = w.OpenSession(0, CKF_SERIAL_SESSION)
	w.refused(err, CKR_TOKEN_NOT_RECOGNIZED)
	if text := w.log.String(); !strings.Contains(text, `level=WARN msg="C_OpenSession failed" rv=CKR_TOKEN_NOT_RECOGNIZED`) || !strings.Contains(text, "run `tpm2-p11 init` first") {
		t.Errorf("the log does not say why: %s", text)
	}
}

// A host that has no descriptor left for a moment, say, works on with the token that it knows.
func TestATokenThatCannotBeReadForAMomentOpensSessions(t *testing.T) {
	t.Parallel()
	w := open(t)
	file := filepath.Join(w.token.Dir(), "token.json")
	w.must(os.Rename(file, file+".away"))
	w.must(os.Mkdir(file, 0o700))
	if w.token.Check() == nil {
		t.Fatal("the token can be read: the test proves nothing")
	}
	_, err := w.OpenSession(0, CKF_SERIAL_SESSION)
	w.must(err)
}

func TestSessionStates(t *testing.T) {
	t.Parallel()
	w := guarded(t)
	_, err := w.OpenSession(0, CKF_RW_SESSION)
	w.refused(err, CKR_SESSION_PARALLEL_NOT_SUPPORTED)
	ro, rw := w.session(false), w.session(true)
	check := func(h SessionHandle, want State) {
		t.Helper()
		info, err := w.GetSessionInfo(h)
		w.must(err)
		if info.State != want {
			t.Errorf("state %d, want %d", info.State, want)
		}
	}
	check(ro, CKS_RO_PUBLIC_SESSION)
	check(rw, CKS_RW_PUBLIC_SESSION)
	w.refused(w.Logout(ro), CKR_USER_NOT_LOGGED_IN)
	w.refused(w.Login(rw, CKU_SO, []byte(soPIN)), CKR_SESSION_READ_ONLY_EXISTS)
	w.refused(w.Login(rw, 9, nil), CKR_USER_TYPE_INVALID)
	w.must(w.Login(ro, CKU_USER, []byte(userPIN)))
	check(ro, CKS_RO_USER_FUNCTIONS)
	check(rw, CKS_RW_USER_FUNCTIONS)
	w.refused(w.Login(rw, CKU_USER, []byte(userPIN)), CKR_USER_ALREADY_LOGGED_IN)
	w.refused(w.Login(rw, CKU_SO, []byte(soPIN)), CKR_USER_ANOTHER_ALREADY_LOGGED_IN)
	w.must(w.Logout(rw))
	check(ro, CKS_RO_PUBLIC_SESSION)
	w.must(w.CloseSession(ro))
	w.refused(w.CloseSession(ro), CKR_SESSION_HANDLE_INVALID)
	w.must(w.Login(rw, CKU_SO, []byte(soPIN)))
	check(rw, CKS_RW_SO_FUNCTIONS)
	_, err = w.OpenSession(0, CKF_SERIAL_SESSION)
	w.refused(err, CKR_SESSION_READ_WRITE_SO_EXISTS)
	w.refused(w.InitToken(0, []byte(soPIN), padded("again")), CKR_SESSION_EXISTS)
}

func TestLastSessionLogsOut(t *testing.T) {
	t.Parallel()
	w := guarded(t)
	first, second := w.session(true), w.session(false)
	w.must(w.Login(first, CKU_USER, []byte(userPIN)))
	w.must(w.CloseSession(first))
	if w.token.LoggedIn() == 0 {
		t.Error("logged out while a session is open")
	}
	w.must(w.CloseSession(second))
	if w.token.LoggedIn() != 0 {
		t.Error("still logged in without a session")
	}
	w.must(w.Login(w.session(true), CKU_USER, []byte(userPIN)))
	w.must(w.CloseAllSessions(0))
	if w.token.LoggedIn() != 0 {
		t.Error("still logged in after C_CloseAllSessions")
	}
}

func TestSessionsOfManyThreads(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.make(ecKey("web"))
	var threads sync.WaitGroup
	for range 64 {
		threads.Go(func() {
			for range 4 {
				s, err := w.OpenSession(0, CKF_SERIAL_SESSION)
				if err != nil {
					t.Error(err)
					return
				}
				if err := w.FindObjectsInit(s, []Attribute{class(CKO_PRIVATE_KEY)}); err != nil {
					t.Error(err)
				}
				found, err := w.FindObjects(s, 5)
				if err != nil || len(found) != 1 {
					t.Errorf("found %v: %v", found, err)
					return
				}
				if err := w.SignInit(s, mechanismOf(CKM_ECDSA), found[0]); err != nil {
					t.Error(err)
				}
				out := Output{Capacity: 64}
				if err := w.Sign(s, make([]byte, 32), &out); err != nil {
					t.Error(err)
				}
				if err := w.CloseSession(s); err != nil {
					t.Error(err)
				}
			}
		})
	}
	threads.Wait()
}

func TestTokensOfOneModuleAreApart(t *testing.T) {
	t.Parallel()
	w := guarded(t)
	second, err := keystore.Open(keystore.Options{Dir: t.TempDir(), TPM: w.token.TPM()})
	w.must(err)
	w.must(w.Finalize())
	m := New(func() (*tokens.Set, error) {
		return &tokens.Set{Tokens: []*keystore.Token{w.token, second}}, nil
	})
	w.must(m.Initialize(0, false))
	defer func() { w.must(m.Finalize()) }()
	ids, err := m.GetSlotList(false)
	w.must(err)
	if len(ids) != 2 {
		t.Fatalf("%d slots", len(ids))
	}
	w.must(m.InitToken(ids[1], []byte(soPIN), padded("second")))
	a, err := m.OpenSession(ids[0], CKF_SERIAL_SESSION|CKF_RW_SESSION)
	w.must(err)
	b, err := m.OpenSession(ids[1], CKF_SERIAL_SESSION|CKF_RW_SESSION)
	w.must(err)
	w.must(m.Login(a, CKU_USER, []byte(userPIN)))
	info, err := m.GetSessionInfo(b)
	w.must(err)
	if info.State != CKS_RW_PUBLIC_SESSION || info.SlotID != ids[1] {
		t.Errorf("the login reached another token: %+v", info)
	}
	_, key, err := m.GenerateKeyPair(a, mechanismOf(CKM_EC_KEY_PAIR_GEN), []Attribute{p256}, []Attribute{onToken})
	w.must(err)
	if err := m.SignInit(b, mechanismOf(CKM_ECDSA), key); RVOf(err) != CKR_KEY_HANDLE_INVALID {
		t.Errorf("another token's key: %v", err)
	}
	w.must(m.CloseAllSessions(ids[1]))
	if info, err = m.GetSessionInfo(a); err != nil || info.State != CKS_RW_USER_FUNCTIONS {
		t.Errorf("%+v: %v", info, err)
	}
}

func TestTokenMadeAnewElsewhereEndsTheLogin(t *testing.T) {
	t.Parallel()
	w := guarded(t)
	s := w.session(true)
	w.must(w.Login(s, CKU_USER, []byte(userPIN)))
	elsewhere, err := keystore.Open(keystore.Options{Dir: w.token.Dir(), TPM: w.token.TPM()})
	w.must(err)
	user, so := secret.From([]byte(userPIN)), secret.From([]byte(soPIN))
	defer user.Wipe()
	defer so.Wipe()
	w.must(elsewhere.Init(t.Context(), keystore.InitOptions{Label: "anew", UserPIN: user, SOPIN: so, Force: true}))
	w.find(s)
	info, err := w.GetSessionInfo(s)
	w.must(err)
	if info.State != CKS_RW_PUBLIC_SESSION {
		t.Errorf("state %d", info.State)
	}
	w.must(w.Login(s, CKU_USER, []byte(userPIN)))
}

// The empty PIN of a token that had none opens nothing in the token that took its place.
func TestLoginWithoutAPINEndsWhenTheTokenGetsOne(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.make(ecKey("web"))
	s := w.session(true)
	w.must(w.Login(s, CKU_USER, nil))
	key := w.one(s, CKO_PRIVATE_KEY)
	elsewhere, err := keystore.Open(keystore.Options{Dir: w.token.Dir(), TPM: w.token.TPM()})
	w.must(err)
	user, so := secret.From([]byte(userPIN)), secret.From([]byte(soPIN))
	defer user.Wipe()
	defer so.Wipe()
	w.must(elsewhere.Init(t.Context(), keystore.InitOptions{Label: "anew", UserPIN: user, SOPIN: so, Force: true}))
	w.must(elsewhere.Login(t.Context(), keystore.User, user))
	_, err = elsewhere.CreateKey(t.Context(), ecKey("guarded"))
	w.must(err)
	elsewhere.Logout()
	if found := w.find(s, class(CKO_PRIVATE_KEY), label("guarded")); len(found) != 0 {
		t.Errorf("private keys are shown: %v", found)
	}
	w.refused(w.SignInit(s, mechanismOf(CKM_ECDSA_SHA256), key), CKR_KEY_HANDLE_INVALID)
	w.one(s, CKO_PRIVATE_KEY, label("web")) // no PIN guards it, then as now
	w.must(w.Login(s, CKU_USER, []byte(userPIN)))
	w.one(s, CKO_PRIVATE_KEY, label("guarded"))
}

func TestFinalizeWipesTheLogin(t *testing.T) {
	t.Parallel()
	w := guarded(t)
	s := w.session(true)
	w.must(w.Login(s, CKU_USER, []byte(userPIN)))
	w.must(w.Finalize())
	if w.token.LoggedIn() != 0 {
		t.Error("still logged in")
	}
	w.refused(w.CloseSession(s), CKR_CRYPTOKI_NOT_INITIALIZED)
	w.must(w.Initialize(0, false))
	w.refused(w.CloseSession(s), CKR_SESSION_HANDLE_INVALID)
}
