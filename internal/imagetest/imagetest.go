// Package imagetest builds unified kernel images for tests, from Debian's
// systemd-stub with binutils, and signs them with sbsign.
package imagetest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"debug/pe"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Images of Debian's package systemd-boot-efi.
const (
	Stub   = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"
	Loader = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi"
)

// Part is a section of a UKI.
type Part struct{ Name, Content string }

// Parts are those of an ordinary UKI; what stands for its kernel is a real application.
func Parts(t testing.TB, commandLine string) []Part {
	t.Helper()
	return []Part{
		{".osrel", "ID=test\n"}, {".cmdline", commandLine}, {".uname", "6.1.0"},
		{".linux", string(Read(t, Loader))}, {".initrd", "an initrd"},
	}
}

// UKI puts parts into the stub, in their order. A name may come twice.
func UKI(t testing.TB, parts ...Part) []byte {
	t.Helper()
	dir := t.TempDir()
	at := end(t, Stub)
	var add, rename []string
	for n, p := range parts {
		file, name := filepath.Join(dir, fmt.Sprint("part", n)), fmt.Sprint(".part", n)
		write(t, file, []byte(p.Content))
		add = append(add, "--add-section", name+"="+file, "--set-section-flags", name+"=data,readonly",
			"--change-section-vma", fmt.Sprintf("%s=0x%x", name, at))
		rename = append(rename, "--rename-section", name+"="+p.Name)
		at += align(uint64(len(p.Content)))
	}
	added, out := filepath.Join(dir, "added.efi"), filepath.Join(dir, "uki.efi")
	Run(t, "objcopy", append(add, Stub, added)...)
	Run(t, "objcopy", append(rename, added, out)...)
	return Read(t, out)
}

// WithStub makes an image say that its stub has another version, of three digits.
func WithStub(t testing.TB, image []byte, version string) []byte {
	t.Helper()
	const magic = "#### LoaderInfo: systemd-stub "
	at := bytes.Index(image, []byte(magic))
	if at < 0 || len(version) != 3 {
		t.Fatalf("no stub of systemd's, or version %q", version)
	}
	changed := bytes.Clone(image)
	copy(changed[at+len(magic):], version)
	return changed
}

// end is the first free address behind an image's sections, in memory.
func end(t testing.TB, path string) uint64 {
	t.Helper()
	f, err := pe.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	last := f.Sections[len(f.Sections)-1]
	return f.OptionalHeader.(*pe.OptionalHeader64).ImageBase + align(uint64(last.VirtualAddress+last.VirtualSize))
}

func align(n uint64) uint64 { return (n + 0xfff) &^ 0xfff }

// Authority is a certificate and its key.
type Authority struct {
	Key         crypto.Signer
	Certificate *x509.Certificate
}

// NewAuthority makes a certificate authority that issuer signs, itself where issuer is nil. It has an RSA key, as sbsign needs.
func NewAuthority(t testing.TB, name string, issuer *Authority) *Authority {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return issue(t, name, key, issuer)
}

// NewECAuthority is NewAuthority with a P-256 key.
func NewECAuthority(t testing.TB, name string) *Authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return issue(t, name, key, nil)
}

func issue(t testing.TB, name string, key crypto.Signer, issuer *Authority) *Authority {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1, 0), // firmware does not look at dates
		IsCA: true, BasicConstraintsValid: true,
	}
	a := &Authority{Key: key, Certificate: template}
	if issuer == nil {
		issuer = a
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer.Certificate, key.Public(), issuer.Key)
	if err != nil {
		t.Fatal(err)
	}
	if a.Certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

// Files writes the key and the certificate in PEM, and gives their paths.
func (a *Authority) Files(t testing.TB) (key, certificate string) {
	t.Helper()
	dir := t.TempDir()
	der, err := x509.MarshalPKCS8PrivateKey(a.Key)
	if err != nil {
		t.Fatal(err)
	}
	key, certificate = filepath.Join(dir, "key.pem"), filepath.Join(dir, "certificate.pem")
	write(t, key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	write(t, certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Certificate.Raw}))
	return key, certificate
}

// Sign adds a signature to an image. Certificates of others go into it, for the chain.
func (a *Authority) Sign(t testing.TB, image []byte, others ...*Authority) []byte {
	t.Helper()
	dir := t.TempDir()
	in, out, key := filepath.Join(dir, "in"), filepath.Join(dir, "out"), filepath.Join(dir, "key")
	write(t, in, image)
	keyFile, certificate := a.Files(t)
	Run(t, "openssl", "pkey", "-in", keyFile, "-traditional", "-out", key)
	args := []string{"--key", key, "--cert", certificate, "--output", out}
	if len(others) > 0 {
		var chain bytes.Buffer
		for _, o := range others {
			chain.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: o.Certificate.Raw}))
		}
		write(t, filepath.Join(dir, "chain"), chain.Bytes())
		args = append(args, "--addcert", filepath.Join(dir, "chain"))
	}
	Run(t, "sbsign", append(args, in)...)
	return Read(t, out)
}

// Database is the file of a signature database that holds certificates, as efitools make it.
func Database(t testing.TB, entries ...*Authority) string {
	t.Helper()
	dir := t.TempDir()
	var all bytes.Buffer
	for n, a := range entries {
		_, certificate := a.Files(t)
		list := filepath.Join(dir, fmt.Sprint("list", n))
		Run(t, "cert-to-efi-sig-list", "-g", fmt.Sprintf("00000000-0000-0000-0000-%012d", n+1), certificate, list)
		all.Write(Read(t, list))
	}
	path := filepath.Join(dir, "database.esl")
	write(t, path, all.Bytes())
	return path
}

// Run runs a program and gives what it prints on standard output.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, stderr.String())
	}
	return stdout.String()
}

// Read reads a file.
func Read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
