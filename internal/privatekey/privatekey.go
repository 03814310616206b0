// Package privatekey reads private keys from outside, on their way into a TPM.
package privatekey

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"slices"
	"strings"
)

// ErrNone is told without its cause, which could quote the key.
var ErrNone = errors.New("it is no private key: PKCS#8, PKCS#1 or SEC 1 is wanted, in DER or PEM, not encrypted")

// Parse reads a private key in the usual forms: PKCS #8, PKCS #1 or SEC 1, in DER, or in the first block of PEM that holds one.
func Parse(b []byte) (crypto.PrivateKey, error) {
	for rest := b; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return parseDER(b)
		}
		defer clear(block.Bytes)
		if strings.HasSuffix(block.Type, "PRIVATE KEY") { // openssl puts the curve's parameters before an EC key
			return parseDER(block.Bytes)
		}
	}
}

func parseDER(b []byte) (crypto.PrivateKey, error) {
	if key, err := x509.ParsePKCS8PrivateKey(b); err == nil {
		return key, nil
	}
	if key, err := x509.ParsePKCS1PrivateKey(b); err == nil {
		return key, nil
	}
	if key, err := x509.ParseECPrivateKey(b); err == nil {
		return key, nil
	}
	return nil, ErrNone
}

// Wipe overwrites the numbers of a private key that nobody uses any more, as far as they can be reached.
func Wipe(key crypto.PrivateKey) {
	switch k := key.(type) {
	case *rsa.PrivateKey:
		wipe(append(slices.Clone(k.Primes), k.D, k.Precomputed.Dp, k.Precomputed.Dq, k.Precomputed.Qinv)...)
	case *ecdsa.PrivateKey:
		wipe(k.D)
	}
}

func wipe(all ...*big.Int) {
	for _, n := range all {
		if n != nil {
			clear(n.Bits())
		}
	}
}
