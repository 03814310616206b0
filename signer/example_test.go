package signer_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"time"

	"github.com/tpm2-p11/tpm2-p11/signer"
)

// The key and the certificate of label "web" serve https.
func Example() {
	hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "hello from a key inside a TPM")
	})

	key, err := signer.Open(context.Background(), "web")
	if err != nil {
		log.Fatal(err)
	}
	defer key.Close()
	certificate, err := key.TLSCertificate()
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Handler: hello, TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}}}

	listener, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		log.Fatal(err)
	}
	go server.ServeTLS(listener, "", "")
	defer server.Close()

	fmt.Print(get("https://"+listener.Addr().String(), certificate.Leaf))
	// Output: hello from a key inside a TPM
}

// get is the client of the other examples: it trusts one certificate.
func get(url string, trusted *x509.Certificate) string {
	roots := x509.NewCertPool()
	roots.AddCert(trusted)
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: roots, ServerName: "localhost"},
		DisableKeepAlives: true,
	}}
	response, err := client.Get(url)
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err.Error()
	}
	return string(body)
}

// A client proves who it is with a key inside its TPM.
func ExampleKey_TLSCertificate() {
	key, err := signer.Open(context.Background(), "web")
	if err != nil {
		log.Fatal(err)
	}
	defer key.Close()
	certificate, err := key.TLSCertificate()
	if err != nil {
		log.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{certificate}},
	}}
	defer client.CloseIdleConnections()

	fmt.Println(certificate.Leaf.Subject)
	// Output: CN=web
}

// A PKCS #11 URI names a key unmistakably, and where its PIN is.
func ExampleOpen() {
	key, err := signer.Open(context.Background(), "pkcs11:token=token;object=web;type=private")
	if err != nil {
		log.Fatal(err)
	}
	defer key.Close()

	fmt.Println(key.Label())
	// Output: web
}

// The errors tell apart what a program does something about.
func ExampleOpen_errors() {
	_, err := signer.Open(context.Background(), "wob")
	var refused *signer.PolicyError
	switch {
	case errors.Is(err, signer.ErrNotFound):
		fmt.Println("no such key")
	case errors.Is(err, signer.ErrUnavailable):
		fmt.Println("no TPM")
	case errors.Is(err, signer.ErrPIN):
		fmt.Println("wrong PIN")
	case errors.As(err, &refused): // from Sign and Decrypt
		fmt.Println("not now:", refused) // policy "web": sha256 PCR7 is 8c10…, approved: 79d1…
	}
	// Output: no such key
}

// A PIN comes from a callback, which may ask a person.
func ExampleWithPIN() {
	key, err := signer.Open(context.Background(), "payroll", signer.WithPIN(askPIN))
	if err != nil {
		log.Fatal(err)
	}
	defer key.Close()

	digest := sha256.Sum256([]byte("the payroll"))
	if _, err := key.Sign(rand.Reader, digest[:], crypto.SHA256); err != nil {
		log.Fatal(err)
	}
	fmt.Println("signed")
	// Output: signed
}

// askPIN stands for golang.org/x/term's ReadPassword or a credential file.
func askPIN() ([]byte, error) { return []byte("correct horse"), nil }

// RSASSA-PSS, the signature that new protocols ask for.
// A process without a right to the TPM uses a key of a running `tpm2-p11 serve --socket`.
func ExampleWithSocket() {
	key, err := signer.Open(context.Background(), "web", signer.WithSocket("/run/tpm2-p11/socket"))
	if err != nil {
		log.Fatal(err)
	}
	defer key.Close()
}

func ExampleKey_Sign() {
	key, err := signer.Open(context.Background(), "release")
	if err != nil {
		log.Fatal(err)
	}
	defer key.Close()

	digest := sha256.Sum256([]byte("release 1.0"))
	pss := &rsa.PSSOptions{Hash: crypto.SHA256, SaltLength: rsa.PSSSaltLengthEqualsHash}
	signature, err := key.Sign(rand.Reader, digest[:], pss)
	if err != nil {
		log.Fatal(err)
	}

	public := key.Public().(*rsa.PublicKey)
	fmt.Println(rsa.VerifyPSS(public, crypto.SHA256, digest[:], signature, pss))
	// Output: <nil>
}

// What was encrypted to the public key opens inside the TPM alone.
func ExampleKey_Decrypt() {
	key, err := signer.Open(context.Background(), "vault")
	if err != nil {
		log.Fatal(err)
	}
	defer key.Close()

	public := key.Public().(*rsa.PublicKey)
	ciphertext, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, public, []byte("the combination"), nil)
	if err != nil {
		log.Fatal(err)
	}
	plaintext, err := key.Decrypt(rand.Reader, ciphertext, &rsa.OAEPOptions{Hash: crypto.SHA256})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", plaintext)
	// Output: the combination
}

// A certificate request for a CA.
func ExampleKey_certificateRequest() {
	key, err := signer.Open(context.Background(), "web")
	if err != nil {
		log.Fatal(err)
	}
	defer key.Close()

	template := &x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: "www.example.org"},
		DNSNames: []string{"www.example.org"},
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		log.Fatal(err)
	}
	request := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})

	fmt.Printf("%.35s\n", request)
	// Output: -----BEGIN CERTIFICATE REQUEST-----
}

// A certificate that the key signs: its own, or as a CA those of others.
func ExampleKey_certificate() {
	key, err := signer.Open(context.Background(), "web")
	if err != nil {
		log.Fatal(err)
	}
	defer key.Close()

	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "www.example.org"},
		DNSNames:     []string{"www.example.org"},
		NotBefore:    time.Now(),
		NotAfter:     time.Now().AddDate(1, 0, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		log.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		log.Fatal(err)
	}

	fmt.Println(certificate.Subject, certificate.SignatureAlgorithm)
	// Output: CN=www.example.org ECDSA-SHA256
}
