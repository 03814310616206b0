package p11

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/keystore/tss2"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

func ecKey(label string) keystore.KeySpec {
	return keystore.KeySpec{Label: label, Type: provider.P256, Use: provider.Use{Sign: true}, Wrapped: true}
}

func TestTokenWithoutPINNeedsNone(t *testing.T) {
	t.Parallel()
	w := open(t)
	s := w.session(true)
	w.refused(w.Login(s, CKU_USER, []byte("1234")), CKR_USER_PIN_NOT_INITIALIZED)
	w.refused(w.Login(s, CKU_SO, []byte("12345678")), CKR_USER_PIN_NOT_INITIALIZED)
	w.must(w.Login(s, CKU_USER, nil))
	w.refused(w.Login(s, CKU_USER, nil), CKR_USER_ALREADY_LOGGED_IN)
	w.must(w.Logout(s))
	w.refused(w.SetPIN(s, []byte("1234"), []byte("5678")), CKR_USER_PIN_NOT_INITIALIZED)
	w.refused(w.InitPIN(s, []byte("5678")), CKR_USER_NOT_LOGGED_IN)
	w.make(ecKey("web"))
	key := w.one(s, CKO_PRIVATE_KEY)
	if w.attribute(s, key, CKA_PRIVATE)[0] != 0 {
		t.Error("CKA_PRIVATE is true")
	}
	_, err := w.sign(s, mechanismOf(CKM_ECDSA), key, make([]byte, 32))
	w.must(err)
}

func TestSecurityOfficerGivesTheUserAPIN(t *testing.T) {
	t.Parallel()
	w := fresh(t)
	w.refused(w.InitToken(0, []byte("abc"), padded("web")), CKR_PIN_LEN_RANGE)
	w.refused(w.InitToken(0, nil, padded("")), CKR_ARGUMENTS_BAD)
	w.must(w.InitToken(0, []byte(soPIN), padded("web")))
	info, err := w.GetTokenInfo(0)
	w.must(err)
	if want := CKF_RNG | CKF_TOKEN_INITIALIZED | CKF_LOGIN_REQUIRED; info.Flags != want {
		t.Errorf("flags 0x%x, want 0x%x", info.Flags, want)
	}
	s := w.session(true)
	w.refused(w.Login(s, CKU_USER, []byte(userPIN)), CKR_USER_PIN_NOT_INITIALIZED)
	w.must(w.Login(s, CKU_SO, []byte(soPIN)))
	w.refused(w.InitPIN(s, []byte("abc")), CKR_PIN_LEN_RANGE)
	w.must(w.InitPIN(s, []byte(userPIN)))
	w.must(w.Logout(s))
	w.must(w.Login(s, CKU_USER, []byte(userPIN)))
	info, err = w.GetTokenInfo(0)
	w.must(err)
	if info.Flags&CKF_USER_PIN_INITIALIZED == 0 {
		t.Errorf("flags 0x%x", info.Flags)
	}
}

func TestChangingPINs(t *testing.T) {
	t.Parallel()
	w := guarded(t)
	ro, rw := w.session(false), w.session(true)
	w.refused(w.SetPIN(ro, []byte(userPIN), []byte("another")), CKR_SESSION_READ_ONLY)
	w.must(w.CloseSession(ro))
	w.refused(w.SetPIN(rw, []byte("wrong-pin"), []byte("another")), CKR_PIN_INCORRECT)
	w.must(w.SetPIN(rw, []byte(userPIN), []byte("another")))
	w.must(w.Login(rw, CKU_USER, []byte("another")))
	w.must(w.Logout(rw))
	w.must(w.Login(rw, CKU_SO, []byte(soPIN)))
	w.must(w.SetPIN(rw, []byte(soPIN), []byte("officer-2")))
	w.must(w.Logout(rw))
	w.must(w.Login(rw, CKU_SO, []byte("officer-2")))
	for _, pin := range []string{userPIN, soPIN, "another", "officer-2", "wrong-pin"} {
		if strings.Contains(w.log.String(), pin) {
			t.Errorf("the log holds the PIN %q", pin)
		}
	}
}

