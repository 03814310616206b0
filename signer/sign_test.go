package signer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"strings"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

var hashes = []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512}

func TestRSASignatures(t *testing.T) {
	t.Parallel()
	s := newStore(t, "")
	s.create(keystore.KeySpec{Label: "web", Type: provider.RSA2048})
	k := s.open("web")
	public := k.Public().(*rsa.PublicKey)

	legacy := make([]byte, crypto.SHA1.Size())
	signature, err := k.Sign(nil, append(prefixOf(crypto.SHA1), legacy...), crypto.Hash(0))
	if err != nil {
		t.Fatalf("a SHA-1 DigestInfo of the caller's own: %v", err)
	}
	if err := rsa.VerifyPKCS1v15(public, crypto.SHA1, legacy, signature); err != nil {
		t.Errorf("a SHA-1 DigestInfo of the caller's own: %v", err)
	}
	for _, h := range hashes {
		digest := digestOf(h, "message")
		signature, err := k.Sign(rand.Reader, digest, h)
		if err != nil {
			t.Fatalf("PKCS #1 with %v: %v", h, err)
		}
		if err := rsa.VerifyPKCS1v15(public, h, digest, signature); err != nil {
			t.Errorf("PKCS #1 with %v: %v", h, err)
		}
		again, err := k.Sign(nil, append(prefixOf(h), digest...), crypto.Hash(0))
		if err != nil {
			t.Fatalf("DigestInfo of %v: %v", h, err)
		}
		if string(again) != string(signature) {
			t.Errorf("the DigestInfo of %v signs as something else", h)
		}
		for _, length := range []int{rsa.PSSSaltLengthAuto, rsa.PSSSaltLengthEqualsHash, h.Size()} {
			signature, err := k.Sign(nil, digest, &rsa.PSSOptions{Hash: h, SaltLength: length})
			if err != nil {
				t.Fatalf("PSS with %v, salt %d: %v", h, length, err)
			}
			if err := rsa.VerifyPSS(public, h, digest, signature, &rsa.PSSOptions{SaltLength: h.Size()}); err != nil {
				t.Errorf("PSS with %v, salt %d: %v", h, length, err)
			}
		}
	}
	refuseSigning(t, k, []signingRefusal{
		{"a salt that TPMs do not know", digestOf(crypto.SHA256, ""), &rsa.PSSOptions{Hash: crypto.SHA256, SaltLength: 20}, ErrWrongUse, "sign,decrypt"},
		{"no salt", digestOf(crypto.SHA256, ""), &rsa.PSSOptions{Hash: crypto.SHA256, SaltLength: PSSSaltLengthZero}, ErrWrongUse, "sign,decrypt"},
		{"a negative salt", digestOf(crypto.SHA256, ""), &rsa.PSSOptions{Hash: crypto.SHA256, SaltLength: -7}, ErrLength, "-7"},
		{"PSS without a hash", digestOf(crypto.SHA256, ""), &rsa.PSSOptions{}, ErrAlgorithm, "no hash"},
		{"PSS with SHA-1", make([]byte, 20), &rsa.PSSOptions{Hash: crypto.SHA1}, ErrAlgorithm, "SHA-256"},
		{"content that is no digest", []byte("arbitrary"), crypto.Hash(0), ErrWrongUse, "sign,decrypt"},
		{"a digest too short", make([]byte, 31), crypto.SHA256, ErrLength, "32 bytes, not 31"},
		{"no digest", nil, crypto.SHA256, ErrLength, "not 0"},
		{"SHA-1", make([]byte, 20), crypto.SHA1, ErrAlgorithm, "SHA-256"},
		{"TLS 1.1's hash", make([]byte, 36), crypto.MD5SHA1, ErrAlgorithm, "SHA-256"},
		{"SHA-224", make([]byte, 28), crypto.SHA224, ErrAlgorithm, "SHA-256"},
		{"SHA3-256", make([]byte, 32), crypto.SHA3_256, ErrAlgorithm, "SHA-256"},
		{"a hash nobody knows", make([]byte, 32), crypto.Hash(99), ErrAlgorithm, "SHA-256"},
		{"Ed25519ph", make([]byte, 64), &ed25519.Options{Hash: crypto.Hash(98)}, ErrAlgorithm, "SHA-256"},
		{"no options", make([]byte, 32), nil, nil, "SignerOpts"},
	})
	if _, err := k.Decrypt(nil, make([]byte, 256), &rsa.OAEPOptions{Hash: crypto.SHA256}); !errors.Is(err, ErrWrongUse) {
		t.Errorf("decrypting with a signing key: %v", err)
	}
}

