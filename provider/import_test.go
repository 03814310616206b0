package provider_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/provider"
)

func TestImportedKeysWork(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	both := provider.Template{Use: provider.Use{Sign: true, Decrypt: true}}
	digest := sha256.Sum256([]byte("a message"))
	for _, tt := range []struct {
		name, authValue string
		key             crypto.Signer
		scheme          provider.SignScheme
		secret          []byte
	}{
		{"RSA-2048", "", rsaKey, provider.RSAPSS, rsaKey.Primes[0].Bytes()},
		{"RSA-2048 with an auth value", "value", rsaKey, provider.RSASSA, rsaKey.Primes[0].Bytes()},
		{"P-256", "va\x00lue\x00", p256, provider.ECDSA, p256.D.Bytes()},
		{"P-384", "", p384, provider.ECDSA, p384.D.Bytes()},
		{"P-521", "", p521, provider.ECDSA, p521.D.Bytes()},
	} {
		b.wire.Reset()
		o, err := b.ImportKey(t.Context(), tt.key, both, pin(tt.authValue))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		public, err := o.Public.Key()
		if err != nil || !tt.key.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(public) {
			t.Errorf("%s: it became another key: %v", tt.name, err)
		}
		if a := o.Public.Attributes(); a.FixedTPM || a.FixedParent || a.SensitiveDataOrigin {
			t.Errorf("%s: attributes %+v", tt.name, a)
		}
		if _, err := b.Sign(t.Context(), o, provider.Auth{Value: pin(tt.authValue)}, tt.scheme, crypto.SHA256, digest[:]); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if b.wire.Saw(tt.secret) || tt.authValue != "" && b.wire.Saw([]byte(tt.authValue)) {
			t.Errorf("%s: the key or its auth value went over the wire", tt.name)
		}
	}
	o, err := b.ImportKey(t.Context(), rsaKey, both, nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := rsa.EncryptOAEP(crypto.SHA256.New(), rand.Reader, &rsaKey.PublicKey, []byte("message"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := b.DecryptOAEP(t.Context(), o, provider.Auth{}, crypto.SHA256, nil, c); err != nil || string(plain.Bytes()) != "message" {
		t.Errorf("decryption with an imported key: %v", err)
	}
}

func TestAnImportedKeyIsBoundToItsPolicy(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	p := b.bound(t, currentPCRs(7))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	o, err := b.ImportKey(t.Context(), key, provider.Template{Use: provider.Use{Sign: true}, AuthPolicy: digestOf(t, p)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.trySign(t.Context(), o, provider.Auth{Policy: p}); err != nil {
		t.Error(err)
	}
	if err := b.trySign(t.Context(), o, provider.Auth{}); !errors.Is(err, provider.ErrPolicy) {
		t.Errorf("with the empty password: %v", err)
	}
	b.extend(t, 7)
	if err := b.trySign(t.Context(), o, provider.Auth{Policy: p}); !errors.Is(err, provider.ErrPolicy) {
		t.Errorf("after PCR 7 changed: %v", err)
	}
}

func TestKeysThatNoTPMTakes(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	threePrimes := *good
	threePrimes.Primes = append(threePrimes.Primes, good.Primes[0])
	exponent := *good
	exponent.E = 3
	b.wire.Reset()
	for name, key := range map[string]crypto.PrivateKey{
		"P-224": p224, "three primes": &threePrimes, "exponent 3": &exponent, "no key at all": "key",
	} {
		if _, err := b.ImportKey(t.Context(), key, signKey, nil); !errors.Is(err, provider.ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(b.wire.Exchanges()); n != 0 {
		t.Errorf("%d commands were sent", n)
	}
}
