package p11

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"math/big"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tpm2-p11/tpm2-p11/internal/tokens"
	"github.com/tpm2-p11/tpm2-p11/internal/tpmtest"
	"github.com/tpm2-p11/tpm2-p11/internal/wiretap"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

// logbook is a log that a test can read.
type logbook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logbook) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// world is a module on one token of a TPM of the test's own.
type world struct {
	*Module
	t       *testing.T
	machine *tpmtest.TPM
	wire    *wiretap.Dialer
	token   *keystore.Token
	log     *logbook
}

// fresh is a module after C_Initialize, with a token that is not initialised.
func fresh(t *testing.T) *world {
	t.Helper()
	machine := tpmtest.Start(t)
	w := freshAt(t, machine.Address())
	w.machine = machine
	return w
}

// freshAt is fresh with a TPM that somebody else started.
func freshAt(t *testing.T, address string) *world {
	t.Helper()
	w := &world{t: t, log: new(logbook)}
	dialer, err := transport.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	w.wire = wiretap.New(dialer)
	tpm := provider.New(w.wire)
	t.Cleanup(func() {
		if err := tpm.Close(); err != nil {
			t.Errorf("closing the TPM: %v", err)
		}
	})
	logger := slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	w.token, err = keystore.Open(keystore.Options{Dir: t.TempDir(), TPM: tpm, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	w.Module = New(func() (*tokens.Set, error) {
		return &tokens.Set{Tokens: []*keystore.Token{w.token}, Logger: logger}, nil
	})
	w.must(w.Initialize(0, false))
	t.Cleanup(func() {
		if err := w.Finalize(); err != nil && !errors.Is(err, CKR_CRYPTOKI_NOT_INITIALIZED) {
			t.Errorf("C_Finalize: %v", err)
		}
	})
	return w
}

// The PINs of tokens that have them.
const (
	userPIN = "user-1234"
	soPIN   = "officer-5678"
)

// open is a module with a token without PINs.
func open(t *testing.T) *world {
	t.Helper()
	w := fresh(t)
	w.must(w.InitToken(0, nil, padded("open")))
	return w
}

// guarded is a module with a token that has PINs.
func guarded(t *testing.T) *world {
	t.Helper()
	w := fresh(t)
	w.givePINs()
	return w
}

// givePINs initialises the token with PINs.
func (w *world) givePINs() {
	w.t.Helper()
	w.must(w.InitToken(0, []byte(soPIN), padded("guarded")))
	s := w.session(true)
	w.must(w.Login(s, CKU_SO, []byte(soPIN)))
	w.must(w.InitPIN(s, []byte(userPIN)))
	w.must(w.CloseSession(s))
}

func padded(label string) []byte {
	b := bytes.Repeat([]byte{' '}, 32)
	copy(b, label)
	return b
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatalf("%v\n%s", err, w.log)
	}
}

func (w *world) refused(err error, want RV) {
	w.t.Helper()
	if err == nil || RVOf(err) != want {
		w.t.Fatalf("got %v (%v), want %v\n%s", RVOf(err), err, want, w.log)
	}
}

func (w *world) session(readWrite bool) SessionHandle {
	w.t.Helper()
	flags := CKF_SERIAL_SESSION
	if readWrite {
		flags |= CKF_RW_SESSION
	}
	h, err := w.OpenSession(0, flags)
	w.must(err)
	return h
}

// make makes a key beside the module, as the command would.
func (w *world) make(s keystore.KeySpec) keystore.Entry {
	w.t.Helper()
	e, err := w.token.CreateKey(context.Background(), s)
	w.must(err)
	return e
}

// find gives the objects that a template matches. Without one they are all but the profiles, which every token has.
func (w *world) find(s SessionHandle, template ...Attribute) []ObjectHandle {
	w.t.Helper()
	w.must(w.FindObjectsInit(s, template))
	found, err := w.FindObjects(s, 1000)
	w.must(err)
	w.must(w.FindObjectsFinal(s))
	if len(template) != 0 {
		return found
	}
	return slices.DeleteFunc(found, func(o ObjectHandle) bool {
		return bytes.Equal(w.attribute(s, o, CKA_CLASS), ulong(uint64(CKO_PROFILE)))
	})
}

func (w *world) one(s SessionHandle, class ObjectClass, template ...Attribute) ObjectHandle {
	w.t.Helper()
	found := w.find(s, append(template, Attribute{CKA_CLASS, ulong(uint64(class))})...)
	if len(found) != 1 {
		w.t.Fatalf("found %d objects of class %d, want 1\n%s", len(found), class, w.log)
	}
	return found[0]
}

func (w *world) attribute(s SessionHandle, o ObjectHandle, a AttributeType) []byte {
	w.t.Helper()
	r, err := w.GetAttributeValue(s, o, []AttributeQuery{{Type: a, Capacity: 1 << 16}})
	if err != nil {
		w.t.Fatalf("attribute 0x%x: %v", uint64(a), err)
	}
	return r[0].Value
}

func (w *world) sign(s SessionHandle, m Mechanism, key ObjectHandle, data []byte) ([]byte, error) {
	if err := w.SignInit(s, m, key); err != nil {
		return nil, err
	}
	out := Output{Capacity: 1 << 12}
	err := w.Sign(s, data, &out)
	_, signature := out.Result()
	return signature, err
}

// commands counts what reaches the TPM while f runs.
func (w *world) commands(f func()) int {
	before := len(w.wire.Exchanges())
	f()
	return len(w.wire.Exchanges()) - before
}

func label(s string) Attribute { return Attribute{CKA_LABEL, []byte(s)} }

func class(c ObjectClass) Attribute { return Attribute{CKA_CLASS, ulong(uint64(c))} }

func numbers(n ...uint64) (b []byte) {
	for _, v := range n {
		b = append(b, ulong(v)...)
	}
	return b
}

func mechanismOf(id MechanismType, parameter ...uint64) Mechanism {
	return Mechanism{Type: id, Parameter: numbers(parameter...)}
}

// issue makes a certificate for a public key.
func issue(t *testing.T, name string, public crypto.PublicKey) []byte {
	t.Helper()
	ca, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(77), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
	}
	parent := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "issuer"}}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, ca)
	if err != nil {
		t.Fatal(err)
	}
	return der
}
