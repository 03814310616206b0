package tokens

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/internal/tpmtest"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
	"golang.org/x/sys/unix"
)

// configure reads a configuration whose relative paths are in dir.
func configure(t *testing.T, dir, text string) config.Config {
	t.Helper()
	c, err := config.Parse(filepath.Join(dir, "x.conf"), []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func open(t *testing.T, c config.Config) *Set {
	t.Helper()
	s, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return s
}

// No TPM is there, and none is missed until one is used.
func TestTokensOfOneAddressShareTheTPM(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, configure(t, dir, `
log = "off"
[[token]]
label = "a"
tpm = "swtpm:path=/nowhere/1"
store = "a"
[[token]]
label = "b"
tpm = "swtpm:path=/nowhere/2"
store = "b"
[[token]]
label = "c"
tpm = "swtpm:path=/nowhere/1"
store = "c"
`))
	if len(s.Tokens) != 3 {
		t.Fatalf("%d tokens", len(s.Tokens))
	}
	a, b, c := s.Tokens[0].TPM(), s.Tokens[1].TPM(), s.Tokens[2].TPM()
	if a.String() != "swtpm:path=/nowhere/1" || b.String() != "swtpm:path=/nowhere/2" || c.String() != a.String() {
		t.Errorf("a has %v, b has %v, c has %v", a, b, c)
	}
	for i, label := range []string{"a", "b", "c"} {
		if got := s.Tokens[i].Dir(); got != filepath.Join(dir, label) {
			t.Errorf("token %d is %s", i, got)
		}
		if s.Tokens[i].Initialized() {
			t.Errorf("token %d is initialised", i)
		}
	}
	expect := func(token int, want error) {
		t.Helper()
		if _, err := s.Tokens[token].TPM().Random(t.Context(), 8); !errors.Is(err, want) {
			t.Errorf("token %d: %v, want %v", token, err, want)
		}
	}
	for token := range s.Tokens {
		expect(token, provider.ErrUnavailable)
	}
	// Who shares a TPM shares its end.
	if err := s.Tokens[0].TPM().Close(); err != nil {
		t.Error(err)
	}
	expect(0, provider.ErrClosed)
	expect(1, provider.ErrUnavailable)
	expect(2, provider.ErrClosed)
	_ = a.Close()
	for name, tpm := range map[string]*provider.TPM{"b": b, "c": c} {
		_, err := tpm.Random(t.Context(), 8)
		if shared := name == "c"; errors.Is(err, provider.ErrClosed) != shared {
			t.Errorf("%s, after a's TPM was closed: %v", name, err)
		}
	}
}

func TestClosedSetLetsTheTPMsGo(t *testing.T) {
	t.Parallel()
	s := open(t, configure(t, t.TempDir(), "log = \"off\"\nstore = \"keys\"\ntpm = \"swtpm:path=/nowhere\""))
	tpm := s.Tokens[0].TPM()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := tpm.Random(t.Context(), 8); !errors.Is(err, provider.ErrClosed) {
		t.Errorf("a closed set's TPM: %v", err)
	}
}

func TestOpenRefusesAnAddressItCannotRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, err := Open(configure(t, dir, "log = \"off\"\n\n[[token]]\nlabel = \"a\"\nstore = \"a\"\ntpm = \"/dev/tpm0\"\n"))
	var where *config.Error
	if !errors.As(err, &where) || where.Line != 6 || !strings.HasPrefix(err.Error(), filepath.Join(dir, "x.conf:6: ")) {
		t.Errorf("got %v", err)
	}
}

