package p11

import (
	"slices"
	"sync"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/internal/tokens"
	"github.com/tpm2-p11/tpm2-p11/keystore"
)

// Every kind of session, and what changes something or needs somebody: each cell is what the standard says of a function in a state
// (PKCS #11 v3.2, sections 5.6 and 5.7).
func TestStatesAndFunctions(t *testing.T) {
	t.Parallel()
	w := guarded(t)
	rw := w.session(true)
	w.must(w.Login(rw, CKU_USER, []byte(userPIN)))
	w.make(ecKey("web"))
	private, public := w.one(rw, CKO_PRIVATE_KEY), w.one(rw, CKO_PUBLIC_KEY)
	w.must(w.CloseSession(rw))

	const (
		ok        = CKR_OK
		notIn     = CKR_USER_NOT_LOGGED_IN
		readOnly  = CKR_SESSION_READ_ONLY
		noHandle  = CKR_OBJECT_HANDLE_INVALID
		noSession = CKR_SESSION_HANDLE_INVALID
		userIn    = CKR_USER_ALREADY_LOGGED_IN
		otherIn   = CKR_USER_ANOTHER_ALREADY_LOGGED_IN
	)
	states := []struct {
		name              string
		readWrite, closed bool
		user              UserType
		pin               string
	}{
		{name: "read-only public"}, {name: "read-write public", readWrite: true},
		{name: "read-only user's", user: CKU_USER, pin: userPIN}, {name: "read-write user's", readWrite: true, user: CKU_USER, pin: userPIN},
		{name: "the security officer's", readWrite: true, user: CKU_SO, pin: soPIN}, {name: "closed", closed: true},
	}
	data := func(s SessionHandle, token, private bool) error {
		_, err := w.CreateObject(s, []Attribute{class(CKO_DATA), {CKA_TOKEN, boolean(token)}, {CKA_PRIVATE, boolean(private)}, {CKA_VALUE, []byte("x")}, label("x")})
		return err
	}
	login := func(s SessionHandle, user UserType, pin string) error {
		err := w.Login(s, user, []byte(pin))
		if err == nil {
			w.must(w.Logout(s))
		}
		return err
	}
	for _, row := range []struct {
		name string
		call func(s SessionHandle) error
		want [6]RV // in the order of states
	}{
		{"C_GenerateKeyPair", func(s SessionHandle) error {
			_, _, err := w.GenerateKeyPair(s, mechanismOf(CKM_EC_KEY_PAIR_GEN), []Attribute{p256}, []Attribute{onToken})
			return err
		}, [6]RV{readOnly, notIn, readOnly, ok, notIn, noSession}},
		{"C_CreateObject, public, session", func(s SessionHandle) error { return data(s, false, false) }, [6]RV{ok, ok, ok, ok, ok, noSession}},
		{"C_CreateObject, private, session", func(s SessionHandle) error { return data(s, false, true) }, [6]RV{notIn, notIn, ok, ok, notIn, noSession}},
		{"C_CreateObject, private, token", func(s SessionHandle) error { return data(s, true, true) }, [6]RV{readOnly, notIn, readOnly, ok, notIn, noSession}},
		{"C_SignInit", func(s SessionHandle) error { return w.SignInit(s, mechanismOf(CKM_ECDSA), private) }, [6]RV{notIn, notIn, ok, ok, notIn, noSession}},
		{"C_VerifyInit", func(s SessionHandle) error { return w.VerifyInit(s, mechanismOf(CKM_ECDSA), public) }, [6]RV{ok, ok, ok, ok, ok, noSession}},
		{"C_GetObjectSize of a private key", func(s SessionHandle) error { _, err := w.GetObjectSize(s, private); return err },
			[6]RV{noHandle, noHandle, ok, ok, noHandle, noSession}},
		{"C_SetAttributeValue of a private key", func(s SessionHandle) error { return w.SetAttributeValue(s, private, []Attribute{label("web")}) },
			[6]RV{noHandle, noHandle, readOnly, ok, noHandle, noSession}},
		{"C_SetAttributeValue of a public key", func(s SessionHandle) error { return w.SetAttributeValue(s, public, []Attribute{label("web")}) },
			[6]RV{readOnly, notIn, readOnly, ok, notIn, noSession}},
		{"C_InitPIN", func(s SessionHandle) error { return w.InitPIN(s, []byte(userPIN)) }, [6]RV{notIn, notIn, notIn, notIn, ok, noSession}},
		{"C_SetPIN", func(s SessionHandle) error {
			info, err := w.GetSessionInfo(s)
			if err == nil && info.State == CKS_RW_SO_FUNCTIONS {
				return w.SetPIN(s, []byte(soPIN), []byte(soPIN))
			}
			return w.SetPIN(s, []byte(userPIN), []byte(userPIN))
		}, [6]RV{readOnly, ok, readOnly, ok, ok, noSession}},
		{"C_Login of the user", func(s SessionHandle) error { return login(s, CKU_USER, userPIN) }, [6]RV{ok, ok, userIn, userIn, otherIn, noSession}},
		{"C_Login of the security officer", func(s SessionHandle) error { return login(s, CKU_SO, soPIN) },
			[6]RV{CKR_SESSION_READ_ONLY_EXISTS, ok, otherIn, otherIn, userIn, noSession}},
		{"C_Login of nobody", func(s SessionHandle) error { return w.Login(s, 7, []byte(userPIN)) },
			[6]RV{CKR_USER_TYPE_INVALID, CKR_USER_TYPE_INVALID, CKR_USER_TYPE_INVALID, CKR_USER_TYPE_INVALID, CKR_USER_TYPE_INVALID, noSession}},
		{"C_Logout", func(s SessionHandle) error { return w.Logout(s) }, [6]RV{notIn, notIn, ok, ok, ok, noSession}},
	} {
		for i, state := range states {
			s := w.session(state.readWrite)
			if state.pin != "" {
				w.must(w.Login(s, state.user, []byte(state.pin)))
			}
			if state.closed {
				w.must(w.CloseSession(s))
			} else {
				w.refused(w.InitToken(0, []byte(soPIN), padded("anew")), CKR_SESSION_EXISTS)
			}
			if err := row.call(s); RVOf(err) != row.want[i] {
				t.Errorf("%s in a session that is %s: %v (%v), want %v", row.name, state.name, RVOf(err), err, row.want[i])
			}
			if !state.closed {
				w.must(w.CloseSession(s))
			}
		}
	}
}

