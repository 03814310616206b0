package signer

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tpm2-p11/tpm2-p11/internal/keyuse"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// selfSigned makes a certificate by the key, for servers and clients.
func selfSigned(t testing.TB, k *Key, algorithm x509.SignatureAlgorithm) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: k.Label()},
		DNSNames:              []string{"localhost"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
		SignatureAlgorithm:    algorithm,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

// certified makes a key with a self-signed certificate in the store.
func (s *store) certified(spec keystore.KeySpec) *x509.Certificate {
	s.t.Helper()
	entry := s.create(spec)
	k := s.open(spec.Label)
	certificate := selfSigned(s.t, k, 0)
	if err := k.Close(); err != nil {
		s.t.Fatal(err)
	}
	s.certify(entry, certificate)
	return certificate
}

func TestCertificatesAndRequests(t *testing.T) {
	t.Parallel()
	s := newStore(t, "")
	for kind, algorithms := range map[provider.KeyType][]x509.SignatureAlgorithm{
		provider.RSA2048: {0, x509.SHA256WithRSA, x509.SHA512WithRSA, x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS},
		provider.P256:    {0, x509.ECDSAWithSHA256, x509.ECDSAWithSHA384},
	} {
		s.create(keystore.KeySpec{Label: string(kind), Type: kind})
		k := s.open(string(kind))
		for _, algorithm := range algorithms {
			certificate := selfSigned(t, k, algorithm)
			if err := certificate.CheckSignatureFrom(certificate); err != nil {
				t.Errorf("%s, certificate with %v: %v", kind, algorithm, err)
			}
			der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{SignatureAlgorithm: algorithm}, k)
			if err != nil {
				t.Errorf("%s, request with %v: %v", kind, algorithm, err)
				continue
			}
			request, err := x509.ParseCertificateRequest(der)
			if err != nil {
				t.Fatal(err)
			}
			if err := request.CheckSignature(); err != nil {
				t.Errorf("%s, request with %v: %v", kind, algorithm, err)
			}
		}
		k.Close()
	}
}

// One key serves many connections at once, as a server's and as a client's.
func TestTLS(t *testing.T) {
	t.Parallel()
	for _, kind := range []provider.KeyType{provider.RSA2048, provider.P256} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := newStore(t, "")
			root := s.certified(keystore.KeySpec{Label: "web", Type: kind})
			k := s.open("web")
			certificate, err := k.TLSCertificate()
			if err != nil {
				t.Fatal(err)
			}
			if certificate.Leaf == nil || !certificate.Leaf.Equal(root) || len(certificate.Certificate) != 1 || !k.Certificates()[0].Equal(root) {
				t.Fatal("the chain is not the stored one")
			}
			roots := x509.NewCertPool()
			roots.AddCert(root)
			for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				server := &tls.Config{
					Certificates: []tls.Certificate{certificate},
					ClientAuth:   tls.RequireAndVerifyClientCert,
					ClientCAs:    roots,
					MinVersion:   version,
					MaxVersion:   version,
				}
				client := &tls.Config{
					Certificates: []tls.Certificate{certificate},
					RootCAs:      roots,
					ServerName:   "localhost",
				}
				var all sync.WaitGroup
				for range 12 {
					all.Go(func() {
						if err := handshake(server, client, version); err != nil {
							t.Errorf("%s: %v", tls.VersionName(version), err)
						}
					})
				}
				all.Wait()
			}
		})
	}
}

// handshake connects a client to a server and sends a line each way.
func handshake(server, client *tls.Config, version uint16) error {
	a, b := net.Pipe()
	deadline := time.Now().Add(time.Minute)
	a.SetDeadline(deadline)
	b.SetDeadline(deadline)
	served := make(chan error, 1)
	go func() {
		conn := tls.Server(a, server)
		// Closing the pipe itself too: a client that waits must hear of a failure.
		defer a.Close()
		line := make([]byte, 4)
		_, err := io.ReadFull(conn, line)
		if err == nil {
			_, err = conn.Write(line)
		}
		served <- err
	}()
	conn := tls.Client(b, client)
	defer b.Close()
	line := []byte("ping")
	_, err := conn.Write(line)
	if err == nil {
		_, err = io.ReadFull(conn, line)
	}
	if err == nil && conn.ConnectionState().Version != version {
		err = errors.New("another version was spoken")
	}
	if err != nil {
		b.Close()
	}
	return errors.Join(err, <-served)
}

// A server whose machine is no longer the measured one refuses connections, and its error says why.
func TestTLSStopsWithThePCR(t *testing.T) {
	t.Parallel()
	s := newStore(t, "")
	s.tpm.Extend(t, "sha256", 7, []byte("measured boot"))
	pcr, err := policy.ParsePCR("sha256:7")
	if err != nil {
		t.Fatal(err)
	}
	root := s.certified(keystore.KeySpec{Label: "web", Type: provider.P256, Policy: policy.Policy{Root: pcr}})
	s.tpm.Extend(t, "sha256", 7, []byte("another boot loader"))
	certificate, err := s.open("web").TLSCertificate()
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(root)
	err = handshake(&tls.Config{Certificates: []tls.Certificate{certificate}},
		&tls.Config{RootCAs: roots, ServerName: "localhost"}, tls.VersionTLS13)
	if err == nil || !strings.Contains(err.Error(), "PCR7") {
		t.Errorf("got %v, want the PCR", err)
	}
}

func TestTLSCertificateRefuses(t *testing.T) {
	t.Parallel()
	s := newStore(t, "")
	s.create(keystore.KeySpec{Label: "bare", Type: provider.P256})
	k := s.open("bare")
	if k.Certificates() != nil {
		t.Error("there is a certificate")
	}
	if _, err := k.TLSCertificate(); !errors.Is(err, ErrNoCertificate) {
		t.Errorf("without a certificate: %v", err)
	}
	certificate := selfSigned(t, k, 0)
	k.Close()

	// A chain that is not in the store works too, but not another key's.
	k = s.open("bare")
	roots := x509.NewCertPool()
	roots.AddCert(certificate)
	given, err := k.TLSCertificate(certificate)
	if err != nil {
		t.Fatal(err)
	}
	if err := handshake(&tls.Config{Certificates: []tls.Certificate{given}},
		&tls.Config{RootCAs: roots, ServerName: "localhost"}, tls.VersionTLS13); err != nil {
		t.Error(err)
	}
	k.Close()
	others := newStore(t, "").certified(keystore.KeySpec{Label: "other", Type: provider.P256})
	if _, err := k.TLSCertificate(others); !errors.Is(err, ErrNoCertificate) || !strings.Contains(err.Error(), "CN=other") {
		t.Errorf("with another key's certificate: %v", err)
	}

	decrypting := &Key{certificates: []*x509.Certificate{certificate}, public: k.public, limits: limits{keyuse.Use{Decrypt: true}}}
	if _, err := decrypting.TLSCertificate(); !errors.Is(err, ErrWrongUse) {
		t.Errorf("with a key that cannot sign: %v", err)
	}
}
