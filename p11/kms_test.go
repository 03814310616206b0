package p11

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	awskms "github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/keyservice"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/simtest"
	"github.com/tpm2-p11/tpm2-p11/internal/tokens"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// kmsWorld is a world whose TPM gives attestation documents, with a KMS and a recipient in a token with a PIN. Nobody is logged in.
type kmsWorld struct {
	*world
	kms *simtest.KMS
	key string // of KMS; its policy lets the whole account use it, with and without documents
}

// newKMSWorld takes the environment for itself: its tests are not parallel.
func newKMSWorld(t *testing.T, c config.KMS) *kmsWorld {
	t.Helper()
	sim := simtest.Start(t)
	w := &kmsWorld{world: freshAt(t, sim.Address()), kms: simtest.StartKMS(t, keyservice.Options{Roots: []*x509.Certificate{sim.Root(t)}})}
	for _, e := range w.kms.Environ(simtest.MachineRole) {
		name, value, _ := strings.Cut(e, "=")
		t.Setenv(name, value)
	}
	w.key = w.kms.Key(t, "")
	c.Line, c.KeyID, c.Endpoint, c.PlainHTTP, c.Attempts = 1, w.key, w.kms.URL, true, 1
	w.must(w.Finalize())
	load := w.load
	w.Module = New(func() (*tokens.Set, error) {
		set, err := load()
		set.Config.KMS = c
		return set, err
	})
	w.must(w.Initialize(0, false))
	w.givePINs()
	s := w.loggedIn()
	w.make(keystore.KeySpec{Label: "recipient", Type: provider.RSA2048, Use: provider.Use{Decrypt: true}, Wrapped: true})
	w.must(w.CloseSession(s))
	return w
}

func (w *world) loggedIn() SessionHandle {
	w.t.Helper()
	s := w.session(true)
	w.must(w.Login(s, CKU_USER, []byte(userPIN)))
	return s
}

// encrypted is a new ciphertext of KMS, without an encryption context.
func (w *kmsWorld) encrypted(plaintext string) []byte {
	w.t.Helper()
	out, err := w.kms.Client(simtest.MachineRole).Encrypt(w.t.Context(), &awskms.EncryptInput{KeyId: &w.key, Plaintext: []byte(plaintext)})
	w.must(err)
	return out.CiphertextBlob
}

func (w *kmsWorld) recipient(s SessionHandle) ObjectHandle {
	w.t.Helper()
	return w.one(s, CKO_PRIVATE_KEY, label("recipient"))
}

func (w *kmsWorld) unwrap(s SessionHandle, recipient ObjectHandle, ciphertext []byte) (ObjectHandle, error) {
	return w.UnwrapKey(s, Mechanism{Type: CKM_TPM2_KMS_UNWRAP}, recipient, bytes.Clone(ciphertext), secretTemplate(CKK_AES, flag(CKA_TOKEN, false)))
}

// kept counts the unwrappers that wait for their next use.
func (w *kmsWorld) kept() int {
	w.lib.mu.Lock()
	defer w.lib.mu.Unlock()
	return len(w.lib.slots[0].unwrappers)
}

// What KMS gave is kept for a time where [kms] says so, but not beyond the logout: nobody has it before the next login.
func TestWhatKMSGaveIsForgottenAtTheLogout(t *testing.T) {
	w := newKMSWorld(t, config.KMS{CacheFor: time.Hour})
	ciphertext := w.encrypted("0123456789abcdef0123456789abcdef")
	s := w.loggedIn()
	recipient := w.recipient(s)
	first, err := w.unwrap(s, recipient, ciphertext)
	w.must(err)

	// KMS is gone, and what is kept does.
	w.kms.Inject(keyservice.Close, 1000)
	_, err = w.unwrap(s, recipient, ciphertext)
	w.must(err)
	w.lib.mu.Lock()
	for _, u := range w.lib.slots[0].unwrappers {
		defer func() {
			if _, err := u.Unwrap(t.Context(), ciphertext, nil); err == nil {
				t.Error("what was kept is there after the logout")
			}
		}()
	}
	w.lib.mu.Unlock()

	w.must(w.Logout(s))
	if n := w.kept(); n != 0 {
		t.Errorf("%d unwrappers outlive the logout", n)
	}
	_, err = w.unwrap(s, recipient, ciphertext)
	w.refused(err, CKR_USER_NOT_LOGGED_IN)
	_, err = w.GetAttributeValue(s, first, []AttributeQuery{{Type: CKA_LABEL, Capacity: 100}})
	w.refused(err, CKR_OBJECT_HANDLE_INVALID)
	w.must(w.Login(s, CKU_USER, []byte(userPIN)))
	_, err = w.unwrap(s, recipient, ciphertext)
	w.refused(err, CKR_FUNCTION_FAILED)
	w.kms.Inject(keyservice.Close, 0)
	_, err = w.unwrap(s, recipient, ciphertext)
	w.must(err)
}

