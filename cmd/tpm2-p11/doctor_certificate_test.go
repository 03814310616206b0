package main

import (
	"crypto/ed25519"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"
)

// A server that nobody renewed the certificate of, and one whose clock went back.
func TestDoctorOnCertificatesThatNobodyTakes(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run("init", "--no-pin")
	m.run("key", "create", "web", "--type", "p256")
	block, _ := pem.Decode([]byte(m.run("key", "public", "web")))
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	_, issuer, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for _, c := range []struct {
		from, until time.Duration
		want        string
	}{
		{-48 * time.Hour, -24 * time.Hour, "CN=www ended on " + now.Add(-24*time.Hour).UTC().Format(time.DateOnly) + " - `tpm2-p11 key csr web` asks for another one"},
		{24 * time.Hour, 48 * time.Hour, "CN=www begins on " + now.Add(24*time.Hour).UTC().Format(time.DateOnly)},
		{-time.Hour, time.Hour, ""},
	} {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "www"}, NotBefore: now.Add(c.from), NotAfter: now.Add(c.until)}
		der, err := x509.CreateCertificate(nil, template, template, key, issuer)
		if err != nil {
			t.Fatal(err)
		}
		m.run("key", "certificate", "web", m.write("web.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))))
		out := m.run("doctor")
		if c.want == "" {
			if strings.Contains(out, "certificate of") {
				t.Errorf("doctor on a good one:\n%s", out)
			}
			continue
		}
		contains(t, "doctor", out, `warn  certificate of key "web": `+c.want)
	}
}
