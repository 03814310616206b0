package keystore

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

var ctx = context.Background()

// signing is a key for signing, quickly made.
func signing(label string) KeySpec {
	return KeySpec{Label: label, Type: provider.P256, Use: provider.Use{Sign: true}}
}

func create(t testing.TB, token *Token, s KeySpec) Entry {
	t.Helper()
	e, err := token.CreateKey(ctx, s)
	must(t, err)
	return e
}

func failures(t testing.TB, token *Token) uint32 {
	t.Helper()
	p, err := token.TPM().Properties(ctx)
	must(t, err)
	return p.LockoutCounter
}

// handles are the TPM's persistent handles but the SRK's.
func handles(t testing.TB, token *Token) []provider.Handle {
	t.Helper()
	list, err := token.TPM().PersistentHandles(ctx)
	must(t, err)
	return slices.DeleteFunc(list, func(h provider.Handle) bool { return h < FirstHandle })
}

func wantHandles(t testing.TB, token *Token, want ...provider.Handle) {
	t.Helper()
	if got := handles(t, token); !slices.Equal(got, want) {
		t.Errorf("persistent are %x, not %x", got, want)
	}
}

func TestATokenWithoutAPIN(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	token := s.initialized(t, "", "")
	if !token.Initialized() || token.Label() != "test token" || len(token.Serial()) != 16 || token.HasPIN() {
		t.Errorf("%q %q %v", token.Label(), token.Serial(), token.HasPIN())
	}
	e := create(t, token, signing("web"))
	if e.Object.Handle != FirstHandle || !e.EmptyAuth || e.OwnPIN || e.State != Ready || e.Linked() {
		t.Errorf("%+v", e)
	}
	signs(t, token, e, nil)
	if err := token.Login(ctx, User, pin("1234")); !errors.Is(err, ErrNoPIN) {
		t.Errorf("a login: %v", err)
	}
	_ = token.TPM().Close()

	other := s.open(t)
	found, err := other.Find(Query{Handle: FirstHandle})
	must(t, err)
	signs(t, other, found, nil)
	for _, name := range []string{".lock", anchorFile, e.ID + ".pem", e.ID + ".json"} {
		if info, err := os.Stat(s.dir + "/" + name); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if info, err := os.Stat(s.dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder: %v, %v", info.Mode(), err)
	}
	if err := other.Init(ctx, InitOptions{Label: "again"}); !errors.Is(err, ErrInitialized) || !strings.Contains(err.Error(), `"web"`) {
		t.Errorf("a second init: %v", err)
	}
	serial := other.Serial()
	must(t, other.Init(ctx, InitOptions{Label: "again", Force: true}))
	if other.Label() != "again" || other.Serial() == serial {
		t.Error("a forced init changed nothing")
	}
	signs(t, other, found, nil)
}

func TestInitRefusesWhatCannotBeAToken(t *testing.T) {
	t.Parallel()
	token := diskStore(t).open(t)
	for name, c := range map[string]struct {
		o    InitOptions
		want error
	}{
		"no label":         {InitOptions{}, ErrInvalid},
		"a blank label":    {InitOptions{Label: "  "}, ErrInvalid},
		"a long label":     {InitOptions{Label: strings.Repeat("x", 33)}, ErrInvalid},
		"a label in UTF-7": {InitOptions{Label: "\xff"}, ErrInvalid},
		"no SO PIN":        {InitOptions{Label: "x", UserPIN: pin("1234")}, ErrInvalid},
		"a short PIN":      {InitOptions{Label: "x", UserPIN: pin("123"), SOPIN: pin("1234")}, ErrPINLength},
		"a long PIN":       {InitOptions{Label: "x", UserPIN: pin("1234"), SOPIN: pin(strings.Repeat("1", 65))}, ErrPINLength},
	} {
		t.Run(name, func(t *testing.T) {
			if err := token.Init(ctx, c.o); !errors.Is(err, c.want) {
				t.Errorf("the error is %v", err)
			}
			if _, err := os.Stat(token.Dir()); !errors.Is(err, os.ErrNotExist) {
				t.Error("there is a folder now")
			}
		})
	}
}

// Applications see a label filled up with spaces, and leave those out in a URI.
func TestATokensLabelIsWhatApplicationsSeeOfIt(t *testing.T) {
	t.Parallel()
	token := tpmStore(t).open(t)
	must(t, token.Init(ctx, InitOptions{Label: " my token  "}))
	if token.Label() != " my token" {
		t.Errorf("%q", token.Label())
	}
}

func TestATokenWithAPIN(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	token := s.initialized(t, "user pin", "so pin")
	if _, err := token.CreateKey(ctx, signing("web")); !errors.Is(err, ErrLoginNeeded) {
		t.Errorf("creating a key before a login: %v", err)
	}
	before := failures(t, token)
	if err := token.Login(ctx, User, pin("wrong pin")); !errors.Is(err, provider.ErrAuth) || token.LoggedIn() != 0 {
		t.Errorf("a wrong PIN: %v", err)
	}
	if n := failures(t, token) - before; n != 1 {
		t.Errorf("a wrong PIN counted %d times", n)
	}
	if err := token.Login(ctx, User, pin("abc")); !errors.Is(err, ErrPINLength) {
		t.Errorf("what cannot be a PIN: %v", err)
	}
	if n := failures(t, token) - before; n != 1 {
		t.Errorf("what cannot be a PIN counted")
	}
	must(t, token.Login(ctx, User, pin("user pin")))
	if token.LoggedIn() != User {
		t.Error("nobody is logged in")
	}
	e := create(t, token, signing("web"))
	if e.EmptyAuth || e.OwnPIN || !e.Object.Public.Attributes().NoDA {
		t.Errorf("%+v", e)
	}
	signs(t, token, e, nil)
	token.Logout()
	if err := sign(token, e, nil); !errors.Is(err, ErrLoginNeeded) || token.LoggedIn() != 0 {
		t.Errorf("signing after a logout: %v", err)
	}
	// The PIN is asked for by the TPM, not by us.
	if _, err := token.TPM().Sign(ctx, e.Object, provider.Auth{}, provider.ECDSA, 5, make([]byte, 32)); !errors.Is(err, provider.ErrAuth) {
		t.Errorf("signing without the token's secret: %v", err)
	}
	must(t, token.Login(ctx, SO, pin("so pin")))
	if token.LoggedIn() != SO {
		t.Error("the SO is not logged in")
	}
}

func TestPINsAreChangedAndTheKeysStay(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	token := s.initialized(t, "first", "so pin")
	must(t, token.Login(ctx, User, pin("first")))
	e := create(t, token, signing("web"))

	must(t, token.SetPIN(ctx, User, pin("first"), pin("second")))
	if err := token.SetPIN(ctx, User, pin("first"), pin("third")); !errors.Is(err, provider.ErrAuth) {
		t.Errorf("a change with a wrong PIN: %v", err)
	}
	if err := token.SetPIN(ctx, User, pin("second"), pin("no")); !errors.Is(err, ErrPINLength) {
		t.Errorf("a change to no PIN: %v", err)
	}
	_ = token.TPM().Close()

	token = s.open(t)
	if err := token.Login(ctx, User, pin("first")); !errors.Is(err, provider.ErrAuth) {
		t.Errorf("the former PIN: %v", err)
	}
	must(t, token.Login(ctx, User, pin("second")))
	signs(t, token, e, nil)
	token.Logout()

	must(t, token.ResetPIN(ctx, pin("so pin"), pin("third")))
	must(t, token.SetPIN(ctx, SO, pin("so pin"), pin("new so pin")))
	must(t, token.Login(ctx, SO, pin("new so pin")))
	must(t, token.Login(ctx, User, pin("third")))
	signs(t, token, e, nil)
}

func TestTheSecurityOfficerGivesTheUserAPIN(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	token := s.open(t)
	must(t, token.Init(ctx, InitOptions{Label: "x", SOPIN: pin("so pin")}))
	if !token.HasPIN() || token.HasUserPIN() {
		t.Errorf("a PIN: %v, the user's: %v", token.HasPIN(), token.HasUserPIN())
	}
	if err := token.Login(ctx, User, pin("anything")); !errors.Is(err, ErrNoPIN) {
		t.Errorf("a login without a PIN: %v", err)
	}
	if err := token.InitPIN(ctx, pin("user pin")); !errors.Is(err, ErrLoginNeeded) {
		t.Errorf("a PIN that nobody may give: %v", err)
	}
	must(t, token.Login(ctx, SO, pin("so pin")))
	must(t, token.InitPIN(ctx, pin("user pin")))
	if !token.HasUserPIN() {
		t.Error("the user has no PIN")
	}
	must(t, token.Login(ctx, User, pin("user pin")))
	if err := token.InitPIN(ctx, pin("another")); !errors.Is(err, ErrLoginNeeded) {
		t.Errorf("a PIN that the user gives: %v", err)
	}
	must(t, token.ResetPIN(ctx, pin("so pin"), pin("a third")))
	must(t, token.Login(ctx, User, pin("a third")))
}

func TestATokenThatWasMadeAnewForgetsTheLogin(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	token := s.initialized(t, "user pin", "so pin")
	must(t, token.Login(ctx, User, pin("user pin")))
	token.TPM().Release()
	other := s.open(t)
	must(t, other.Init(ctx, InitOptions{Label: "anew", UserPIN: pin("user pin"), SOPIN: pin("so pin"), Force: true}))
	_ = other.TPM().Close()
	if token.Label() != "anew" || token.LoggedIn() != 0 {
		t.Errorf("%q, role %v", token.Label(), token.LoggedIn())
	}
}

func TestATokenThatIsGoneForgetsTheLogin(t *testing.T) {
	t.Parallel()
	for name, gone := range map[string]func(*store) error{
		"token.json": func(s *store) error { return os.Remove(filepath.Join(s.dir, anchorFile)) },
		"the folder": func(s *store) error { return os.RemoveAll(s.dir) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := tpmStore(t)
			token := s.initialized(t, "user pin", "so pin")
			must(t, token.Login(ctx, User, pin("user pin")))
			must(t, gone(s))
			if token.Initialized() || token.LoggedIn() != 0 {
				t.Errorf("initialised: %v, role %v", token.Initialized(), token.LoggedIn())
			}
			// A key of the token that comes in its place must not get the former one's secret.
			must(t, token.Init(ctx, InitOptions{Label: "anew", UserPIN: pin("user pin"), SOPIN: pin("so pin")}))
			if _, err := token.CreateKey(ctx, signing("web")); !errors.Is(err, ErrLoginNeeded) {
				t.Errorf("a key without a login: %v", err)
			}
		})
	}
}

