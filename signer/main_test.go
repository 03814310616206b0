package signer

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// TestMain gives the examples a machine as a reader's would be: a configuration
// in its standard place, and in its store the keys that they name.
func TestMain(m *testing.M) {
	tb := &mainTB{}
	code := func() int {
		defer tb.cleanUp()
		exampleMachine(tb)
		return m.Run()
	}()
	if tb.failed {
		code = 1
	}
	os.Exit(code)
}

func exampleMachine(tb testing.TB) {
	s := newStore(tb, "")
	s.certified(keystore.KeySpec{Label: "web", Type: provider.P256})
	s.create(keystore.KeySpec{Label: "release", Type: provider.RSA2048})
	s.create(keystore.KeySpec{Label: "vault", Type: provider.RSA2048, Use: provider.Use{Decrypt: true}})
	own := secret.From([]byte("correct horse"))
	defer own.Wipe()
	s.create(keystore.KeySpec{Label: "payroll", Type: provider.P256, OwnPIN: own})

	conf := filepath.Join(tb.TempDir(), "tpm2-p11.conf")
	text := fmt.Sprintf("tpm = %q\nstore = %q\n", s.tpm.Address(), s.dir)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	os.Setenv("TPM2_P11_CONF", conf)
}

// mainTB is as much of a testing.TB as the helpers need outside a test.
type mainTB struct {
	testing.TB
	cleanups []func()
	failed   bool
}

func (m *mainTB) Helper()                  {}
func (m *mainTB) Context() context.Context { return context.Background() }
func (m *mainTB) Cleanup(f func())         { m.cleanups = append(m.cleanups, f) }

func (m *mainTB) TempDir() string {
	dir, err := os.MkdirTemp("", "signer")
	if err != nil {
		m.Fatal(err)
	}
	m.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (m *mainTB) Error(args ...any) {
	m.failed = true
	fmt.Fprintln(os.Stderr, args...)
}

func (m *mainTB) Errorf(format string, args ...any) { m.Error(fmt.Sprintf(format, args...)) }

func (m *mainTB) Fatal(args ...any) {
	m.Error(args...)
	m.cleanUp()
	os.Exit(1)
}

func (m *mainTB) Fatalf(format string, args ...any) { m.Fatal(fmt.Sprintf(format, args...)) }

func (m *mainTB) cleanUp() {
	for _, f := range slices.Backward(m.cleanups) {
		f()
	}
	m.cleanups = nil
}
