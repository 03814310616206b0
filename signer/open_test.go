package signer

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/internal/p11uri"
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/internal/tpmtest"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

func TestOpenByEveryName(t *testing.T) {
	t.Parallel()
	s := newStore(t, "")
	web := s.create(keystore.KeySpec{Label: "web", Type: provider.P256})
	s.create(keystore.KeySpec{Label: "wrapped", Type: provider.P256, Wrapped: true})
	s.create(keystore.KeySpec{Label: "twin", Type: provider.P256, CKAID: []byte{1}})
	s.create(keystore.KeySpec{Label: "twin", Type: provider.P256, CKAID: []byte{2}})
	s.create(keystore.KeySpec{Label: "abcd", Type: provider.P256, CKAID: []byte{3}})
	s.create(keystore.KeySpec{Label: "other", Type: provider.P256, CKAID: []byte{0xab, 0xcd}})
	var serial string
	s.with(func(token *keystore.Token) { serial = token.Serial() })

	id := hex.EncodeToString(web.CKAID)
	var percent strings.Builder
	for _, b := range web.CKAID {
		fmt.Fprintf(&percent, "%%%02x", b)
	}
	for name, label := range map[string]string{
		"web":                           "web",
		"wrapped":                       "wrapped",
		id:                              "web",
		strings.ToUpper(id):             "web",
		"01":                            "twin",
		"0x81000100":                    "web",
		"pkcs11:object=web":             "web",
		"PKCS11:object=web?":            "web",
		"pkcs11:id=" + percent.String(): "web",
		"pkcs11:token=token;object=web;type=private?module-path=/nowhere":                         "web",
		"pkcs11:serial=" + serial + ";manufacturer=tpm2-p11;model=TPM%202.0;slot-id=0;object=web": "web",
		"pkcs11:object=twin;id=%02": "twin",
	} {
		k, err := Open(t.Context(), name, s.options()...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if k.Label() != label {
			t.Errorf("%s opened %q", name, k.Label())
		}
		digest := digestOf(crypto.SHA256, name)
		if _, err := k.Sign(nil, digest, crypto.SHA256); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		k.Close()
	}

	for _, c := range []struct {
		name string
		is   error
		says []string
	}{
		{"webb", ErrNotFound, []string{`"webb"`, s.dir, "key list"}},
		{"", ErrNotFound, nil},
		{"0x81000abc", ErrNotFound, []string{"key link 0x81000abc"}},
		{"pkcs11:object=web;token=elsewhere", ErrNotFound, nil},
		{"pkcs11:object=web;slot-id=1", ErrNotFound, nil},
		{"pkcs11:object=web;library-version=1", ErrNotFound, nil},
		{"twin", ErrAmbiguous, []string{"pkcs11:token=token;object=twin;id=%01", "pkcs11:token=token;object=twin;id=%02"}},
		{"abcd", ErrAmbiguous, []string{"object=abcd", "object=other"}},
		{"pkcs11:", ErrAmbiguous, []string{"and 1 more"}},
		{"pkcs11:object=web;type=cert", p11uri.ErrSyntax, []string{"private key is wanted"}},
		{"pkcs11:object=web;colour=red", p11uri.ErrSyntax, []string{"colour"}},
		{"pkcs11:object=web?pin-value=hunter2", p11uri.ErrSyntax, []string{"pin-source"}},
		{"pkcs11:object=web;pin-value=hunter2", p11uri.ErrSyntax, []string{"pin-source"}},
	} {
		err := s.refusal(c.name)
		if !errors.Is(err, c.is) {
			t.Errorf("%s: %v is no %v", c.name, err, c.is)
		}
		for _, words := range c.says {
			if !strings.Contains(err.Error(), words) {
				t.Errorf("%s: %q does not say %q", c.name, err, words)
			}
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q holds the PIN", err)
		}
	}

	if sum := sha1.Sum(publicBits(t, s)); string(sum[:]) != string(web.CKAID) {
		t.Error("the default CKA_ID is not the SHA-1 of the public key bits")
	}
}

func publicBits(t *testing.T, s *store) []byte {
	t.Helper()
	k := s.open("web")
	defer k.Close()
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return der[len(der)-65:] // the uncompressed point ends it
}

// Two tokens of one configuration may hold keys of one label.
func TestOpenAcrossTokens(t *testing.T) {
	t.Parallel()
	tpm := tpmtest.Start(t)
	one, two := newStoreOn(t, tpm, "one", ""), newStoreOn(t, tpm, "two", "")
	one.create(keystore.KeySpec{Label: "web", Type: provider.P256})
	two.create(keystore.KeySpec{Label: "web", Type: provider.P256})
	two.create(keystore.KeySpec{Label: "mail", Type: provider.P256})

	conf := filepath.Join(t.TempDir(), "tpm2-p11.conf")
	text := ""
	for i, s := range []*store{one, two} {
		text += fmt.Sprintf("[[token]]\nlabel = \"token %d\"\ntpm = %q\nstore = %q\n", i, tpm.Address(), s.dir)
	}
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"mail", "pkcs11:token=two;object=web", "pkcs11:slot-id=1;object=web"} {
		k, err := Open(t.Context(), name, WithConfig(conf))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, err := k.Sign(nil, digestOf(crypto.SHA256, name), crypto.SHA256); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		k.Close()
	}
	_, err := Open(t.Context(), "web", WithConfig(conf))
	if !errors.Is(err, ErrAmbiguous) || !strings.Contains(err.Error(), "token=one") || !strings.Contains(err.Error(), "token=two") {
		t.Errorf("web in both tokens: %v", err)
	}
	if _, err := Open(t.Context(), "mail", WithConfig(conf), WithStore(two.dir)); err == nil || !strings.Contains(err.Error(), "several tokens") {
		t.Errorf("a store for two tokens: %v", err)
	}
	if _, err := Open(t.Context(), "mail", WithConfig(conf+".none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a configuration that is not there: %v", err)
	}
}

func TestOpenSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	s := newStore(t, "")
	s.create(keystore.KeySpec{Label: "persistent", Type: provider.P256})
	s.create(keystore.KeySpec{Label: "wrapped", Type: provider.P256, Wrapped: true})

	_, err := Open(t.Context(), "web", WithTPM(s.tpm.Address()), WithStore(filepath.Join(t.TempDir(), "none")))
	if !errors.Is(err, ErrNotInitialized) || !strings.Contains(err.Error(), "tpm2-p11 init") {
		t.Errorf("no store: %v", err)
	}
	nowhere := "swtpm:path=" + filepath.Join(t.TempDir(), "none")
	for _, name := range []string{"persistent", "wrapped"} {
		_, err := Open(t.Context(), name, WithTPM(nowhere), WithStore(s.dir))
		if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), nowhere) {
			t.Errorf("no TPM: %v", err)
		}
	}
	if _, err := Open(t.Context(), "persistent", WithTPM("parallel:/dev/lp0"), WithStore(s.dir)); err == nil {
		t.Error("an address of no kind was taken")
	}

	other := newStore(t, "")
	elsewhere := func(name string, is error) {
		t.Helper()
		k, err := Open(t.Context(), name, WithTPM(other.tpm.Address()), WithStore(s.dir))
		if err == nil {
			k.Close()
		}
		if !errors.Is(err, is) {
			t.Errorf("%s with another TPM: %v", name, err)
		}
	}
	elsewhere("persistent", provider.ErrParentChanged) // neither at its handle nor to be loaded
	elsewhere("wrapped", provider.ErrParentChanged)
	other.create(keystore.KeySpec{Label: "there", Type: provider.P256}) // at the same handle
	elsewhere("persistent", ErrOtherObject)
}

