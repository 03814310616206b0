package cms_test

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	sim "github.com/tpm2-p11/tpm2-p11/internal/nitrosim/cms"
	"github.com/tpm2-p11/tpm2-p11/kms/cms"
)

// openssl runs a subcommand on some input in a folder.
func openssl(t *testing.T, dir string, input []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("openssl", args...)
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(input)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("openssl %q: %v\n%s", args, err, stderr.String())
	}
	return out
}

// withCertificate gives a folder with a certificate of the recipient key, whose
// subjectKeyIdentifier is the one that KMS uses, and the key itself.
func withCertificate(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	id, err := cms.RecipientID(recipient().Public())
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "recipient"}, SubjectKeyId: id[:],
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, recipient().Public(), recipient())
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(recipient())
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"certificate.pem": {Type: "CERTIFICATE", Bytes: certificate},
		"key.pem":         {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestMessagesOfOpenSSLOpen(t *testing.T) {
	t.Parallel()
	dir := withCertificate(t)
	encrypt := []string{"cms", "-encrypt", "-binary", "-outform", "DER", "-aes-256-cbc", "-recip", "certificate.pem", "-keyid",
		"-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha256", "-keyopt", "rsa_mgf1_md:sha256"}
	for name, args := range map[string][]string{"whole": encrypt, "streamed": append(encrypt, "-stream")} {
		for _, n := range []int{1, 32, 1000, 20000} {
			want := make([]byte, n)
			rand.Read(want)
			got, err := cms.Open(t.Context(), openssl(t, dir, want, args...), recipient())
			if err != nil {
				t.Fatalf("%s, %d bytes: %v", name, n, err)
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("%s, %d bytes: another plaintext", name, n)
			}
		}
	}
}

func TestMessagesOfOpenSSLThatKMSWouldNotMakeAreRefused(t *testing.T) {
	t.Parallel()
	dir := withCertificate(t)
	oaep := []string{"-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha256"}
	for name, args := range map[string][]string{
		"PKCS #1 v1.5":           {"-aes-256-cbc", "-keyid"},
		"OAEP with SHA-1":        {"-aes-256-cbc", "-keyid", "-keyopt", "rsa_padding_mode:oaep"},
		"MGF1 with SHA-1":        append([]string{"-aes-256-cbc", "-keyid", "-keyopt", "rsa_mgf1_md:sha1"}, oaep...),
		"AES-128":                append([]string{"-aes-128-cbc", "-keyid"}, oaep...),
		"issuer and serial":      append([]string{"-aes-256-cbc"}, oaep...),
		"a label":                append([]string{"-aes-256-cbc", "-keyid", "-keyopt", "rsa_oaep_label:6b6d73"}, oaep...),
		"AES-256-GCM, enveloped": append([]string{"-aes-256-gcm", "-keyid"}, oaep...),
	} {
		args = append([]string{"cms", "-encrypt", "-binary", "-outform", "DER", "-recip", "certificate.pem"}, args...)
		refused(t, name, openssl(t, dir, []byte("data key"), args...))
	}
}

// What the emulator writes, others read too.
func TestOpenSSLOpensTheEmulatorsMessages(t *testing.T) {
	t.Parallel()
	dir := withCertificate(t)
	for name, form := range forms {
		want := []byte("a data key, " + name)
		message, err := sim.Encrypt(&recipient().PublicKey, want, form)
		if err != nil {
			t.Fatal(err)
		}
		got := openssl(t, dir, message, "cms", "-decrypt", "-inform", "DER", "-binary", "-inkey", "key.pem", "-recip", "certificate.pem")
		if !bytes.Equal(got, want) {
			t.Errorf("%s: got %q", name, got)
		}
	}
}
