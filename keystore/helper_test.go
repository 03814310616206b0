package keystore

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/internal/tpmtest"
	"github.com/tpm2-p11/tpm2-p11/keystore/tss2"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

// logLines collects what a token logs.
type logLines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logLines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// store is a folder, and the tokens that a test opens on it.
type store struct {
	dir     string
	address string // of the TPM; none for tests of the disk alone
	swtpm   *tpmtest.TPM
	log     *logLines
}

// diskStore is a store whose TPM nobody asks.
func diskStore(t testing.TB) *store {
	return &store{dir: filepath.Join(t.TempDir(), "store"), address: "swtpm:path=/nonexistent/tpm", log: new(logLines)}
}

func tpmStore(t testing.TB) *store {
	swtpm := tpmtest.Start(t)
	return &store{dir: filepath.Join(t.TempDir(), "store"), address: swtpm.Address(), swtpm: swtpm, log: new(logLines)}
}

// open opens the store as another process would.
func (s *store) open(t testing.TB) *Token {
	t.Helper()
	dialer, err := transport.Parse(s.address)
	if err != nil {
		t.Fatal(err)
	}
	tpm := provider.New(dialer)
	t.Cleanup(func() { _ = tpm.Close() })
	token, err := Open(Options{Dir: s.dir, TPM: tpm, Logger: slog.New(slog.NewTextHandler(s.log, nil))})
	must(t, err)
	return token
}

// initialized opens the store and makes a token in it, with PINs unless they are empty.
func (s *store) initialized(t testing.TB, user, so string) *Token {
	t.Helper()
	token := s.open(t)
	o := InitOptions{Label: "test token"}
	if user != "" {
		o.UserPIN, o.SOPIN = pin(user), pin(so)
	}
	must(t, token.Init(context.Background(), o))
	return token
}

// write puts a file into the folder, as somebody else would.
func (s *store) write(t testing.TB, name string, content []byte) {
	t.Helper()
	must(t, os.MkdirAll(s.dir, 0o700))
	must(t, os.WriteFile(filepath.Join(s.dir, name), content, 0o600))
}

func (s *store) read(t testing.TB, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(s.dir, name))
	must(t, err)
	return content
}

// snapshot is the folder's content and when each file was written.
func (s *store) snapshot(t testing.TB) string {
	t.Helper()
	entries, err := os.ReadDir(s.dir)
	must(t, err)
	var b strings.Builder
	for _, e := range entries {
		info, err := e.Info()
		must(t, err)
		fmt.Fprintln(&b, e.Name(), info.Size(), info.ModTime().UnixNano(), string(s.read(t, e.Name())))
	}
	return b.String()
}

// empty empties the folder, as a reboot of an image with a memory-only root does.
func (s *store) empty(t testing.TB) {
	t.Helper()
	must(t, os.RemoveAll(s.dir))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func pin(s string) *secret.Bytes { return secret.From([]byte(s)) }

// softPublic is the public area of a P-256 signing key that no TPM has.
func softPublic(t testing.TB, p policy.Policy) provider.Public {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	digest, err := p.Digest(tpm2.TPMAlgSHA256)
	must(t, err)
	return publicArea(t, &key.PublicKey, digest, tpm2.TPMAObject{
		FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: len(digest) == 0, NoDA: true, SignEncrypt: true,
	})
}

func publicArea(t testing.TB, key *ecdsa.PublicKey, digest []byte, attributes tpm2.TPMAObject) provider.Public {
	t.Helper()
	point, err := key.Bytes()
	must(t, err)
	public, err := provider.ParsePublic(tpm2.Marshal(tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: attributes,
		AuthPolicy: tpm2.TPM2BDigest{Buffer: digest},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Symmetric: tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull},
			Scheme:    tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgNull},
			CurveID:   tpm2.TPMECCNistP256,
			KDF:       tpm2.TPMTKDFScheme{Scheme: tpm2.TPMAlgNull},
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]},
		}),
	}))
	must(t, err)
	return public
}

// pemOf writes a key without a sidecar.
func pemOf(t testing.TB, public provider.Public, p policy.Policy, emptyAuth bool) []byte {
	t.Helper()
	text, err := tss2.Encode(tss2.Key{Object: provider.Object{Public: public, Private: []byte("wrapped")}, Policy: p, EmptyAuth: emptyAuth})
	must(t, err)
	return text
}

// sideOf is a sidecar as this package writes it.
func sideOf(t testing.TB, public provider.Public, label string) sidecar {
	t.Helper()
	key, err := public.Key()
	must(t, err)
	id, err := defaultCKAID(key)
	must(t, err)
	return sidecar{
		Version: formatVersion, Name: hexText(public.Name()), Label: label, CKAID: id, State: Ready, Auth: authEmpty,
		Created: time.Unix(1e9, 0).UTC(),
	}
}

func (s *store) writeSidecar(t testing.TB, id string, side sidecar) {
	t.Helper()
	text, err := side.encode()
	must(t, err)
	s.write(t, id+sidecarSuffix, text)
}

// softKey puts a whole key into the folder.
func (s *store) softKey(t testing.TB, id, label string) provider.Public {
	t.Helper()
	public := softPublic(t, policy.Policy{})
	s.write(t, id+pemSuffix, pemOf(t, public, policy.Policy{}, true))
	s.writeSidecar(t, id, sideOf(t, public, label))
	return public
}

func labels(t testing.TB, token *Token) []string {
	t.Helper()
	entries, err := token.Keys()
	must(t, err)
	var list []string
	for _, e := range entries {
		list = append(list, e.Label)
	}
	return list
}

// selfSigned is a certificate for an entry's public key, by another key.
func selfSigned(t testing.TB, e Entry) *x509.Certificate {
	t.Helper()
	key, err := e.Object.Public.Key()
	must(t, err)
	issuer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: e.Label}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key, issuer)
	must(t, err)
	c, err := x509.ParseCertificate(der)
	must(t, err)
	return c
}

// sign uses a key, and checks what came.
func sign(token *Token, e Entry, ownPIN *secret.Bytes) error {
	auth, err := token.Auth(e, ownPIN)
	if err != nil {
		return err
	}
	defer auth.Value.Wipe()
	key, err := e.Object.Public.Key()
	if err != nil {
		return err
	}
	digest := sha256.Sum256([]byte("what is to be signed"))
	scheme := provider.ECDSA
	if _, ok := key.(*rsa.PublicKey); ok {
		scheme = provider.RSASSA
	}
	sig, err := token.TPM().Sign(context.Background(), e.Object, auth, scheme, crypto.SHA256, digest[:])
	if err != nil {
		return err
	}
	switch key := key.(type) {
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], sig)
	case *ecdsa.PublicKey:
		if ecdsa.Verify(key, digest[:], new(big.Int).SetBytes(sig[:len(sig)/2]), new(big.Int).SetBytes(sig[len(sig)/2:])) {
			return nil
		}
	}
	return fmt.Errorf("the signature does not verify")
}

// signs fails the test when a key does not sign.
func signs(t testing.TB, token *Token, e Entry, ownPIN *secret.Bytes) {
	t.Helper()
	if err := sign(token, e, ownPIN); err != nil {
		t.Errorf("%s does not sign: %v", e, err)
	}
}