// The owner's authorisation is read from its file and opens the owner hierarchy.
func TestOwnerAuthFile(t *testing.T) {
	t.Parallel()
	machine := tpmtest.Start(t)
	setOwnerAuth(t, machine, "owner's word")
	dir := t.TempDir()
	file := filepath.Join(dir, "owner.auth")
	if err := os.WriteFile(file, []byte("owner's word\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("log = \"off\"\nstore = \"keys\"\ntpm = %q\n", machine.Address())

	without := open(t, configure(t, dir, text))
	err := without.Tokens[0].Init(t.Context(), keystore.InitOptions{Label: "test"})
	if !errors.Is(err, provider.ErrHierarchyAuth) {
		t.Errorf("without the owner's authorisation: %v", err)
	}
	without.Close()

	with := open(t, configure(t, dir, text+"owner_auth_file = \"owner.auth\"\n"))
	if err := with.Tokens[0].Init(t.Context(), keystore.InitOptions{Label: "test"}); err != nil {
		t.Errorf("with the owner's authorisation: %v", err)
	}
}

func setOwnerAuth(t *testing.T, machine *tpmtest.TPM, auth string) {
	t.Helper()
	device, err := linuxudstpm.Open(machine.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	_, err = tpm2.HierarchyChangeAuth{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		NewAuth:    tpm2.TPM2BAuth{Buffer: []byte(auth)},
	}.Execute(device)
	if err != nil {
		t.Fatal(err)
	}
}

func TestOwnerAuthFileRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := configure(t, dir, "log = \"off\"\nstore = \"keys\"\nowner_auth_file = \"owner.auth\"\n")
	file := filepath.Join(dir, "owner.auth")
	for _, f := range []struct {
		mode os.FileMode
		text string
		want string
	}{
		{0o640, "word", "chmod 600"},
		{0o604, "word", "chmod 600"},
		{0o600, strings.Repeat("x", 65), "more than 64 bytes"},
		{0o600, strings.Repeat("x", 1000), "too long"},
	} {
		if err := os.WriteFile(file, []byte(f.text), f.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, f.mode); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(c); err == nil || !strings.Contains(err.Error(), f.want) || strings.Contains(err.Error(), f.text) {
			t.Errorf("%o, %d bytes: %v; want %s", f.mode, len(f.text), err, f.want)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(c); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
	c = configure(t, dir, "log = \"off\"\nstore = \"keys\"\nendorsement_auth_file = \"owner.auth\"\n")
	if _, err := Open(c); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "endorsement_auth_file: ") {
		t.Errorf("the endorsement hierarchy's, absent: %v", err)
	}
}

// Most programs that load the module may not read the file, and need not.
func TestOwnerAuthFileOfAnother(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "owner.auth")
	if err := os.WriteFile(file, []byte("word"), 0); err != nil {
		t.Fatal(err)
	}
	// Root reads every file; a thread with another file system identity does not.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if os.Geteuid() == 0 {
		if err := unix.Setfsuid(65534); err != nil {
			t.Fatal(err)
		}
		defer unix.Setfsuid(0)
	}
	auth, err := readHierarchyAuth("owner", file, newLogger("off", false))
	if err != nil || auth != nil {
		t.Errorf("%v, %v", auth, err)
	}
}

// One store that is closed or corrupt does not take the others away from every program that loads them all.
func TestAStoreThatCannotBeUsedIsNoHindrance(t *testing.T) {
	t.Parallel()
	machine := tpmtest.Start(t)
	dir := t.TempDir()
	c := configure(t, dir, fmt.Sprintf(`
log = "off"
[[token]]
label = "corrupt"
tpm = %[1]q
store = "corrupt"
[[token]]
label = "good"
tpm = %[1]q
store = "good"
`, machine.Address()))
	corrupt := filepath.Join(dir, "corrupt")
	if err := os.Mkdir(corrupt, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, corrupt, "token.json", "torn")
	s := open(t, c)
	if s.Tokens[0].Initialized() || s.Tokens[0].Writable() {
		t.Error("the corrupt store seems usable")
	}
	web := Name{label: "web"}
	if _, err := s.Find(web, nil); !errors.Is(err, keystore.ErrCorrupt) {
		t.Errorf("when no store can be used: %v", err)
	}
	good := s.Tokens[1]
	if err := good.Init(t.Context(), keystore.InitOptions{Label: "good"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Find(web, nil); !errors.Is(err, keystore.ErrCorrupt) || !strings.Contains(err.Error(), "token.json") {
		t.Errorf("when the key may be in the corrupt store: %v", err)
	}
	e, err := good.CreateKey(t.Context(), keystore.KeySpec{Label: "web", Type: provider.P256, Use: provider.Use{Sign: true}, Wrapped: true})
	if err != nil {
		t.Fatal(err)
	}
	if k, err := s.Find(web, nil); err != nil || k.Token != good {
		t.Errorf("when the key is in the good store: %v, %v", k, err)
	}
	again, err := s.Again(s.Logger)
	if err != nil || len(again.Tokens) != 2 {
		t.Errorf("for another application: %v", err)
	}
	write(t, good.Dir(), e.ID+".json", "torn")
	if _, err := s.Find(web, []int{1}); !errors.Is(err, keystore.ErrNotFound) || !strings.Contains(err.Error(), "run `tpm2-p11 doctor`") {
		t.Errorf("when the key's file is torn: %v", err)
	}
}
