package main

import (
	"context"
	"crypto"
	"crypto/rsa"
	"encoding/hex"
	"fmt"
	"os"
	"strconv"

	"github.com/tpm2-p11/tpm2-p11/signer"
)

// signerWorker is the Go package.
//
//	signer URI OPERATION CIPHERTEXT-HEX OPS THREADS PIN-FILE
func signerWorker(args []string) error {
	if len(args) != 6 {
		return fmt.Errorf("signer: %d arguments", len(args))
	}
	ciphertext, err := hex.DecodeString(args[2])
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	threads, err := strconv.Atoi(args[4])
	if err != nil {
		return err
	}
	key, err := signer.Open(context.Background(), args[0], signer.WithPIN(func() ([]byte, error) { return os.ReadFile(args[5]) }))
	if err != nil {
		return err
	}
	defer key.Close()
	digest := make([]byte, crypto.SHA256.Size())
	options := map[string]crypto.SignerOpts{
		"pkcs1": crypto.SHA256,
		"pss":   &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256},
		"ecdsa": crypto.SHA256,
	}
	return batch(n, threads, func() error {
		if args[1] == "oaep" {
			_, err := key.Decrypt(nil, ciphertext, &rsa.OAEPOptions{Hash: crypto.SHA256})
			return err
		}
		_, err := key.Sign(nil, digest, options[args[1]])
		return err
	})
}
