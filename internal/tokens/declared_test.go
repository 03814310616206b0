package tokens

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

func TestDeclaredKeys(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	leaf, issuer := certificate(t, "leaf"), certificate(t, "issuer")
	write(t, dir, "web.crt", "the leaf\n"+leaf+"its issuer\n"+issuer)
	s := open(t, configure(t, dir, `
log = "off"
store = "keys"
[[key]]
label = "web"
handle = 0x81000100
policy = "sha256:7"
certificate = "web.crt"
[[key]]
label = "mail"
handle = 0x81000101
type = "p384"
use = "sign,decrypt"
`))
	keys := s.DeclaredFor(0)
	if len(keys) != 2 || keys[0].Err != nil || keys[1].Err != nil {
		t.Fatalf("%v", keys)
	}
	web, mail := keys[0], keys[1]
	if web.Label != "web" || web.Handle != 0x81000100 || web.Type != provider.RSA2048 ||
		web.Use != (provider.Use{Sign: true}) || web.Policy.String() != "sha256:7" {
		t.Errorf("web is %+v", web)
	}
	if len(web.Chain) != 2 || web.Chain[0].Subject.CommonName != "leaf" || web.Chain[1].Subject.CommonName != "issuer" {
		t.Errorf("web's chain is %v", web.Chain)
	}
	if mail.Type != provider.P384 || mail.Use != (provider.Use{Sign: true, Decrypt: true}) || !mail.Policy.IsZero() || mail.Chain != nil {
		t.Errorf("mail is %+v", mail)
	}
}

func TestDeclaredKeysRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "empty.crt", "")
	write(t, dir, "key.crt", certificate(t, "leaf")+"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
	write(t, dir, "broken.crt", certificate(t, "leaf")+"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
	for line, want := range map[string]string{
		`certificate = "absent.crt"`: "no such file",
		`certificate = "empty.crt"`:  "no certificate in PEM form",
		`certificate = "key.crt"`:    "a chain holds certificates alone, not a PRIVATE KEY",
		`certificate = "broken.crt"`: "certificate 2 of the file",
		`certificate = "/"`:          "not a regular file",
	} {
		s := open(t, configure(t, dir, "log = \"off\"\nstore = \"keys\"\n[[key]]\nlabel = \"web\"\nhandle = 0x81000100\n"+line+"\n"))
		err := s.DeclaredFor(0)[0].Err
		start := filepath.Join(dir, `x.conf:3: key "web": `)
		if err == nil || !strings.HasPrefix(err.Error(), start) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %s", line, err, want)
		}
	}
	// What config would never let through.
	for _, k := range []config.Key{{Type: "p256", Use: "verify"}, {Type: "dsa", Use: "sign"}} {
		if _, err := declare(k); err == nil || !strings.Contains(err.Error(), "there are") {
			t.Errorf("%+v: %v", k, err)
		}
	}
}

// A configuration takes the key types that there are, although its package does not know them.
func TestKeyTypesOfAConfiguration(t *testing.T) {
	t.Parallel()
	var known []string
	for _, k := range provider.KeyTypes() {
		known = append(known, string(k))
	}
	if declared := config.KeyTypes(); !slices.Equal(declared, known) {
		t.Errorf("a configuration takes %v, and there are %v", declared, known)
	}
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// certificate makes one in PEM form.
func certificate(t *testing.T, name string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
