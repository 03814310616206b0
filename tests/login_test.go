package tests

import (
	"fmt"
	"testing"

	"github.com/miekg/pkcs11"
)

// The PINs of a machine with one.
const (
	userPIN = "123456"
	soPIN   = "87654321"
	ownPIN  = "own-pin"
)

// withPIN makes a token with PINs and an EC key.
func withPIN(m *machine) {
	m.write("pin", userPIN)
	m.write("so", soPIN)
	m.write("own", ownPIN)
	m.maxTries(20)
	m.tpm2p11("init", "--pin-file", "pin", "--so-pin-file", "so")
	m.tpm2p11("key", "create", "web", "--type", "p256", "--pin-file", "pin")
}

// counter is the event that reads the TPM's count of wrong tries.
var counter = map[string]func(m *machine) string{"counter": func(m *machine) string { return fmt.Sprint(m.lockoutCounter()) }}

// counts demands how many wrong tries the TPM has counted.
func (a *application) counts(want int) {
	a.t.Helper()
	if got := a.happen("counter"); got != fmt.Sprint(want) {
		a.t.Errorf("the TPM has counted %s wrong tries, want %d", got, want)
	}
}

func (a *application) inState(h pkcs11.SessionHandle, want uint) {
	a.t.Helper()
	info, err := a.p11().GetSessionInfo(h)
	a.ok("C_GetSessionInfo", err)
	if info.State != want {
		a.t.Errorf("the session's state is %d, want %d", info.State, want)
	}
}

// Before its login the user's private objects do not exist for an application; what the states of PKCS #11 forbid is refused.
func TestLoginStates(t *testing.T) {
	privateKeys := pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY)
	story{
		before: withPIN,
		app: func(a *application) {
			readOnly := a.open(0)
			a.inState(a.session, pkcs11.CKS_RW_PUBLIC_SESSION)
			a.inState(readOnly, pkcs11.CKS_RO_PUBLIC_SESSION)
			if found := a.find(a.session, privateKeys); len(found) != 0 {
				a.t.Error("a private key shows before the login")
			}
			a.public("web")
			a.refused("C_Logout of nobody", pkcs11.CKR_USER_NOT_LOGGED_IN, a.p11().Logout(a.session))
			a.refused("the security officer beside a read-only session", pkcs11.CKR_SESSION_READ_ONLY_EXISTS, a.p11().Login(a.session, pkcs11.CKU_SO, soPIN))
			a.refused("an unknown user", pkcs11.CKR_USER_TYPE_INVALID, a.p11().Login(a.session, 7, userPIN))

			a.ok("C_Login", a.p11().Login(readOnly, pkcs11.CKU_USER, userPIN))
			a.inState(a.session, pkcs11.CKS_RW_USER_FUNCTIONS)
			a.inState(readOnly, pkcs11.CKS_RO_USER_FUNCTIONS)
			a.refused("a second login", pkcs11.CKR_USER_ALREADY_LOGGED_IN, a.p11().Login(a.session, pkcs11.CKU_USER, userPIN))
			a.refused("the security officer beside the user", pkcs11.CKR_USER_ANOTHER_ALREADY_LOGGED_IN, a.p11().Login(a.session, pkcs11.CKU_SO, soPIN))
			a.works("web")
			key := a.private("web")

			a.ok("C_Logout", a.p11().Logout(a.session))
			a.inState(readOnly, pkcs11.CKS_RO_PUBLIC_SESSION)
			_, err := a.sign(a.session, ecdsaSHA256(), key, message)
			a.refused("a key that was seen before the logout", pkcs11.CKR_USER_NOT_LOGGED_IN, err)
			_, err = a.p11().GetAttributeValue(a.session, key, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, nil)})
			a.refused("its label", pkcs11.CKR_OBJECT_HANDLE_INVALID, err)
			public, private := pair("new", pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, curveP256))
			_, _, err = a.p11().GenerateKeyPair(a.session, []*pkcs11.Mechanism{mechanism(pkcs11.CKM_EC_KEY_PAIR_GEN)}, public, private)
			a.refused("a new key", pkcs11.CKR_USER_NOT_LOGGED_IN, err)

			// A login between C_SignInit and C_Sign ends: so does the right to sign.
			a.ok("C_Login", a.p11().Login(a.session, pkcs11.CKU_USER, userPIN))
			a.ok("C_SignInit", a.p11().SignInit(a.session, []*pkcs11.Mechanism{ecdsaSHA256()}, key))
			a.ok("C_Logout", a.p11().Logout(readOnly))
			_, err = a.p11().Sign(a.session, message)
			a.refused("C_Sign after the logout", pkcs11.CKR_USER_NOT_LOGGED_IN, err)

			a.ok("C_Login", a.p11().Login(a.session, pkcs11.CKU_USER, userPIN))
			a.ok("C_CloseAllSessions", a.p11().CloseAllSessions(0))
			a.session = a.open(pkcs11.CKF_RW_SESSION)
			a.inState(a.session, pkcs11.CKS_RW_PUBLIC_SESSION)
		},
	}.tell(t)
}

