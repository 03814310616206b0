package privatekey

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"testing"
)

func TestKeysInTheUsualForms(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8 := func(key crypto.PrivateKey) []byte {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	sec1, err := x509.MarshalECPrivateKey(ecKey)
	if err != nil {
		t.Fatal(err)
	}
	text := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	for name, c := range map[string]struct {
		b    []byte
		want crypto.PrivateKey
	}{
		"PKCS #8":          {pkcs8(rsaKey), rsaKey},
		"PKCS #1":          {x509.MarshalPKCS1PrivateKey(rsaKey), rsaKey},
		"SEC 1":            {sec1, ecKey},
		"PKCS #8 in PEM":   {text("PRIVATE KEY", pkcs8(ecKey)), ecKey},
		"PKCS #1 in PEM":   {text("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey)), rsaKey},
		"openssl's EC key": {append(text("EC PARAMETERS", []byte{6, 1, 0}), text("EC PRIVATE KEY", sec1)...), ecKey},
	} {
		got, err := Parse(c.b)
		if err != nil || !c.want.(interface{ Equal(crypto.PrivateKey) bool }).Equal(got) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, b := range map[string][]byte{
		"nothing": nil, "rubbish": []byte("a password"), "cut short": sec1[:40],
		"a certificate":    text("CERTIFICATE", sec1),
		"an encrypted key": text("ENCRYPTED PRIVATE KEY", sec1[:30]),
	} {
		if key, err := Parse(b); !errors.Is(err, ErrNone) || key != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	Wipe(rsaKey)
	Wipe(ecKey)
	if rsaKey.D.Sign() != 0 && rsaKey.D.BitLen() > 0 && rsaKey.D.Bits()[0] != 0 || ecKey.D.Bits()[0] != 0 {
		t.Error("the numbers are still there")
	}
}

// FuzzParse: any file is a private key, which can be wiped, or an error that does not quote it.
func FuzzParse(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(der)
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	f.Fuzz(func(t *testing.T, b []byte) {
		key, err := Parse(b)
		if err != nil && (err != ErrNone || key != nil) {
			t.Errorf("%v, %v", key, err)
		}
		Wipe(key)
	})
}
