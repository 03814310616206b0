package main

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/attest"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/simtest"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
	"github.com/tpm2-p11/tpm2-p11/signer"
)

// instance is an attestable machine with keys that have certificates.
type instance struct {
	sim   *simtest.Sim
	tpm   *provider.TPM
	token *keystore.Token
}

func newInstance(t *testing.T) *instance {
	t.Helper()
	i := &instance{sim: simtest.Start(t)}
	dialer, err := transport.Parse(i.sim.Address())
	if err != nil {
		t.Fatal(err)
	}
	i.tpm = provider.New(dialer)
	t.Cleanup(func() { i.tpm.Close() })
	if i.token, err = keystore.Open(keystore.Options{Dir: t.TempDir(), TPM: i.tpm}); err != nil {
		t.Fatal(err)
	}
	if err := i.token.Init(t.Context(), keystore.InitOptions{Label: "instance"}); err != nil {
		t.Fatal(err)
	}
	return i
}

// key makes a key in the TPM with a certificate for TLS.
func (i *instance) key(t *testing.T, label string) tls.Certificate {
	t.Helper()
	entry, err := i.token.CreateKey(t.Context(), keystore.KeySpec{Label: label, Type: provider.P256, Use: provider.Use{Sign: true}})
	if err != nil {
		t.Fatal(err)
	}
	key, err := signer.ForEntry(i.token, entry, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { key.Close() })
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: label},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := key.TLSCertificate(leaf)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

// pcr4 reads the image's measurement.
func (i *instance) pcr4(t *testing.T) []byte {
	t.Helper()
	values, err := i.tpm.ReadPCRs(t.Context(), tpm2.TPMAlgSHA384, []uint{4})
	if err != nil {
		t.Fatal(err)
	}
	return values[4]
}

// service lets in machines of i's present image.
func service(t *testing.T, i *instance) *httptest.Server {
	t.Helper()
	verifier := attest.NewVerifier(attest.Policy{
		Roots: []*x509.Certificate{i.sim.Root(t)}, PCRs: map[int][]byte{4: i.pcr4(t)},
	}, time.Minute)
	server := httptest.NewUnstartedServer(newDoor(verifier))
	server.TLS = serverTLS(tls.Certificate{})
	server.TLS.Certificates = nil // the test server brings one
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

func clientOf(s *httptest.Server, certificate tls.Certificate) *http.Client {
	config := s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	config.Certificates = []tls.Certificate{certificate}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
}

func TestWhoIsAttestedIsLetIn(t *testing.T) {
	t.Parallel()
	i := newInstance(t)
	s := service(t, i)
	web, other := i.key(t, "web"), i.key(t, "other")
	client, stranger := clientOf(s, web), clientOf(s, other)

	if _, err := fetch(t.Context(), client, http.MethodGet, s.URL+"/", nil); err == nil || !strings.Contains(err.Error(), "not attested") {
		t.Errorf("before it was attested: %v", err)
	}
	if err := enter(t.Context(), client, s.URL, i.tpm, web.Leaf); err != nil {
		t.Fatal(err)
	}
	if answer, err := fetch(t.Context(), client, http.MethodGet, s.URL+"/", nil); err != nil || !strings.Contains(string(answer), "hello") {
		t.Errorf("after it: %q, %v", answer, err)
	}

	if _, err := fetch(t.Context(), stranger, http.MethodGet, s.URL+"/", nil); err == nil {
		t.Error("another key was let in too")
	}
	if err := enter(t.Context(), stranger, s.URL, i.tpm, web.Leaf); err == nil || !strings.Contains(err.Error(), "public key is not the expected one") {
		t.Errorf("a document of another's key: %v", err)
	}
	if _, err := fetch(t.Context(), clientOf(s, tls.Certificate{}), http.MethodGet, s.URL+"/challenge", nil); err == nil {
		t.Error("a client without a certificate was served")
	}
}

func TestAnotherImageAndAReplayStayOutside(t *testing.T) {
	t.Parallel()
	i := newInstance(t)
	s := service(t, i)
	web := i.key(t, "web")
	client := clientOf(s, web)

	nonce, err := fetch(t.Context(), client, http.MethodGet, s.URL+"/challenge", nil)
	if err != nil {
		t.Fatal(err)
	}
	document, err := attest.Document(t.Context(), i.tpm, attest.Request{Nonce: nonce, PublicKey: web.Leaf.RawSubjectPublicKeyInfo})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fetch(t.Context(), client, http.MethodPost, s.URL+"/attest", document); err != nil {
		t.Fatal(err)
	}
	if _, err := fetch(t.Context(), client, http.MethodPost, s.URL+"/attest", document); err == nil || !strings.Contains(err.Error(), "answered before") {
		t.Errorf("the same document again: %v", err)
	}

	i.sim.Extend(t, "sha384", 4, []byte("another image"))
	if err := enter(t.Context(), client, s.URL, i.tpm, web.Leaf); err == nil || !strings.Contains(err.Error(), "PCR4 is ") {
		t.Errorf("another image: %v", err)
	}
}