// The security officer gives the user a PIN and sees no keys. The user changes it, and the former one is wrong from then on.
func TestChangingPINs(t *testing.T) {
	story{
		before: withPIN,
		app: func(a *application) {
			a.ok("C_Login of the security officer", a.p11().Login(a.session, pkcs11.CKU_SO, soPIN))
			a.inState(a.session, pkcs11.CKS_RW_SO_FUNCTIONS)
			if found := a.find(a.session, pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY)); len(found) != 0 {
				a.t.Error("the security officer sees a private key")
			}
			_, err := a.p11().OpenSession(0, pkcs11.CKF_SERIAL_SESSION)
			a.refused("a read-only session beside the security officer", pkcs11.CKR_SESSION_READ_WRITE_SO_EXISTS, err)
			a.refused("a PIN that is too short", pkcs11.CKR_PIN_LEN_RANGE, a.p11().InitPIN(a.session, "123"))
			a.ok("C_InitPIN", a.p11().InitPIN(a.session, "forgotten no more"))
			a.ok("C_Logout", a.p11().Logout(a.session))

			a.refused("the former PIN", pkcs11.CKR_PIN_INCORRECT, a.p11().Login(a.session, pkcs11.CKU_USER, userPIN))
			a.refused("C_InitPIN without the security officer", pkcs11.CKR_USER_NOT_LOGGED_IN, a.p11().InitPIN(a.session, "654321"))
			a.refused("C_SetPIN with a wrong PIN", pkcs11.CKR_PIN_INCORRECT, a.p11().SetPIN(a.session, "a guess", "abcdef"))
			a.ok("C_SetPIN", a.p11().SetPIN(a.session, "forgotten no more", "abcdef"))
			a.ok("C_Login", a.p11().Login(a.session, pkcs11.CKU_USER, "abcdef"))
			a.works("web")
		},
	}.tell(t)
}

// The TPM counts a wrong PIN once, whoever's it is, and a right one takes nothing away from the count.
func TestWrongPINsCountOnce(t *testing.T) {
	story{
		before: withPIN,
		events: counter,
		app: func(a *application) {
			a.counts(0)
			a.refused("a wrong PIN", pkcs11.CKR_PIN_INCORRECT, a.p11().Login(a.session, pkcs11.CKU_USER, "654321"))
			a.counts(1)
			a.refused("a wrong PIN of the security officer", pkcs11.CKR_PIN_INCORRECT, a.p11().Login(a.session, pkcs11.CKU_SO, "12345678"))
			a.counts(2)
			a.refused("a wrong PIN for C_SetPIN", pkcs11.CKR_PIN_INCORRECT, a.p11().SetPIN(a.session, "654321", "abcdef"))
			a.counts(3)
			a.inState(a.session, pkcs11.CKS_RW_PUBLIC_SESSION)
			info, err := a.p11().GetTokenInfo(0)
			a.ok("C_GetTokenInfo", err)
			if info.Flags&pkcs11.CKF_USER_PIN_COUNT_LOW == 0 {
				a.t.Error("the token does not tell that wrong PINs were tried")
			}
			a.ok("C_Login", a.p11().Login(a.session, pkcs11.CKU_USER, userPIN))
			a.works("web")
			a.counts(3)
		},
	}.tell(t)
}