func TestAKeyWithAPINOfItsOwn(t *testing.T) {
	t.Parallel()
	token := tpmStore(t).initialized(t, "", "")
	spec := signing("root ca")
	for name, p := range map[string]*secret.Bytes{
		"too short": pin("123"), "too long": pin(strings.Repeat("1", 33)), "with a zero byte at its end": pin("1234\x00"),
	} {
		spec.OwnPIN = p
		if _, err := token.CreateKey(ctx, spec); !errors.Is(err, ErrPINLength) && !errors.Is(err, ErrInvalid) {
			t.Errorf("a PIN %s: %v", name, err)
		}
	}
	spec.OwnPIN = pin("own pin")
	e := create(t, token, spec)
	if !e.OwnPIN || e.EmptyAuth || e.Object.Public.Attributes().NoDA {
		t.Errorf("%+v", e)
	}
	if err := sign(token, e, nil); !errors.Is(err, ErrKeyPINNeeded) {
		t.Errorf("without its PIN: %v", err)
	}
	before := failures(t, token)
	if err := sign(token, e, pin("another")); !errors.Is(err, provider.ErrAuth) {
		t.Errorf("with a wrong PIN: %v", err)
	}
	if n := failures(t, token) - before; n != 1 {
		t.Errorf("a wrong PIN counted %d times", n)
	}
	signs(t, token, e, pin("own pin"))
}

