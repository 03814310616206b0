package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	_ "crypto/sha256"
	_ "crypto/sha512"
	"fmt"
	"io"

	"github.com/google/go-tpm/tpm2"
)

// hashes are the digests that keys sign and OAEP takes, with their TPM algorithms.
var hashes = []struct {
	name string
	hash crypto.Hash
	alg  tpm2.TPMIAlgHash
}{
	{"sha256", crypto.SHA256, tpm2.TPMAlgSHA256},
	{"sha384", crypto.SHA384, tpm2.TPMAlgSHA384},
	{"sha512", crypto.SHA512, tpm2.TPMAlgSHA512},
}

func parseHash(flag, s string) (crypto.Hash, error) {
	for _, h := range hashes {
		if h.name == s {
			return h.hash, nil
		}
	}
	return 0, usagef("%s %s: there is sha256, sha384 and sha512", flag, s)
}

func hashName(h crypto.Hash) string {
	for _, known := range hashes {
		if known.hash == h {
			return known.name
		}
	}
	return h.String()
}

func tpmHash(h crypto.Hash) tpm2.TPMIAlgHash {
	for _, known := range hashes {
		if known.hash == h {
			return known.alg
		}
	}
	return tpm2.TPMAlgNull
}

func hashOfTPM(alg tpm2.TPMIAlgHash) (crypto.Hash, error) {
	for _, known := range hashes {
		if known.alg == alg {
			return known.hash, nil
		}
	}
	return 0, fmt.Errorf("the signature's hash algorithm 0x%04x is not one of sha256, sha384, sha512", uint16(alg))
}

// The signature schemes as --scheme takes them.
const (
	schemePSS   = "pss"
	schemePKCS1 = "pkcs1"
	schemeECDSA = "ecdsa"
)

// schemeFor checks a scheme against a key; "" is the key's default.
func schemeFor(key crypto.PublicKey, scheme string) (string, error) {
	switch scheme {
	case "", schemePSS, schemePKCS1, schemeECDSA:
	default:
		return "", usagef("--scheme %s: there is pss, pkcs1 and ecdsa", scheme)
	}
	switch key.(type) {
	case *rsa.PublicKey:
		if scheme == schemeECDSA {
			return "", usagef("--scheme ecdsa: the key is an RSA key")
		}
		if scheme == "" {
			return schemePSS, nil
		}
	case *ecdsa.PublicKey:
		if scheme != "" && scheme != schemeECDSA {
			return "", usagef("--scheme %s: the key is an elliptic-curve key", scheme)
		}
		return schemeECDSA, nil
	}
	return scheme, nil
}

// signerOpts is a scheme as crypto.Signer takes it.
func signerOpts(scheme string, h crypto.Hash) crypto.SignerOpts {
	if scheme == schemePSS {
		return &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: h}
	}
	return h
}

// digest hashes the input that --in names, or takes it as the digest itself.
func (a *app) digest(in string, h crypto.Hash, isDigest bool) ([]byte, error) {
	r, err := a.reader("--in", in)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if isDigest {
		d, err := io.ReadAll(io.LimitReader(r, int64(h.Size())+1))
		if err != nil {
			return nil, err
		}
		if len(d) != h.Size() {
			return nil, withHint(fmt.Errorf("%s is not a %s digest: it must be %d bytes", inputName(in), hashName(h), h.Size()), "leave out --digest to have the input hashed")
		}
		return d, nil
	}
	sum := h.New()
	if _, err := io.Copy(sum, r); err != nil {
		return nil, err
	}
	return sum.Sum(nil), nil
}