// Enough wrong PINs lock both PINs out; a key without one goes on, and the lockout authorisation ends it.
func TestLockout(t *testing.T) {
	story{
		before: func(m *machine) {
			withPIN(m)
			m.tpm2p11("key", "create", "open", "--type", "p256", "--no-pin", "--pcr", "sha256:7", "--pin-file", "pin")
			m.maxTries(4)
		},
		events: map[string]func(m *machine) string{
			"reset": func(m *machine) string { m.tpm2p11("lockout", "reset"); return "" },
			"guess": func(m *machine) string {
				m.refused([]string{"wrong PIN"}, command, "sign", "web", "--in", m.write("in.txt", "x"), "--pin-file", m.write("guess", "654321"))
				return ""
			},
			"sign": func(m *machine) string {
				m.write("in.txt", "x")
				return fmt.Sprint(m.start(command, "sign", "open", "--in", "in.txt", "--out", "in.sig").code)
			},
		},
		app: func(a *application) {
			for range 2 {
				a.refused("a wrong PIN", pkcs11.CKR_PIN_INCORRECT, a.p11().Login(a.session, pkcs11.CKU_USER, "654321"))
			}
			for range 2 { // somebody's who has the TPM: a user of a service does not get the last one
				a.happen("guess")
			}
			a.refused("the right PIN under lockout", pkcs11.CKR_PIN_LOCKED, a.p11().Login(a.session, pkcs11.CKU_USER, userPIN))
			a.refused("the security officer under lockout", pkcs11.CKR_PIN_LOCKED, a.p11().Login(a.session, pkcs11.CKU_SO, soPIN))
			info, err := a.p11().GetTokenInfo(0)
			a.ok("C_GetTokenInfo", err)
			if info.Flags&pkcs11.CKF_USER_PIN_LOCKED == 0 {
				a.t.Error("the token does not tell that it is locked")
			}
			if found := a.find(a.session, pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY)); len(found) != 1 {
				a.t.Errorf("%d private keys show to who cannot log in, want the one without a PIN", len(found))
			}
			a.works("open")
			if code := a.happen("sign"); code != "0" {
				a.t.Errorf("a key without a PIN does not sign under lockout: exit code %s", code)
			}
			a.happen("reset")
			a.ok("C_Login", a.p11().Login(a.session, pkcs11.CKU_USER, userPIN))
			a.works("web")
		},
	}.tell(t)
}

// A key with a PIN of its own wants it for each use (CKA_ALWAYS_AUTHENTICATE).
func TestKeyWithItsOwnPIN(t *testing.T) {
	story{
		before: func(m *machine) {
			withPIN(m)
			m.tpm2p11("key", "create", "own", "--type", "p256", "--own-pin-file", "own", "--pin-file", "pin")
		},
		events: counter,
		app: func(a *application) {
			a.ok("C_Login", a.p11().Login(a.session, pkcs11.CKU_USER, userPIN))
			key := a.private("own")
			if v := a.value(key, pkcs11.CKA_ALWAYS_AUTHENTICATE); len(v) != 1 || v[0] != 1 {
				a.t.Errorf("CKA_ALWAYS_AUTHENTICATE is %x", v)
			}
			init := func() {
				a.t.Helper()
				a.ok("C_SignInit", a.p11().SignInit(a.session, []*pkcs11.Mechanism{ecdsaSHA256()}, key))
			}
			context := func(pin string) error { return a.p11().Login(a.session, pkcs11.CKU_CONTEXT_SPECIFIC, pin) }

			a.refused("a PIN before C_SignInit", pkcs11.CKR_OPERATION_NOT_INITIALIZED, context(ownPIN))
			init()
			_, err := a.p11().Sign(a.session, message)
			a.refused("C_Sign without the key's PIN", pkcs11.CKR_USER_NOT_LOGGED_IN, err)
			for _, wrong := range []string{"a guess", userPIN} {
				init()
				if err = context(wrong); err == nil { // the TPM may be asked by the one call or the other
					_, err = a.p11().Sign(a.session, message)
				}
				a.refused("C_Sign with the wrong PIN", pkcs11.CKR_PIN_INCORRECT, err)
			}
			for range 2 {
				init()
				a.ok("C_Login for the key", context(ownPIN))
				signature, err := a.p11().Sign(a.session, message)
				a.ok("C_Sign", err)
				a.ok("C_Verify", a.verify(a.session, ecdsaSHA256(), a.public("own"), message, signature))
				init()
				_, err = a.p11().Sign(a.session, message)
				a.refused("the PIN of the use before", pkcs11.CKR_USER_NOT_LOGGED_IN, err)
			}
			a.works("web")
		},
	}.tell(t)
}

// A token without a PIN takes the empty PIN, which many applications send, and no other.
func TestLoginToATokenWithoutPIN(t *testing.T) {
	story{
		before: func(m *machine) {
			m.tpm2p11("init", "--no-pin")
			m.tpm2p11("key", "create", "web", "--type", "p256")
		},
		app: func(a *application) {
			info, err := a.p11().GetTokenInfo(0)
			a.ok("C_GetTokenInfo", err)
			if info.Flags&pkcs11.CKF_LOGIN_REQUIRED != 0 {
				a.t.Error("the token wants a login")
			}
			a.works("web")
			a.refused("a PIN", pkcs11.CKR_USER_PIN_NOT_INITIALIZED, a.p11().Login(a.session, pkcs11.CKU_USER, userPIN))
			a.refused("a security officer", pkcs11.CKR_USER_PIN_NOT_INITIALIZED, a.p11().Login(a.session, pkcs11.CKU_SO, soPIN))
			a.ok("the empty PIN", a.p11().Login(a.session, pkcs11.CKU_USER, ""))
			a.works("web")
		},
	}.tell(t)
}
