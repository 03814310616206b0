package tests

import (
	"slices"
	"sync"
	"testing"

	"github.com/miekg/pkcs11"
)

// oneKey makes a token without a PIN and an EC key in it.
func oneKey(m *machine) {
	m.tpm2p11("init", "--no-pin")
	m.tpm2p11("key", "create", "web", "--type", "p256")
}

// After C_Finalize the library starts anew: handles of sessions are gone, those of keys are the same.
func TestFinalizeAndInitializeAgain(t *testing.T) {
	story{
		before: oneKey,
		app: func(a *application) {
			for range 5 {
				a.works("web")
				key, former := a.private("web"), a.session
				a.refused("C_Initialize twice", pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED, a.p11().Initialize())
				a.ok("C_SignInit", a.p11().SignInit(a.session, []*pkcs11.Mechanism{ecdsaSHA256()}, key))
				a.ok("C_Finalize", a.p11().Finalize())
				_, err := a.p11().Sign(a.session, message)
				a.refused("C_Sign after C_Finalize", pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, err)
				a.refused("C_Finalize twice", pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, a.p11().Finalize())
				a.ok("C_Initialize", a.p11().Initialize())
				_, err = a.p11().GetSessionInfo(former)
				a.refused("a session of the former life", pkcs11.CKR_SESSION_HANDLE_INVALID, err)
				a.session = a.open(pkcs11.CKF_RW_SESSION)
				if a.private("web") != key {
					a.t.Error("the key has another handle now")
				}
			}
		},
	}.tell(t)
}

// Many threads open, find, sign, verify and close at once; then the library goes away under those that are at it.
func TestManyThreads(t *testing.T) {
	const threads, rounds = 64, 4
	story{
		before: oneKey,
		app: func(a *application) {
			key, public := a.private("web"), a.public("web")
			round := func() error {
				h, err := a.p11().OpenSession(0, pkcs11.CKF_SERIAL_SESSION)
				if err != nil {
					return err
				}
				found, err := a.search(h, pkcs11.NewAttribute(pkcs11.CKA_LABEL, "web"))
				if err != nil {
					return err
				}
				if len(found) != 2 {
					a.t.Errorf("%d objects instead of 2", len(found))
				}
				signature, err := a.sign(h, ecdsaSHA256(), key, message)
				if err != nil {
					return err
				}
				if err := a.verify(h, ecdsaSHA256(), public, message, signature); err != nil {
					return err
				}
				return a.p11().CloseSession(h)
			}
			all := func(each func()) {
				var done sync.WaitGroup
				for range threads {
					done.Go(each)
				}
				done.Wait()
			}
			all(func() {
				for range rounds {
					if err := round(); err != nil {
						a.t.Error(err)
					}
				}
			})
			info, err := a.p11().GetTokenInfo(0)
			a.ok("C_GetTokenInfo", err)
			if info.SessionCount != 1 {
				a.t.Errorf("%d sessions are open instead of 1", info.SessionCount)
			}

			endings := []uint{pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_OPERATION_NOT_INITIALIZED, pkcs11.CKR_FUNCTION_CANCELED}
			var first sync.WaitGroup
			first.Add(threads)
			finalized := make(chan error, 1)
			go func() {
				first.Wait()
				finalized <- a.p11().Finalize()
			}()
			all(func() {
				err := round()
				first.Done()
				for err == nil {
					err = round()
				}
				if !slices.Contains(endings, rvOf(err)) {
					a.t.Errorf("a thread met the end with %v", err)
				}
			})
			a.ok("C_Finalize amid calls", <-finalized)
			a.ok("C_Initialize", a.p11().Initialize())
			a.session = a.open(pkcs11.CKF_RW_SESSION)
			a.works("web")
		},
	}.tell(t)
}

// A TPM that was reset or away under a running application serves it again, without C_Finalize. While it is away each call says so.
func TestTPMGoesAndComesBack(t *testing.T) {
	story{
		before: func(m *machine) {
			withPIN(m)
			m.tpm2p11("key", "create", "wrapped", "--type", "p256", "--wrapped", "--pin-file", "pin")
		},
		events: map[string]func(m *machine) string{
			"reset": func(m *machine) string { m.tpm.Restart(m.t); return "" },
			"stop":  func(m *machine) string { m.tpm.Stop(m.t); return "" },
		},
		app: func(a *application) {
			a.ok("C_Login", a.p11().Login(a.session, pkcs11.CKU_USER, userPIN))
			work := func() {
				a.t.Helper()
				a.works("web")
				a.works("wrapped")
				_, err := a.p11().GenerateRandom(a.session, 32)
				a.ok("C_GenerateRandom", err)
			}
			work()
			for range 2 {
				a.happen("reset") // while the connection is open and has sessions
				work()
				a.happen("stop")
				for range 2 {
					for _, label := range []string{"web", "wrapped"} {
						_, err := a.sign(a.session, ecdsaSHA256(), a.private(label), message)
						a.refused("C_Sign without TPM", pkcs11.CKR_DEVICE_REMOVED, err)
					}
					_, err := a.p11().GenerateRandom(a.session, 32)
					a.refused("C_GenerateRandom without TPM", pkcs11.CKR_DEVICE_REMOVED, err)
				}
				a.happen("reset")
				work()
			}
		},
	}.tell(t)
}