// Each wrong PIN is one of the TPM's counts; the flags and the log tell how many are left.
func TestWrongPINsLeadToTheLockout(t *testing.T) {
	t.Parallel()
	w := guarded(t)
	s := w.session(true)
	const (
		low    = CKF_USER_PIN_COUNT_LOW | CKF_SO_PIN_COUNT_LOW
		final  = CKF_USER_PIN_FINAL_TRY | CKF_SO_PIN_FINAL_TRY
		locked = CKF_USER_PIN_LOCKED | CKF_SO_PIN_LOCKED
	)
	properties := func() provider.Properties {
		t.Helper()
		p, err := w.token.TPM().Properties(t.Context())
		w.must(err)
		return p
	}
	tell := func(want Flags) {
		t.Helper()
		info, err := w.GetTokenInfo(0)
		w.must(err)
		if got := info.Flags & (low | final | locked); got != want {
			t.Errorf("flags 0x%x, want 0x%x", got, want)
		}
	}
	tell(0)
	most := properties().MaxAuthFail
	for tries := uint32(1); tries <= most; tries++ {
		w.refused(w.Login(s, CKU_USER, []byte("wrong-pin")), CKR_PIN_INCORRECT)
		told := fmt.Sprintf("wrong tries left before the TPM takes no PIN for a while: %d\"", most-tries)
		if tries == most {
			told = "that was one too many"
		}
		if n := strings.Count(w.log.String(), told); n != 1 {
			t.Errorf("after %d wrong tries the log has %q %d times:\n%s", tries, told, n, w.log)
		}
		if n := properties().LockoutCounter; n != tries {
			t.Fatalf("%d wrong PINs counted %d", tries, n)
		}
		switch {
		case tries == most:
			tell(locked)
		case tries+1 == most:
			tell(low | final)
		default:
			tell(low)
		}
	}
	for range 2 {
		w.refused(w.Login(s, CKU_USER, []byte(userPIN)), CKR_PIN_LOCKED)
		w.refused(w.SetPIN(s, []byte(userPIN), []byte("another")), CKR_PIN_LOCKED)
		w.refused(w.Login(s, CKU_SO, []byte(soPIN)), CKR_PIN_LOCKED)
	}
	if n := properties().LockoutCounter; n != most {
		t.Errorf("tries under lockout counted: %d", n)
	}
	if !strings.Contains(w.log.String(), "CKR_PIN_LOCKED") {
		t.Error("the log does not tell of the lockout")
	}
}

// The security officer gives a user who forgot it another PIN, and the user's keys are as they were.
func TestSecurityOfficerResetsThePIN(t *testing.T) {
	t.Parallel()
	w := guarded(t)
	s := w.session(true)
	w.must(w.Login(s, CKU_USER, []byte(userPIN)))
	w.make(ecKey("web"))
	key := w.one(s, CKO_PRIVATE_KEY)
	w.must(w.Logout(s))
	w.must(w.Login(s, CKU_SO, []byte(soPIN)))
	w.must(w.InitPIN(s, []byte("remembered")))
	w.must(w.Logout(s))
	w.refused(w.Login(s, CKU_USER, []byte(userPIN)), CKR_PIN_INCORRECT)
	w.must(w.Login(s, CKU_USER, []byte("remembered")))
	_, err := w.sign(s, mechanismOf(CKM_ECDSA), key, make([]byte, 32))
	w.must(err)
}

func TestPrivateKeysHideUntilLogin(t *testing.T) {
	t.Parallel()
	w := guarded(t)
	s := w.session(true)
	w.must(w.Login(s, CKU_USER, []byte(userPIN)))
	w.make(ecKey("web"))
	key := w.one(s, CKO_PRIVATE_KEY)
	if w.attribute(s, key, CKA_PRIVATE)[0] != 1 {
		t.Error("CKA_PRIVATE is false")
	}
	_, err := w.sign(s, mechanismOf(CKM_ECDSA), key, make([]byte, 32))
	w.must(err)

	w.must(w.SignInit(s, mechanismOf(CKM_ECDSA), key))
	w.must(w.Logout(s))
	w.refused(w.Sign(s, make([]byte, 32), &Output{Capacity: 64}), CKR_USER_NOT_LOGGED_IN)
	if found := w.find(s, class(CKO_PRIVATE_KEY)); len(found) != 0 {
		t.Errorf("found %d private keys", len(found))
	}
	w.one(s, CKO_PUBLIC_KEY)
	_, err = w.GetAttributeValue(s, key, []AttributeQuery{{Type: CKA_LABEL, Query: true}})
	w.refused(err, CKR_OBJECT_HANDLE_INVALID)
	w.refused(w.DestroyObject(s, key), CKR_OBJECT_HANDLE_INVALID)
	w.refused(w.SignInit(s, mechanismOf(CKM_ECDSA), key), CKR_USER_NOT_LOGGED_IN)
	_, _, err = w.GenerateKeyPair(s, mechanismOf(CKM_EC_KEY_PAIR_GEN), []Attribute{p256}, []Attribute{onToken})
	w.refused(err, CKR_USER_NOT_LOGGED_IN)

	w.must(w.Login(s, CKU_USER, []byte(userPIN)))
	if again := w.one(s, CKO_PRIVATE_KEY); again != key {
		t.Errorf("handle %x became %x", key, again)
	}
}