func current(indices ...uint) policy.Policy {
	values := make(map[uint][]byte)
	for _, i := range indices {
		values[i] = nil
	}
	return policy.Policy{Root: policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: values}}
}

func TestAKeyIsBoundToPCRs(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	token := s.initialized(t, "", "")
	spec := signing("web")
	spec.Policy = current(7, 8)
	if _, err := token.CreateKey(ctx, spec); !errors.Is(err, policy.ErrUnmeasured) {
		t.Errorf("bound to a boot that was not measured: %v", err)
	}
	token.TPM().Release()
	s.swtpm.Extend(t, "sha256", 7, []byte("boot"))
	e := create(t, token, spec)
	if e.PolicyIgnored() || !e.EmptyAuth || e.Policy.NeedsPIN() || e.Object.Public.Attributes().UserWithAuth {
		t.Errorf("%+v", e)
	}
	signs(t, token, e, nil)
	_ = token.TPM().Close()
	s.swtpm.Extend(t, "sha256", 8, []byte("something else"))

	token = s.open(t)
	var unsatisfied *policy.UnsatisfiedError
	if err := sign(token, e, nil); !errors.Is(err, provider.ErrPolicy) || !errors.As(err, &unsatisfied) || unsatisfied.PCR != 8 {
		t.Errorf("after PCR 8 changed: %v", err)
	}
	if !strings.Contains(unsatisfied.Error(), `"web"`) {
		t.Errorf("the refusal does not name the key: %v", unsatisfied)
	}
}

