package signer

import (
	"context"
	"crypto"
	"crypto/x509"
	"path/filepath"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/internal/tpmtest"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

// store is one token on a TPM of the test's own.
type store struct {
	t   testing.TB
	tpm *tpmtest.TPM
	dir string
	pin string
}

// newStore starts a TPM and makes a token on it; an empty pin makes one without PIN.
func newStore(t testing.TB, pin string) *store {
	t.Helper()
	return newStoreOn(t, tpmtest.Start(t), "token", pin)
}

func newStoreOn(t testing.TB, tpm *tpmtest.TPM, label, pin string) *store {
	t.Helper()
	s := &store{t: t, tpm: tpm, dir: filepath.Join(t.TempDir(), "store"), pin: pin}
	s.with(func(token *keystore.Token) {
		o := keystore.InitOptions{Label: label}
		if pin != "" {
			o.UserPIN, o.SOPIN = secret.From([]byte(pin)), secret.From([]byte("so-"+pin))
			defer o.UserPIN.Wipe()
			defer o.SOPIN.Wipe()
		}
		if err := token.Init(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	})
	return s
}

// with opens the token as another program would, and lets it go again.
func (s *store) with(use func(*keystore.Token)) {
	s.t.Helper()
	dialer, err := transport.Parse(s.tpm.Address())
	if err != nil {
		s.t.Fatal(err)
	}
	tpm := provider.New(dialer)
	defer tpm.Close()
	token, err := keystore.Open(keystore.Options{Dir: s.dir, TPM: tpm})
	if err != nil {
		s.t.Fatal(err)
	}
	if token.Initialized() && token.HasPIN() {
		pin := secret.From([]byte(s.pin))
		defer pin.Wipe()
		if err := token.Login(context.Background(), keystore.User, pin); err != nil {
			s.t.Fatal(err)
		}
		defer token.Logout()
	}
	use(token)
}

// create makes a key; without a use it signs.
func (s *store) create(spec keystore.KeySpec) keystore.Entry {
	s.t.Helper()
	if spec.Use == (provider.Use{}) {
		spec.Use.Sign = true
	}
	var entry keystore.Entry
	s.with(func(token *keystore.Token) {
		var err error
		if entry, err = token.CreateKey(s.t.Context(), spec); err != nil {
			s.t.Fatal(err)
		}
	})
	return entry
}

func (s *store) certify(entry keystore.Entry, chain ...*x509.Certificate) {
	s.t.Helper()
	s.with(func(token *keystore.Token) {
		if _, err := token.SetCertificates(entry, chain); err != nil {
			s.t.Fatal(err)
		}
	})
}

func (s *store) options(more ...Option) []Option {
	return append([]Option{WithTPM(s.tpm.Address()), WithStore(s.dir)}, more...)
}

// open opens a key and closes it at the test's end.
func (s *store) open(name string, more ...Option) *Key {
	s.t.Helper()
	k, err := Open(s.t.Context(), name, s.options(more...)...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := k.Close(); err != nil {
			s.t.Error(err)
		}
	})
	return k
}

// refusal is the error of an Open that must fail.
func (s *store) refusal(name string, more ...Option) error {
	s.t.Helper()
	k, err := Open(s.t.Context(), name, s.options(more...)...)
	if err == nil {
		k.Close()
		s.t.Fatalf("%q was opened", name)
	}
	return err
}

func digestOf(h crypto.Hash, message string) []byte {
	hash := h.New()
	hash.Write([]byte(message))
	return hash.Sum(nil)
}