// A key that no PIN guards is everybody's, in a token that has PINs for others too: it shows and signs without a login, whatever
// becomes of the PINs. It remains the user's to change.
func TestKeyWithoutAPINInATokenWithPINs(t *testing.T) {
	t.Parallel()
	w := guarded(t)
	s := w.session(true)
	w.must(w.Login(s, CKU_USER, []byte(userPIN)))
	bound := policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{8: make([]byte, 32)}}
	for name, change := range map[string]func(*keystore.KeySpec){
		"plain":  func(s *keystore.KeySpec) { s.NoPIN = true },
		"bound":  func(s *keystore.KeySpec) { s.NoPIN, s.Policy = true, policy.Policy{Root: bound} },
		"asking": func(*keystore.KeySpec) {},
		"branch": func(s *keystore.KeySpec) { s.Policy = policy.Policy{Root: policy.Any{bound, policy.PIN{}}} },
		"own":    func(s *keystore.KeySpec) { s.OwnPIN = secret.From([]byte("key-pin")) },
	} {
		spec := ecKey(name)
		change(&spec)
		w.make(spec)
	}
	for name, private := range map[string]byte{"plain": 0, "bound": 0, "asking": 1, "branch": 1, "own": 1} {
		if got := w.attribute(s, w.one(s, CKO_PRIVATE_KEY, label(name)), CKA_PRIVATE)[0]; got != private {
			t.Errorf("CKA_PRIVATE of the key %q is %d", name, got)
		}
	}
	w.must(w.Logout(s))
	for try := true; try; try = RVOf(w.Login(s, CKU_USER, []byte("wrong-pin"))) != CKR_PIN_LOCKED {
	}
	if found := w.find(s, class(CKO_PRIVATE_KEY)); len(found) != 2 {
		t.Errorf("%d private keys show without a login, want those without a PIN", len(found))
	}
	for _, name := range []string{"plain", "bound"} {
		key := w.one(s, CKO_PRIVATE_KEY, label(name))
		_, err := w.sign(s, mechanismOf(CKM_ECDSA), key, make([]byte, 32))
		w.must(err)
		w.refused(w.SetAttributeValue(s, key, []Attribute{label("x")}), CKR_USER_NOT_LOGGED_IN)
		w.refused(w.DestroyObject(s, key), CKR_USER_NOT_LOGGED_IN)
	}
}

// The token's PIN opens nothing of a key with a PIN of its own: who asks for it by its Name needs no login to use it. One that the token's
// PIN opens stays hidden from who knows as much of it, and nobody changes either.
func TestKeyWithAPINOfItsOwnNeedsNoLogin(t *testing.T) {
	t.Parallel()
	w := guarded(t)
	s := w.session(true)
	w.must(w.Login(s, CKU_USER, []byte(userPIN)))
	own := ecKey("own")
	own.OwnPIN = secret.From([]byte("key-pin"))
	name := func(e keystore.Entry) Attribute { return Attribute{CKA_TPM2_NAME, e.Object.Public.Name()} }
	careful, web := name(w.make(own)), name(w.make(ecKey("web")))
	w.must(w.Logout(s))

	if found := w.find(s, class(CKO_PRIVATE_KEY)); len(found) != 0 {
		t.Errorf("%d private keys show without a login", len(found))
	}
	if found := w.find(s, class(CKO_PRIVATE_KEY), web); len(found) != 0 {
		t.Error("the key that the token's PIN opens shows without it")
	}
	key := w.one(s, CKO_PRIVATE_KEY, careful)
	digest := make([]byte, 32)
	w.must(w.SignInit(s, mechanismOf(CKM_ECDSA), key))
	w.refused(w.Sign(s, digest, &Output{Capacity: 64}), CKR_USER_NOT_LOGGED_IN)
	w.must(w.SignInit(s, mechanismOf(CKM_ECDSA), key))
	w.must(w.Login(s, CKU_CONTEXT_SPECIFIC, []byte("key-pin")))
	w.must(w.Sign(s, digest, &Output{Capacity: 64}))
	w.refused(w.SetAttributeValue(s, key, []Attribute{label("x")}), CKR_USER_NOT_LOGGED_IN)
	w.refused(w.DestroyObject(s, key), CKR_USER_NOT_LOGGED_IN)
}