// Without a cache nothing is kept at all.
func TestWhatKMSGaveIsNotKeptUnasked(t *testing.T) {
	w := newKMSWorld(t, config.KMS{})
	ciphertext := w.encrypted("0123456789abcdef0123456789abcdef")
	s := w.loggedIn()
	_, err := w.unwrap(s, w.recipient(s), ciphertext)
	w.must(err)
	if n := w.kept(); n != 0 {
		t.Errorf("%d unwrappers are kept", n)
	}
	w.kms.Inject(keyservice.Close, 1)
	_, err = w.unwrap(s, w.recipient(s), ciphertext)
	w.refused(err, CKR_FUNCTION_FAILED)
}

// Threads unwrap while others log out and in and close their sessions: each call gives a key or says that the login is gone, and
// nothing is kept in the end.
func TestThreadsUnwrapWhileTheLoginGoes(t *testing.T) {
	w := newKMSWorld(t, config.KMS{CacheFor: time.Hour})
	const threads, rounds = 4, 6
	ciphertexts := make([][]byte, threads)
	for i := range ciphertexts {
		ciphertexts[i] = w.encrypted(fmt.Sprintf("%032d", i))
	}
	s := w.loggedIn()
	recipient := w.recipient(s)
	var all sync.WaitGroup
	for i := range threads {
		all.Go(func() {
			own := w.session(true)
			for round := range rounds {
				_, err := w.unwrap(own, recipient, ciphertexts[(i+round)%threads])
				switch RVOf(err) {
				case CKR_OK, CKR_USER_NOT_LOGGED_IN, CKR_KEY_HANDLE_INVALID, CKR_UNWRAPPING_KEY_HANDLE_INVALID:
				default:
					t.Errorf("C_UnwrapKey: %v", err)
				}
				if i == 0 {
					if err := w.Logout(own); err != nil {
						t.Errorf("C_Logout: %v", err)
					}
					if err := w.Login(own, CKU_USER, []byte(userPIN)); err != nil {
						t.Errorf("C_Login: %v", err)
					}
				}
			}
			if err := w.CloseSession(own); err != nil {
				t.Errorf("C_CloseSession: %v", err)
			}
		})
	}
	all.Wait()
	w.must(w.Logout(s))
	if n := w.kept(); n != 0 {
		t.Errorf("%d unwrappers outlive the logout", n)
	}
}

// A login that ended while an unwrapper was made leaves none behind.
func TestAnUnwrapperThatIsMadeDuringALogoutIsNotKept(t *testing.T) {
	w := newKMSWorld(t, config.KMS{CacheFor: time.Hour})
	s := w.loggedIn()
	open, err := w.Module.session(s)
	w.must(err)
	o, err := w.lib.lookup(open.slot, w.recipient(s))
	w.must(err)
	w.must(w.Logout(s))
	u, done, err := open.unwrapper(o, w.lib.set.Config.KMS)
	w.must(err)
	if n := w.kept(); n != 0 {
		t.Errorf("%d unwrappers are kept", n)
	}
	done()
	if _, err := u.Unwrap(t.Context(), []byte("ciphertext"), nil); RVOf(err) != CKR_USER_NOT_LOGGED_IN {
		t.Errorf("it is still open: %v", err)
	}
}

// An application may name as many regions and keys as it likes: only so many ways to them are kept.
func TestAnApplicationThatNamesManyRegionsAndKeys(t *testing.T) {
	w := newKMSWorld(t, config.KMS{CacheFor: time.Hour})
	s := w.loggedIn()
	open, err := w.Module.session(s)
	w.must(err)
	o, err := w.lib.lookup(open.slot, w.recipient(s))
	w.must(err)
	for i := range maxUnwrappers + 10 {
		c := w.lib.set.Config.KMS
		c.KeyID, c.Region = fmt.Sprintf("alias/%d", i), fmt.Sprintf("region-%d", i)
		_, done, err := open.unwrapper(o, c)
		w.must(err)
		done()
	}
	if n := w.kept(); n != maxUnwrappers {
		t.Errorf("%d unwrappers are kept, want %d", n, maxUnwrappers)
	}
	if n := len(w.lib.kms.services); n != maxServices {
		t.Errorf("the ways to %d regions are kept, want %d", n, maxServices)
	}
}