func TestInATokenWithAPINAPolicyAsksForIt(t *testing.T) {
	t.Parallel()
	token := tpmStore(t).initialized(t, "user pin", "so pin")
	must(t, token.Login(ctx, User, pin("user pin")))
	with := signing("with")
	with.Policy = current(8)
	without := with
	without.Label, without.NoPIN = "without", true
	bare := signing("bare")
	bare.NoPIN = true
	a, b, c := create(t, token, with), create(t, token, without), create(t, token, bare)
	if !a.Policy.NeedsPIN() || b.Policy.NeedsPIN() || !b.EmptyAuth || !c.EmptyAuth {
		t.Errorf("%v, %v, %v", a.Policy, b.Policy, c)
	}
	signs(t, token, a, nil)
	token.Logout()
	if err := sign(token, a, nil); !errors.Is(err, ErrLoginNeeded) {
		t.Errorf("without a login: %v", err)
	}
	signs(t, token, b, nil)
	signs(t, token, c, nil)
	if _, err := token.TPM().Sign(ctx, a.Object, provider.Auth{Policy: a.Policy}, provider.ECDSA, 5, make([]byte, 32)); !errors.Is(err, provider.ErrAuth) {
		t.Errorf("the TPM signs without the PIN: %v", err)
	}
	asks := signing("asks")
	asks.NoPIN, asks.Policy = true, policy.Policy{Root: policy.PIN{}}
	if _, err := token.CreateKey(ctx, asks); !errors.Is(err, ErrInvalid) {
		t.Errorf("a policy that asks for a PIN that there is not: %v", err)
	}
}

