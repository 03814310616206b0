// Command attested-tls is a service that lets in machines of one image, and a
// client that is let in. The client's TLS key is a key of its TPM; the client
// asks its NitroTPM for an attestation document that names this key and the
// service's challenge, and the service verifies that under AWS's root.
//
//	go run ./examples/attested-tls -serve 127.0.0.1:8443 -pcr4 8c10… service
//	go run ./examples/attested-tls -enter https://127.0.0.1:8443 web
//
// The last argument names a key of the store with a certificate, which
// `tpm2-p11 key self-sign` makes.
//
// Mutual TLS proves that the peer has the key, the document that the machine's
// NitroTPM was asked to vouch for it. That the key is in a TPM is the word of
// the machine's software, which the document's PCRs identify.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/tpm2-p11/tpm2-p11/attest"
	"github.com/tpm2-p11/tpm2-p11/provider"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
	"github.com/tpm2-p11/tpm2-p11/signer"
)

func main() {
	listen := flag.String("serve", "", "serve at this address")
	pcr4 := flag.String("pcr4", "", "PCR 4 of the image whose machines are let in, SHA-384 in hex")
	url := flag.String("enter", "", "enter the service at this URL")
	trusted := flag.String("trust", "", "PEM file with the service's certificate")
	address := flag.String("tpm", "", "the TPM's address")
	flag.Parse()
	if flag.NArg() != 1 || (*listen == "") == (*url == "") {
		log.Fatal("usage: attested-tls -serve ADDRESS -pcr4 HEX KEY, or attested-tls -enter URL [-trust FILE] KEY")
	}

	ctx := context.Background()
	key, err := signer.Open(ctx, flag.Arg(0))
	if err != nil {
		log.Fatal(err)
	}
	defer key.Close()
	certificate, err := key.TLSCertificate()
	if err != nil {
		log.Fatal(err)
	}

	if *listen != "" {
		image, err := hex.DecodeString(*pcr4)
		if err != nil || len(image) != 48 {
			log.Fatal("-pcr4 takes 96 hex digits")
		}
		verifier := attest.NewVerifier(attest.Policy{PCRs: map[int][]byte{4: image}}, time.Minute)
		server := &http.Server{Addr: *listen, Handler: newDoor(verifier), TLSConfig: serverTLS(certificate), ReadHeaderTimeout: 10 * time.Second}
		log.Fatal(server.ListenAndServeTLS("", ""))
	}

	roots := x509.NewCertPool()
	if *trusted != "" {
		pem, err := os.ReadFile(*trusted)
		if err != nil {
			log.Fatal(err)
		}
		roots.AppendCertsFromPEM(pem)
	}
	dialer, err := transport.Parse(*address)
	if err != nil {
		log.Fatal(err)
	}
	tpm := provider.New(dialer)
	defer tpm.Close()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
		Certificates: []tls.Certificate{certificate}, RootCAs: roots, MinVersion: tls.VersionTLS13,
	}}}
	if err := enter(ctx, client, *url, tpm, certificate.Leaf); err != nil {
		log.Fatal(err)
	}
	answer, err := fetch(ctx, client, http.MethodGet, *url, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s", answer)
}
