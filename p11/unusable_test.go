package p11

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/internal/tokens"
)

// A program that loads every module must start although one of the stores is closed to it or corrupt. The slot of that one
// looks like one without a token to write to.
func TestAStoreThatCannotBeUsedIsASlotWithoutAToken(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(store string) error{
		"corrupt": func(store string) error {
			return os.WriteFile(filepath.Join(store, "token.json"), []byte("torn"), 0o600)
		},
		"open to others":  func(store string) error { return os.Chmod(store, 0o777) },
		"of another user": func(store string) error { return os.Chown(store, 12345, -1) },
		"a newer version's": func(store string) error {
			return os.WriteFile(filepath.Join(store, "token.json"), []byte(`{"version": 99}`), 0o600)
		},
	} {
		dir := t.TempDir()
		store := filepath.Join(dir, "store")
		if err := errors.Join(os.Mkdir(store, 0o700), spoil(store)); err != nil {
			t.Fatal(err)
		}
		c, err := config.Parse(filepath.Join(dir, "x.conf"), fmt.Appendf(nil, "log = \"off\"\nstore = %q\ntpm = \"swtpm:path=/nowhere\"\n", store))
		if err != nil {
			t.Fatal(err)
		}
		m := New(func() (*tokens.Set, error) { return tokens.Open(c) })
		if err := m.Initialize(0, false); err != nil {
			t.Fatalf("%s: C_Initialize: %v", name, err)
		}
		info, err := m.GetTokenInfo(0)
		if err != nil || info.Flags&CKF_TOKEN_INITIALIZED != 0 || info.Flags&CKF_WRITE_PROTECTED == 0 {
			t.Errorf("%s: token info %+v, %v", name, info, err)
		}
		if _, err := m.OpenSession(0, CKF_SERIAL_SESSION); !errors.Is(err, CKR_TOKEN_NOT_RECOGNIZED) {
			t.Errorf("%s: a session: %v", name, err)
		}
		if err := m.InitToken(0, nil, padded("new")); err == nil {
			t.Errorf("%s: it was made anew", name)
		}
		if err := m.Finalize(); err != nil {
			t.Errorf("%s: C_Finalize: %v", name, err)
		}
	}
}