func TestTokensWithPIN(t *testing.T) {
	t.Parallel()
	s := newStore(t, "correct horse")
	s.create(keystore.KeySpec{Label: "web", Type: provider.P256})
	digest := digestOf(crypto.SHA256, "message")

	if err := s.refusal("web"); !errors.Is(err, ErrPINNeeded) || !strings.Contains(err.Error(), "WithPIN") {
		t.Errorf("no PIN: %v", err)
	}
	if err := s.refusal("web", withPIN("")); !errors.Is(err, ErrPINNeeded) {
		t.Errorf("an empty PIN: %v", err)
	}
	cancelled := errors.New("cancelled")
	if err := s.refusal("web", WithPIN(func() ([]byte, error) { return nil, cancelled })); !errors.Is(err, ErrPINNeeded) || !errors.Is(err, cancelled) {
		t.Errorf("a PIN that nobody entered: %v", err)
	}
	if err := s.refusal("web", withPIN("battery staple")); !errors.Is(err, ErrPIN) || strings.Contains(err.Error(), "staple") {
		t.Errorf("a wrong PIN: %v", err)
	}

	given := []byte("correct horse")
	k := s.open("web", WithPIN(func() ([]byte, error) { return given, nil }))
	if strings.Trim(string(given), "\x00") != "" {
		t.Error("the callback's slice was not wiped")
	}
	if _, err := k.Sign(nil, digest, crypto.SHA256); err != nil {
		t.Error(err)
	}
	k.Close()

	file := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(file, []byte("correct horse\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	k = s.open("pkcs11:object=web?pin-source=file:" + file)
	if _, err := k.Sign(nil, digest, crypto.SHA256); err != nil {
		t.Error(err)
	}
	k.Close()
	if err := s.refusal("pkcs11:object=web?pin-source=" + file + ".none"); !errors.Is(err, p11uri.ErrPINFile) {
		t.Errorf("no PIN file: %v", err)
	}
}

func TestKeysWithTheirOwnPIN(t *testing.T) {
	t.Parallel()
	s := newStore(t, "")
	own := secret.From([]byte("key's own"))
	defer own.Wipe()
	s.create(keystore.KeySpec{Label: "web", Type: provider.P256, OwnPIN: own})
	digest := digestOf(crypto.SHA256, "message")

	if err := s.refusal("web"); !errors.Is(err, ErrKeyPINNeeded) || !strings.Contains(err.Error(), "WithPIN") {
		t.Errorf("no PIN: %v", err)
	}
	k := s.open("web", withPIN("another"))
	if _, err := k.Sign(nil, digest, crypto.SHA256); !errors.Is(err, ErrPIN) {
		t.Errorf("a wrong PIN: %v", err)
	}
	k.Close()
	k = s.open("web", withPIN("key's own"))
	for range 2 {
		if _, err := k.Sign(nil, digest, crypto.SHA256); err != nil {
			t.Error(err)
		}
	}
}

func withPIN(pin string) Option { return WithPIN(func() ([]byte, error) { return []byte(pin), nil }) }

// The module and the command open tokens themselves.
func TestForEntry(t *testing.T) {
	t.Parallel()
	s := newStore(t, "1234")
	entry := s.create(keystore.KeySpec{Label: "web", Type: provider.RSA2048})
	s.with(func(token *keystore.Token) {
		k, err := ForEntry(token, entry, nil)
		if err != nil {
			t.Fatal(err)
		}
		digest := digestOf(crypto.SHA256, "message")
		signature, err := k.SignContext(t.Context(), digest, crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		if err := rsa.VerifyPKCS1v15(k.Public().(*rsa.PublicKey), crypto.SHA256, digest, signature); err != nil {
			t.Error(err)
		}
		if err := k.Close(); err != nil {
			t.Error(err)
		}
		if _, err := token.TPM().Random(t.Context(), 8); err != nil {
			t.Errorf("closing the key closed its token: %v", err)
		}

		token.Logout()
		if k, err = ForEntry(token, entry, nil); err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		if _, err := k.Sign(nil, digest, crypto.SHA256); !errors.Is(err, ErrPINNeeded) {
			t.Errorf("after logging out: %v", err)
		}
	})
}

// A key that lost its persistent handle is used in its wrapped form.
func TestAKeyThatWasEvictedStillOpens(t *testing.T) {
	t.Parallel()
	s := newStore(t, "")
	e := s.create(keystore.KeySpec{Label: "web", Type: provider.P256})
	s.with(func(token *keystore.Token) {
		if err := token.TPM().Evict(t.Context(), e.Object.Handle, e.Object.Public.Name()); err != nil {
			t.Fatal(err)
		}
	})
	k := s.open("web")
	digest := sha256.Sum256([]byte("a message"))
	if _, err := k.Sign(rand.Reader, digest[:], crypto.SHA256); err != nil {
		t.Error(err)
	}
}