func TestSpecsThatContradictThemselvesAreRefused(t *testing.T) {
	t.Parallel()
	token := diskStore(t).open(t)
	for name, change := range map[string]func(*KeySpec){
		"no label":               func(s *KeySpec) { s.Label = "" },
		"a handle of a platform": func(s *KeySpec) { s.Handle = 0x81800000 },
		"a transient handle":     func(s *KeySpec) { s.Handle = 0x80000000 },
		"wrapped at a handle":    func(s *KeySpec) { s.Handle, s.Wrapped = FirstHandle, true },
		"its own PIN and none":   func(s *KeySpec) { s.OwnPIN, s.NoPIN = pin("1234"), true },
		"an empty CKA_ID":        func(s *KeySpec) { s.CKAID = []byte{} },
	} {
		t.Run(name, func(t *testing.T) {
			s := signing("web")
			change(&s)
			if _, err := token.CreateKey(ctx, s); !errors.Is(err, ErrInvalid) {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

// What would be read again by nobody, for its length, is refused before it is written, and nothing of it stays in the TPM.
func TestWhatIsTooLongForAStoreIsRefused(t *testing.T) {
	t.Parallel()
	token := tpmStore(t).initialized(t, "", "")
	spec := signing("web")
	branch := policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: make(map[uint][]byte)}
	for i := range uint(24) {
		branch.Values[i] = bytes.Repeat([]byte{1}, 32)
	}
	spec.Policy.Root, spec.Force = policy.Any(slices.Repeat([]policy.Node{branch}, 200)), true
	if _, err := token.CreateKey(ctx, spec); !errors.Is(err, ErrInvalid) {
		t.Errorf("a key with a policy of 200 long branches: %v", err)
	}
	wantHandles(t, token)
	keys, err := token.Keys()
	must(t, err)
	if problems, err := token.Problems(); err != nil || len(keys) > 0 || len(problems) > 0 {
		t.Errorf("%v, %v, %v", keys, problems, err)
	}
	e := create(t, token, signing("web"))
	if _, err := token.SetCertificates(e, slices.Repeat([]*x509.Certificate{selfSigned(t, e)}, 1000)); !errors.Is(err, ErrInvalid) {
		t.Errorf("a chain of a thousand: %v", err)
	}
}

func TestAKeysWayThroughTheTPM(t *testing.T) {
	t.Parallel()
	token := tpmStore(t).initialized(t, "", "")
	spec := signing("web")
	spec.Wrapped = true
	e := create(t, token, spec)
	wantHandles(t, token)
	if e.Object.Handle != 0 {
		t.Errorf("%+v", e)
	}
	signs(t, token, e, nil)

	e, err := token.Persist(ctx, e, 0x81000200)
	must(t, err)
	wantHandles(t, token, 0x81000200)
	signs(t, token, e, nil)
	if same, err := token.Persist(ctx, e, 0); err != nil || same.Object.Handle != 0x81000200 {
		t.Errorf("persisting it again: %v, %v", same, err)
	}
	if _, err := token.Persist(ctx, e, 0x81000300); !errors.Is(err, ErrInvalid) {
		t.Errorf("persisting it elsewhere: %v", err)
	}

	other := spec
	other.Label, other.Wrapped, other.Handle = "mail", false, 0x81000200
	if _, err := token.CreateKey(ctx, other); !errors.Is(err, provider.ErrHandleTaken) {
		t.Errorf("another key at its handle: %v", err)
	}

	e, err = token.Evict(ctx, e)
	must(t, err)
	wantHandles(t, token)
	signs(t, token, e, nil)
	e, err = token.Persist(ctx, e, 0)
	must(t, err)
	wantHandles(t, token, FirstHandle)

	must(t, token.Delete(ctx, e, false))
	wantHandles(t, token)
	if got := labels(t, token); len(got) != 0 {
		t.Errorf("keys: %v", got)
	}
	if err := token.Delete(ctx, e, false); !errors.Is(err, ErrNotFound) {
		t.Errorf("deleting it again: %v", err)
	}
	names, err := os.ReadDir(token.Dir())
	must(t, err)
	if len(names) != 2 {
		t.Errorf("files: %v", names)
	}
}

func TestDeletingAKeyLeavesAnotherObjectAtItsHandleAlone(t *testing.T) {
	t.Parallel()
	token := tpmStore(t).initialized(t, "", "")
	e := create(t, token, signing("web"))
	must(t, token.TPM().Evict(ctx, e.Object.Handle, e.Object.Public.Name()))
	spec := signing("another")
	spec.Wrapped = true
	another := create(t, token, spec)
	must(t, token.TPM().Persist(ctx, another.Object, e.Object.Handle))
	must(t, token.Delete(ctx, e, false))
	wantHandles(t, token, e.Object.Handle)
	if got := labels(t, token); !slices.Equal(got, []string{"another"}) {
		t.Errorf("keys: %v", got)
	}
}

func TestASidecarThatPointsAtAnotherKeyDoesNotUseIt(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	token := s.initialized(t, "", "")
	web, mail := create(t, token, signing("web")), create(t, token, signing("mail"))
	side, err := parseSidecar(s.read(t, web.ID+sidecarSuffix))
	must(t, err)
	side.Handle = handleText(mail.Object.Handle)
	s.writeSidecar(t, web.ID, side)
	_ = token.TPM().Close()
	token = s.open(t)
	web, err = token.Find(Query{Label: "web"})
	must(t, err)
	if err := sign(token, web, nil); !errors.Is(err, provider.ErrOtherObject) {
		t.Errorf("the error is %v", err)
	}
}

func TestTwoStoresOnOneTPMDoNotMeetAtAHandle(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	first := s.initialized(t, "", "")
	second, err := Open(Options{Dir: s.dir + "2", TPM: first.TPM()})
	must(t, err)
	must(t, second.Init(ctx, InitOptions{Label: "second"}))
	const each = 6
	var all sync.WaitGroup
	for _, token := range []*Token{first, second} {
		for i := range each {
			all.Go(func() {
				if _, err := token.CreateKey(ctx, signing(fmt.Sprint("key ", i))); err != nil {
					t.Error(err)
				}
			})
		}
	}
	all.Wait()
	if n := len(handles(t, first)); n != 2*each {
		t.Errorf("%d keys are persistent", n)
	}
	seen := make(map[provider.Handle]string)
	for _, token := range []*Token{first, second} {
		entries, err := token.Keys()
		must(t, err)
		for _, e := range entries {
			if other, twice := seen[e.Object.Handle]; twice {
				t.Errorf("%s is where %s is", e, other)
			}
			seen[e.Object.Handle] = e.String()
			signs(t, token, e, nil)
		}
	}
}

func TestAStoreOfAnotherTPMIsRefused(t *testing.T) {
	t.Parallel()
	s := tpmStore(t)
	token := s.initialized(t, "user pin", "so pin")
	must(t, token.Login(ctx, User, pin("user pin")))
	wrappedSpec := signing("wrapped")
	wrappedSpec.Wrapped = true
	persistent, wrapped := create(t, token, signing("web")), create(t, token, wrappedSpec)
	_ = token.TPM().Close()

	elsewhere := tpmStore(t)
	elsewhere.dir = s.dir
	token = elsewhere.open(t)
	if err := token.Login(ctx, User, pin("user pin")); !errors.Is(err, provider.ErrParentChanged) {
		t.Errorf("a login: %v", err)
	}
	if err := token.SetPIN(ctx, User, pin("user pin"), pin("another")); !errors.Is(err, provider.ErrParentChanged) {
		t.Errorf("a new PIN: %v", err)
	}
	if n := failures(t, token); n != 0 {
		t.Errorf("%d failures: a PIN was tried", n)
	}
	_ = token.TPM().Close()

	// Nor does it get in the way of a store that was made there.
	token = elsewhere.open(t)
	neighbour, err := Open(Options{Dir: elsewhere.dir + "2", TPM: token.TPM()})
	must(t, err)
	must(t, neighbour.Init(ctx, InitOptions{Label: "neighbour", UserPIN: pin("user pin"), SOPIN: pin("so pin")}))
	for range 2 {
		if err := token.Login(ctx, User, pin("user pin")); !errors.Is(err, provider.ErrParentChanged) {
			t.Errorf("a login: %v", err)
		}
		must(t, neighbour.Login(ctx, User, pin("user pin")))
	}
	_ = token.TPM().Close()

	// With a token made anew there, the former keys are not its keys.
	token = elsewhere.open(t)
	must(t, token.Init(ctx, InitOptions{Label: "elsewhere", Force: true}))
	for _, e := range []Entry{persistent, wrapped} {
		e.OwnPIN = true
		if err := sign(token, e, pin("1234")); err == nil {
			t.Errorf("%s signs", e)
		}
	}
}
