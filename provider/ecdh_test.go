package provider_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/provider"
)

func ecPublic(t *testing.T, o provider.Object) *ecdsa.PublicKey {
	t.Helper()
	k, err := o.Public.Key()
	if err != nil {
		t.Fatal(err)
	}
	return k.(*ecdsa.PublicKey)
}

// agreed is the secret as the peer computes it.
func agreed(t *testing.T, peer *ecdsa.PrivateKey, public *ecdsa.PublicKey) []byte {
	t.Helper()
	private, err := peer.ECDH()
	if err != nil {
		t.Fatal(err)
	}
	other, err := public.ECDH()
	if err != nil {
		t.Fatal(err)
	}
	z, err := private.ECDH(other)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func TestBothSidesAgreeOnAKey(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	for kind, curve := range map[provider.KeyType]elliptic.Curve{provider.P256: elliptic.P256(), provider.P384: elliptic.P384(), provider.P521: elliptic.P521()} {
		key := b.key(t, provider.Template{Type: kind, Use: provider.Use{Derive: true}}, "")
		for zeros := range 2 { // at the beginning of the secret
			peer, err := ecdsa.GenerateKey(curve, rand.Reader)
			for err == nil && !bytes.HasPrefix(agreed(t, peer, ecPublic(t, key)), make([]byte, zeros)) {
				peer, err = ecdsa.GenerateKey(curve, rand.Reader)
			}
			if err != nil {
				t.Fatal(err)
			}
			b.wire.Reset()
			z, err := b.ECDH(t.Context(), key, provider.Auth{}, &peer.PublicKey)
			if err != nil {
				t.Fatal(err)
			}
			want := agreed(t, peer, ecPublic(t, key))
			if !bytes.Equal(z.Bytes(), want) {
				t.Fatalf("%s: %x, the peer has %x", kind, z.Bytes(), want)
			}
			if b.wire.Saw(want[1:]) {
				t.Errorf("%s: the secret went over the wire", kind)
			}
			z.Wipe()
		}
	}
}

func TestKeysThatDoNotAgree(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	peer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, template := range map[string]provider.Template{
		"a key that signs":       {Type: provider.P256, Use: provider.Use{Sign: true}},
		"a key of another curve": {Type: provider.P384, Use: provider.Use{Derive: true}},
		"an RSA key":             decryptKey,
	} {
		key := b.key(t, template, "")
		b.wire.Reset()
		if _, err := b.ECDH(t.Context(), key, provider.Auth{}, &peer.PublicKey); !errors.Is(err, provider.ErrWrongUse) {
			t.Errorf("%s: %v", name, err)
		}
		if b.wire.Count(tpm2.TPMCCECDHZGen) != 0 {
			t.Errorf("%s: the TPM was asked", name)
		}
	}
}