// Handles are one token's, and mean nothing once their object is gone.
func TestHandlesOfAnotherSlot(t *testing.T) {
	t.Parallel()
	w := open(t)
	second, err := keystore.Open(keystore.Options{Dir: t.TempDir(), TPM: w.token.TPM()})
	w.must(err)
	w.must(w.Finalize())
	m := New(func() (*tokens.Set, error) { return &tokens.Set{Tokens: []*keystore.Token{w.token, second}}, nil })
	w.must(m.Initialize(0, false))
	defer func() { w.must(m.Finalize()) }()
	w.must(m.InitToken(1, nil, padded("second")))
	a, err := m.OpenSession(0, CKF_SERIAL_SESSION|CKF_RW_SESSION)
	w.must(err)
	b, err := m.OpenSession(1, CKF_SERIAL_SESSION|CKF_RW_SESSION)
	w.must(err)
	public, private, err := m.GenerateKeyPair(a, mechanismOf(CKM_EC_KEY_PAIR_GEN), []Attribute{p256}, []Attribute{onToken})
	w.must(err)
	data, err := m.CreateObject(a, []Attribute{class(CKO_DATA), {CKA_VALUE, []byte("x")}})
	w.must(err)
	_, copied := m.CopyObject(b, data, nil)
	for name, c := range map[string]struct {
		err  error
		want RV
	}{
		"C_SignInit":               {m.SignInit(b, mechanismOf(CKM_ECDSA), private), CKR_KEY_HANDLE_INVALID},
		"C_VerifyInit":             {m.VerifyInit(b, mechanismOf(CKM_ECDSA), public), CKR_KEY_HANDLE_INVALID},
		"C_DestroyObject":          {m.DestroyObject(b, private), CKR_OBJECT_HANDLE_INVALID},
		"C_DestroyObject, session": {m.DestroyObject(b, data), CKR_OBJECT_HANDLE_INVALID},
		"C_SetAttributeValue":      {m.SetAttributeValue(b, private, []Attribute{label("mine")}), CKR_OBJECT_HANDLE_INVALID},
		"C_CopyObject":             {copied, CKR_OBJECT_HANDLE_INVALID},
	} {
		if RVOf(c.err) != c.want {
			t.Errorf("%s: %v, want %v", name, c.err, c.want)
		}
	}
	w.must(m.DestroyObject(a, private))
	w.refused(m.SignInit(a, mechanismOf(CKM_ECDSA), private), CKR_KEY_HANDLE_INVALID)
	_, err = m.GetObjectSize(a, private)
	w.refused(err, CKR_OBJECT_HANDLE_INVALID)
}

// A session, a key and the library itself go while other threads use them: each call has one of the answers that it can have.
func TestWhatGoesDuringACall(t *testing.T) {
	t.Parallel()
	w := open(t)
	answers := []RV{CKR_OK, CKR_SESSION_HANDLE_INVALID, CKR_KEY_HANDLE_INVALID, CKR_OPERATION_NOT_INITIALIZED, CKR_OPERATION_ACTIVE,
		CKR_FUNCTION_CANCELED, CKR_CRYPTOKI_NOT_INITIALIZED}
	for name, end := range map[string]func(s SessionHandle, key ObjectHandle) error{
		"C_CloseSession":     func(s SessionHandle, _ ObjectHandle) error { return w.CloseSession(s) },
		"C_CloseAllSessions": func(SessionHandle, ObjectHandle) error { return w.CloseAllSessions(0) },
		"C_SessionCancel":    func(s SessionHandle, _ ObjectHandle) error { return w.SessionCancel(s, ^Flags(0)) },
		"C_DestroyObject":    func(s SessionHandle, key ObjectHandle) error { return w.DestroyObject(s, key) },
		"C_Finalize":         func(SessionHandle, ObjectHandle) error { return w.Finalize() },
	} {
		if _, err := w.GetInfo(); err != nil {
			w.must(w.Initialize(0, false))
		}
		s := w.session(true)
		if len(w.find(s, class(CKO_PRIVATE_KEY))) == 0 {
			w.make(ecKey("web"))
		}
		key := w.one(s, CKO_PRIVATE_KEY)
		var users sync.WaitGroup
		busy := make(chan struct{}, 40)
		for range 4 {
			users.Go(func() {
				for range 10 {
					_, err := w.sign(s, mechanismOf(CKM_ECDSA), key, make([]byte, 32))
					if !slices.Contains(answers, RVOf(err)) {
						t.Errorf("%s during C_Sign: %v (%v)", name, RVOf(err), err)
					}
					busy <- struct{}{}
				}
			})
		}
		<-busy
		w.must(end(s, key))
		users.Wait()
	}
}
