package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"strings"
	"testing"
)

func TestSubjects(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, want string }{
		{"CN=www.example.com", "CN=www.example.com"},
		{"cn=a, O=Example\\, Inc. , C=DE", "CN=a,O=Example\\, Inc.,C=DE"},
		{`CN=back\\slash`, `CN=back\\slash`},
	} {
		name, err := parseSubject(c.in)
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		var got []string
		for _, a := range name.ExtraNames {
			for short, oid := range attributeTypes {
				if oid.Equal(a.Type) {
					got = append(got, short+"="+strings.NewReplacer(`\`, `\\`, ",", `\,`).Replace(a.Value.(string)))
				}
			}
		}
		if strings.Join(got, ",") != c.want {
			t.Errorf("%s: %v, want %s", c.in, got, c.want)
		}
	}
	for _, bad := range []string{"", "www", "CN=", "CN=a,", "XX=a", `CN=a\`, "=a"} {
		if name, err := parseSubject(bad); err == nil {
			t.Errorf("%q was taken as %v", bad, name)
		}
	}
}

func TestTPMTSignaturesSurviveARoundTrip(t *testing.T) {
	t.Parallel()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	digest := bytes.Repeat([]byte{7}, 32)
	for _, c := range []struct {
		key    crypto.Signer
		scheme string
	}{{rsaKey, schemePSS}, {rsaKey, schemePKCS1}, {ecKey, schemeECDSA}} {
		raw, err := c.key.Sign(rand.Reader, digest, signerOpts(c.scheme, crypto.SHA256))
		if err != nil {
			t.Fatal(err)
		}
		made := signature{raw: raw, scheme: c.scheme, hash: crypto.SHA256}
		encoded, err := encodeTPMT(made)
		if err != nil {
			t.Fatal(err)
		}
		read, err := parseSignature(encoded, c.key.Public())
		if err != nil || read.scheme != c.scheme || read.hash != crypto.SHA256 || !bytes.Equal(read.raw, raw) {
			t.Errorf("%s: %+v, %v", c.scheme, read, err)
		}
		if err := read.check(c.key.Public(), digest); err != nil {
			t.Errorf("%s: %v", c.scheme, err)
		}
		for n := range encoded {
			if s, err := parseTPMT(encoded[:n]); err == nil {
				t.Fatalf("%s: the first %d bytes were taken as %+v", c.scheme, n, s)
			}
		}
		if s, err := parseTPMT(append(bytes.Clone(encoded), 0)); err == nil {
			t.Errorf("%s: a byte too many was taken as %+v", c.scheme, s)
		}
	}
}

func FuzzParseSignature(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{"", "0", "\x00\x18\x00\x0b\x00\x01\x01\x00\x01\x02", "\x00\x16\x00\x0b\x00\x02ab", "\x00\x14\xff\xff", "\x00\x10"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := parseSignature(b, &key.PublicKey); err == nil && s.check(&key.PublicKey, make([]byte, 32)) == nil {
			t.Error("a made-up signature is valid")
		}
	})
}