func TestKeyWithAPINOfItsOwn(t *testing.T) {
	t.Parallel()
	w := open(t)
	spec := ecKey("careful")
	spec.OwnPIN, spec.Use.Derive = secret.From([]byte("key-pin")), true
	w.make(spec)
	s := w.session(true)
	key := w.one(s, CKO_PRIVATE_KEY)
	if w.attribute(s, key, CKA_ALWAYS_AUTHENTICATE)[0] != 1 {
		t.Error("CKA_ALWAYS_AUTHENTICATE is false")
	}
	if w.attribute(s, key, CKA_PRIVATE)[0] != 1 {
		t.Error("CKA_PRIVATE is false")
	}
	if w.attribute(s, key, CKA_DERIVE)[0] != 0 {
		t.Error("CKA_DERIVE is true, and nobody can give the PIN for a derivation")
	}
	digest := make([]byte, 32)
	w.refused(w.Login(s, CKU_CONTEXT_SPECIFIC, []byte("key-pin")), CKR_OPERATION_NOT_INITIALIZED)
	_, err := w.sign(s, mechanismOf(CKM_ECDSA), key, digest)
	w.refused(err, CKR_USER_NOT_LOGGED_IN)

	for range 2 {
		w.must(w.SignInit(s, mechanismOf(CKM_ECDSA), key))
		w.must(w.Sign(s, digest, &Output{Query: true}))
		w.must(w.Login(s, CKU_CONTEXT_SPECIFIC, []byte("key-pin")))
		w.refused(w.Login(s, CKU_CONTEXT_SPECIFIC, []byte("key-pin")), CKR_OPERATION_NOT_INITIALIZED)
		w.must(w.Sign(s, digest, &Output{Capacity: 64}))
	}

	w.must(w.SignInit(s, mechanismOf(CKM_ECDSA), key))
	w.refused(w.Login(s, CKU_CONTEXT_SPECIFIC, make([]byte, keystore.MaxPIN+1)), CKR_PIN_LEN_RANGE)
	w.must(w.Login(s, CKU_CONTEXT_SPECIFIC, []byte("wrong-pin")))
	w.refused(w.Sign(s, digest, &Output{Capacity: 64}), CKR_PIN_INCORRECT)
	if text := w.log.String(); strings.Contains(text, "key-pin") || strings.Contains(text, "wrong-pin") {
		t.Error("the log holds a PIN")
	}
}

// A PEM without emptyAuth may be of a key whose policy asks for no PIN: nobody is asked for one then.
func TestKeyWhosePolicyTakesNoPIN(t *testing.T) {
	t.Parallel()
	w := open(t)
	spec := ecKey("bound")
	spec.Policy = policy.Policy{Root: policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{8: make([]byte, 32)}}}
	entry := w.make(spec)
	w.must(w.token.Delete(t.Context(), entry, false))
	text, err := tss2.Encode(tss2.Key{Object: entry.Object, Policy: entry.Policy})
	w.must(err)
	w.must(os.WriteFile(filepath.Join(w.token.Dir(), "dropped.pem"), text, 0o600))
	s := w.session(false)
	key := w.one(s, CKO_PRIVATE_KEY)
	if w.attribute(s, key, CKA_ALWAYS_AUTHENTICATE)[0] != 0 {
		t.Error("CKA_ALWAYS_AUTHENTICATE is true")
	}
	_, err = w.sign(s, mechanismOf(CKM_ECDSA), key, make([]byte, 32))
	w.must(err)
}

func TestInitTokenAgainNeedsTheSOPINAndDestroysTheKeys(t *testing.T) {
	t.Parallel()
	w := guarded(t)
	s := w.session(true)
	w.must(w.Login(s, CKU_USER, []byte(userPIN)))
	w.make(ecKey("web"))
	w.must(w.CloseSession(s))
	serial := w.token.Serial()
	w.refused(w.InitToken(0, nil, padded("taken")), CKR_PIN_LEN_RANGE)
	w.refused(w.InitToken(0, []byte("wrong-officer"), padded("taken")), CKR_PIN_INCORRECT)
	if keys, err := w.token.Keys(); err != nil || len(keys) != 1 {
		t.Fatalf("%d keys after refusals: %v", len(keys), err)
	}
	w.must(w.InitToken(0, []byte(soPIN), padded("renewed")))
	if keys, err := w.token.Keys(); err != nil || len(keys) != 0 {
		t.Errorf("%d keys: %v", len(keys), err)
	}
	if w.token.Serial() == serial || w.token.Label() != "renewed" || w.token.HasUserPIN() {
		t.Errorf("token %q, serial %s, was %s; user PIN: %v", w.token.Label(), w.token.Serial(), serial, w.token.HasUserPIN())
	}
}
