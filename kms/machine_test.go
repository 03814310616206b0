package kms_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"log/slog"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/tpm2-p11/tpm2-p11/attest"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/nsm"
	"github.com/tpm2-p11/tpm2-p11/kms"
)

// recipientKey stands for a TPM key where the TPM is not the point.
var recipientKey = sync.OnceValue(newRSA)

func newRSA() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
}

// machine is an attestable machine, and a KMS that knows its image.
type machine struct {
	kms       *fakeKMS
	authority *nsm.Authority
	pcrs      nsm.PCRs
	documents [][]byte
	mu        sync.Mutex
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	authority, err := nsm.New("i-0123456789abcdef0", region, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{authority: authority}
	for i := range m.pcrs {
		m.pcrs[i] = bytes.Repeat([]byte{byte(i)}, 48)
	}
	m.kms = newFake(t, httptest.NewTLSServer, authority, m.pcrs[4])
	return m
}

// document is the machine's DocumentFunc.
func (m *machine) document(_ context.Context, r attest.Request) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, err := m.authority.Draft(time.Now(), nsm.Content{PCRs: m.pcrs, PublicKey: r.PublicKey, UserData: r.UserData, Nonce: r.Nonce})
	if err != nil {
		return nil, err
	}
	document, err := d.Sign()
	m.documents = append(m.documents, document)
	return document, err
}

// options are those that reach the machine's KMS, with an environment of the test's own.
func (m *machine) options() kms.Options {
	roots := x509.NewCertPool()
	roots.AddCert(m.kms.Certificate())
	return kms.Options{
		Endpoint: m.kms.URL, RootCAs: roots, MaxBackoff: time.Millisecond, Timeout: 20 * time.Second,
		Getenv: environment("AWS_REGION", region, "AWS_ACCESS_KEY_ID", "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY", "secret"),
	}
}

func environment(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func (m *machine) service(t *testing.T, change ...func(*kms.Options)) *kms.Service {
	t.Helper()
	o := m.options()
	for _, c := range change {
		c(&o)
	}
	s, err := kms.NewService(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (m *machine) client(t *testing.T, key crypto.Decrypter, change ...func(*kms.Options)) *kms.Client {
	t.Helper()
	c, err := kms.NewClient(m.service(t, change...), m.document, key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (m *machine) unwrapper(t *testing.T, change ...func(*kms.Options)) *kms.Unwrapper {
	t.Helper()
	u, err := kms.NewUnwrapper(m.client(t, recipientKey(), change...), kms.UnwrapperOptions{KeyID: keyARN})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// encrypt has KMS encrypt, as an operator somewhere else does.
func (m *machine) encrypt(t *testing.T, plaintext string, encryptionContext map[string]string) []byte {
	t.Helper()
	ciphertext, err := m.service(t).Encrypt(t.Context(), kms.EncryptRequest{KeyID: keyARN, Context: encryptionContext, Plaintext: []byte(plaintext)})
	if err != nil {
		t.Fatal(err)
	}
	return ciphertext
}

func withLog(w *bytes.Buffer) func(*kms.Options) {
	return func(o *kms.Options) {
		o.Log = slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
}
