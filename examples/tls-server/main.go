// Command tls-server serves https with a certificate whose private key never
// leaves the TPM.
//
//	go run ./examples/tls-server web
package main

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"log"
	"net/http"

	"github.com/tpm2-p11/tpm2-p11/signer"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8443", "address to listen on")
	flag.Parse()
	if flag.NArg() != 1 {
		log.Fatal("usage: tls-server [-listen ADDRESS] KEY")
	}

	key, err := signer.Open(context.Background(), flag.Arg(0))
	if err != nil {
		log.Fatal(err)
	}
	defer key.Close()
	certificate, err := key.TLSCertificate()
	if err != nil {
		log.Fatal(err)
	}

	server := &http.Server{
		Addr:      *listen,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "hello from %q, a key inside a TPM\n", key.Label())
		}),
	}
	log.Fatal(server.ListenAndServeTLS("", ""))
}
