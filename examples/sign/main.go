// Command sign signs a file with a key that never leaves the TPM. When the key's policy is not met, it says which part of it.
//
//	go run ./examples/sign web contract.txt > contract.sig
package main

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"flag"
	"log"
	"os"

	"github.com/tpm2-p11/tpm2-p11/signer"
)

func main() {
	log.SetFlags(0)
	pinFile := flag.String("pin-file", "", "file with the PIN of the token or the key")
	flag.Parse()
	if flag.NArg() != 2 {
		log.Fatal("usage: sign [-pin-file FILE] KEY FILE")
	}
	text, err := os.ReadFile(flag.Arg(1))
	if err != nil {
		log.Fatal(err)
	}
	var options []signer.Option
	if *pinFile != "" {
		options = append(options, signer.WithPIN(func() ([]byte, error) { return os.ReadFile(*pinFile) }))
	}

	signature, err := sign(flag.Arg(0), text, options...)
	var refused *signer.PolicyError
	switch {
	case errors.As(err, &refused):
		log.Fatalf("a %T is not met: %v", refused.Node, refused) // a policy.PCR is not met: policy "web": sha256 PCR7 is …
	case errors.Is(err, signer.ErrPINNeeded), errors.Is(err, signer.ErrKeyPINNeeded):
		log.Fatalf("a PIN is needed: %v", err)
	case errors.Is(err, signer.ErrPIN):
		log.Fatalf("the PIN is wrong: %v", err)
	case err != nil:
		log.Fatal(err)
	}
	if _, err := os.Stdout.Write(signature); err != nil {
		log.Fatal(err)
	}
}

// sign makes a signature over the SHA-256 of a text: PKCS #1 v1.5 with an RSA key, else ECDSA.
func sign(name string, text []byte, options ...signer.Option) ([]byte, error) {
	key, err := signer.Open(context.Background(), name, options...)
	if err != nil {
		return nil, err
	}
	defer key.Close()
	digest := sha256.Sum256(text)
	return key.Sign(rand.Reader, digest[:], crypto.SHA256)
}
