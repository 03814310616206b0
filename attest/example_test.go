package attest_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"time"

	"github.com/tpm2-p11/tpm2-p11/attest"
	"github.com/tpm2-p11/tpm2-p11/provider"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

// A service that lets in machines of one image. PCR 4 is the measurement of
// what was booted.
func ExampleVerifier() {
	var image []byte // SHA-384, 48 bytes, from the image's build
	verifier := attest.NewVerifier(attest.Policy{PCRs: map[int][]byte{4: image}}, time.Minute)

	http.HandleFunc("GET /challenge", func(w http.ResponseWriter, r *http.Request) {
		w.Write(verifier.Challenge())
	})
	http.HandleFunc("POST /attest", func(w http.ResponseWriter, r *http.Request) {
		document, err := io.ReadAll(http.MaxBytesReader(w, r.Body, attest.MaxSize))
		if err != nil {
			http.Error(w, "the document is too large", http.StatusRequestEntityTooLarge)
			return
		}
		// The peer's TLS key is the one that the document names.
		peer := r.TLS.PeerCertificates[0].RawSubjectPublicKeyInfo
		claims, err := verifier.Verify(document, peer)
		if err != nil {
			http.Error(w, "not attested", http.StatusForbidden)
			return
		}
		fmt.Fprintf(w, "welcome, %s\n", claims.Instance())
	})
}

// What a peer sends to such a service.
func ExampleDocument() {
	dialer, err := transport.Parse("device:/dev/tpmrm0")
	if err != nil {
		log.Fatal(err)
	}
	tpm := provider.New(dialer)
	defer tpm.Close()

	var publicKey []byte // of its TLS certificate, DER
	challenge, err := http.Get("https://service.example.com/challenge")
	if err != nil {
		log.Fatal(err)
	}
	defer challenge.Body.Close()
	nonce, err := io.ReadAll(challenge.Body)
	if err != nil {
		log.Fatal(err)
	}
	document, err := attest.Document(context.Background(), tpm, attest.Request{Nonce: nonce, PublicKey: publicKey})
	if err != nil {
		log.Fatal(err)
	}
	answer, err := http.Post("https://service.example.com/attest", "application/cose", bytes.NewReader(document))
	if err != nil {
		log.Fatal(err)
	}
	defer answer.Body.Close()
	fmt.Println(answer.Status)
}
