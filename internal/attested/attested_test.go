package attested_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/tpm2-p11/tpm2-p11/attest"
	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/internal/attested"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/cms"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/simtest"
	"github.com/tpm2-p11/tpm2-p11/internal/tpmtest"
	"github.com/tpm2-p11/tpm2-p11/kms"
	"github.com/tpm2-p11/tpm2-p11/provider"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

func open(t *testing.T, address string) *provider.TPM {
	t.Helper()
	dialer, err := transport.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	tpm := provider.New(dialer)
	t.Cleanup(func() { tpm.Close() })
	return tpm
}

// On a fresh instance, with nothing prepared, a key is made that KMS can close an answer for; afterwards the TPM is as before.
func TestAKeyForOneRequest(t *testing.T) {
	t.Parallel()
	sim := simtest.Start(t)
	tpm := open(t, sim.Address())
	before, err := tpm.PersistentHandles(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r, err := attested.Ephemeral(t.Context(), tpm)
	if err != nil {
		t.Fatal(err)
	}
	document, err := r.Document(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	claims, err := attest.Verify(document, attest.Policy{Roots: []*x509.Certificate{sim.Root(t)}, MaxAge: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.ParsePKIXPublicKey(claims.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	closed, err := cms.Encrypt(public.(*rsa.PublicKey), []byte("secret"), cms.Constructed)
	if err != nil {
		t.Fatal(err)
	}
	s, err := kms.Open(t.Context(), closed, r.Key)
	if err != nil || string(s.Bytes()) != "secret" {
		t.Fatalf("%v", err)
	}
	s.Wipe()
	other, err := attested.Ephemeral(t.Context(), tpm)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kms.Open(t.Context(), closed, other.Key); err == nil {
		t.Error("the key of another request opened it")
	}
	if after, err := tpm.PersistentHandles(t.Context()); err != nil || len(after) != len(before) {
		t.Errorf("persistent handles %v before and %v after, %v", before, after, err)
	}
}

func TestAKeyForOneRequestDoesNothingElse(t *testing.T) {
	t.Parallel()
	machine := tpmtest.Start(t)
	r, err := attested.Ephemeral(t.Context(), open(t, machine.Address()))
	if err != nil {
		t.Fatal(err)
	}
	public := r.Key.Public().(*rsa.PublicKey)
	ciphertext := bytes.Repeat([]byte{1}, public.Size())
	for _, options := range []crypto.DecrypterOpts{
		nil, &rsa.PKCS1v15DecryptOptions{}, &rsa.OAEPOptions{Hash: crypto.SHA1},
		&rsa.OAEPOptions{Hash: crypto.SHA256, MGFHash: crypto.SHA1}, &rsa.OAEPOptions{Hash: crypto.SHA256, Label: []byte("l")},
	} {
		if _, err := r.Key.Decrypt(nil, ciphertext, options); !errors.Is(err, provider.ErrUnsupported) {
			t.Errorf("%T: %v", options, err)
		}
	}
	if _, err := r.Key.Decrypt(nil, ciphertext, &rsa.OAEPOptions{Hash: crypto.SHA256}); !errors.Is(err, provider.ErrDecrypt) {
		t.Errorf("nonsense: %v", err)
	}
	// A TPM without attestation says so.
	if _, err := r.Document(t.Context()); !errors.Is(err, provider.ErrUnsupported) {
		t.Errorf("a document of a TPM that is no NitroTPM: %v", err)
	}
}

// KMS answers whoever knows the recipient key: one that was brought into the TPM is none, and neither is one of which a file says that
// it was made there.
func TestAKeyThatIsKnownElsewhereIsNoRecipient(t *testing.T) {
	t.Parallel()
	tpm := open(t, tpmtest.Start(t).Address())
	use := provider.Template{Type: provider.RSA2048, Use: provider.Use{Decrypt: true}}
	own, err := tpm.CreateKey(t.Context(), use, nil)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	imported, err := tpm.ImportKey(t.Context(), secret, use, nil)
	if err != nil {
		t.Fatal(err)
	}
	pretended := imported
	area := imported.Public.Marshal()
	copy(area[4:8], own.Public.Marshal()[4:8]) // the attributes
	if pretended.Public, err = provider.ParsePublic(area); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		object provider.Object
		want   error
	}{
		"made here": {own, nil}, "imported": {imported, kms.ErrRecipientKey}, "imported, and called made here": {pretended, provider.ErrWrongTPM},
	} {
		if r, err := attested.Stored(t.Context(), tpm, c.object, secret); !errors.Is(err, c.want) || (err == nil) != (r.TPM == tpm) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// ecKey is a key that KMS cannot close an answer for.
type ecKey struct{ *ecdsa.PrivateKey }

func (ecKey) Decrypt(io.Reader, []byte, crypto.DecrypterOpts) ([]byte, error) { return nil, nil }

func TestWhatTheConfigurationAsksFor(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	s, err := attested.Service(t.Context(), config.KMS{Region: "eu-west-3"}, nil)
	if err != nil || s.Region() != "eu-west-3" {
		t.Fatalf("%v", err)
	}
	if _, err := attested.Service(t.Context(), config.KMS{Region: "eu-west-3", Endpoint: "http://127.0.0.1:1"}, nil); !errors.Is(err, kms.ErrEndpoint) {
		t.Errorf("plain http unasked: %v", err)
	}
	if _, err := attested.Service(t.Context(), config.KMS{Region: "eu-west-3", Endpoint: "http://127.0.0.1:1", PlainHTTP: true}, nil); err != nil {
		t.Errorf("plain http: %v", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r := attested.Recipient{Key: ecKey{key}}
	if _, err := attested.Unwrapper(s, config.KMS{}, r); !errors.Is(err, kms.ErrRecipientKey) {
		t.Errorf("an EC key as recipient: %v", err)
	}
	if _, err := r.Document(t.Context()); !errors.Is(err, kms.ErrRecipientKey) {
		t.Errorf("a document for an EC key: %v", err)
	}
	secret, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := attested.Unwrapper(s, config.KMS{CacheFor: -1}, attested.Recipient{Key: secret}); !errors.Is(err, kms.ErrInput) {
		t.Errorf("a negative time: %v", err)
	}
}