// A key that may decrypt too signs what no TPM knows, encoded here.
func TestRSASignaturesOfKeysForBoth(t *testing.T) {
	t.Parallel()
	s := newStore(t, "")
	s.create(keystore.KeySpec{Label: "both", Type: provider.RSA2048, Use: provider.Use{Sign: true, Decrypt: true}})
	k := s.open("both")
	public := k.Public().(*rsa.PublicKey)

	for _, h := range hashes {
		digest := digestOf(h, "message")
		most := public.Size() - h.Size() - 2
		for _, length := range []int{1, 20, h.Size(), most} {
			o := &rsa.PSSOptions{Hash: h, SaltLength: length}
			signature, err := k.Sign(nil, digest, o)
			if err != nil {
				t.Fatalf("%v, salt of %d: %v", h, length, err)
			}
			if err := rsa.VerifyPSS(public, h, digest, signature, o); err != nil {
				t.Errorf("%v, salt of %d: %v", h, length, err)
			}
		}
		signature, err := k.Sign(nil, digest, &rsa.PSSOptions{Hash: h, SaltLength: PSSSaltLengthZero})
		if err != nil {
			t.Fatalf("%v, no salt: %v", h, err)
		}
		if err := rsa.VerifyPSS(public, h, digest, signature, nil); err != nil {
			t.Errorf("%v, no salt: %v", h, err)
		}
		if rsa.VerifyPSS(public, h, digest, signature, &rsa.PSSOptions{SaltLength: h.Size()}) == nil {
			t.Errorf("%v: there is a salt", h)
		}
	}
	for _, content := range [][]byte{nil, []byte("arbitrary"), make([]byte, 36), make([]byte, public.Size()-11)} {
		signature, err := k.Sign(nil, content, crypto.Hash(0))
		if err != nil {
			t.Fatalf("%d bytes: %v", len(content), err)
		}
		if err := rsa.VerifyPKCS1v15(public, 0, content, signature); err != nil {
			t.Errorf("%d bytes: %v", len(content), err)
		}
	}
	refuseSigning(t, k, []signingRefusal{
		{"a salt that does not fit", digestOf(crypto.SHA256, ""), &rsa.PSSOptions{Hash: crypto.SHA256, SaltLength: 223}, ErrLength, "at most 222"},
		{"content that does not fit", make([]byte, 246), crypto.Hash(0), ErrLength, "at most 245"},
		{"MD5 in a DigestInfo", append(prefixOf(crypto.MD5), make([]byte, 16)...), crypto.Hash(0), ErrAlgorithm, "SHA-256"},
	})
}

func TestECDSASignatures(t *testing.T) {
	t.Parallel()
	s := newStore(t, "")
	for _, kind := range []provider.KeyType{provider.P256, provider.P384, provider.P521} {
		s.create(keystore.KeySpec{Label: string(kind), Type: kind})
		k := s.open(string(kind))
		public := k.Public().(*ecdsa.PublicKey)
		for _, h := range hashes {
			for _, opts := range []crypto.Hash{h, 0} {
				// r or s with leading zeros comes once in 128 signatures; DER must hold anyway.
				digest := digestOf(h, "message")
				signature, err := k.Sign(rand.Reader, digest, opts)
				if err != nil {
					t.Fatalf("%s, %v: %v", kind, h, err)
				}
				if !ecdsa.VerifyASN1(public, digest, signature) {
					t.Errorf("%s, %v: the signature does not verify", kind, h)
				}
			}
		}
		refuseSigning(t, k, []signingRefusal{
			{"SHA-1", make([]byte, 20), crypto.SHA1, ErrAlgorithm, "SHA-256"},
			{"as many bytes as SHA-1 has", make([]byte, 20), crypto.Hash(0), ErrLength, "28 to 64"},
			{"a whole message", make([]byte, 65), crypto.Hash(0), ErrLength, "28 to 64"},
			{"a digest of another hash", make([]byte, 48), crypto.SHA256, ErrLength, "not 48"},
			{"SHA3-256", make([]byte, 32), crypto.SHA3_256, ErrAlgorithm, "SHA-256"},
		})
		if _, err := k.Decrypt(nil, make([]byte, 256), &rsa.OAEPOptions{Hash: crypto.SHA256}); !errors.Is(err, ErrWrongUse) {
			t.Errorf("decrypting with an ECDSA key: %v", err)
		}
		// swtpm serves one client.
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	}
}

type signingRefusal struct {
	name   string
	digest []byte
	opts   crypto.SignerOpts
	is     error
	says   string
}

func refuseSigning(t *testing.T, k *Key, refusals []signingRefusal) {
	t.Helper()
	for _, r := range refusals {
		signature, err := k.Sign(rand.Reader, r.digest, r.opts)
		switch {
		case err == nil || signature != nil:
			t.Errorf("%s was signed", r.name)
		case r.is != nil && !errors.Is(err, r.is):
			t.Errorf("%s: %v is no %v", r.name, err, r.is)
		case !strings.Contains(err.Error(), r.says) || !strings.Contains(err.Error(), k.Label()):
			t.Errorf("%s: %q does not say %q", r.name, err, r.says)
		}
	}
}

func prefixOf(h crypto.Hash) []byte {
	for _, p := range digestInfoPrefixes {
		if p.hash == h {
			return append([]byte(nil), p.prefix...)
		}
	}
	return nil
}
