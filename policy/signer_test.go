package policy_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/policy"
)

func signingKeys(t *testing.T) map[string]crypto.Signer {
	t.Helper()
	keys := make(map[string]crypto.Signer)
	var err error
	if keys["RSA"], err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384()} {
		if keys[curve.Params().Name], err = ecdsa.GenerateKey(curve, rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	return keys
}

// A signer is its public key in every form, and its signature counts for one policy and one purpose.
func TestASignerAndItsApprovals(t *testing.T) {
	t.Parallel()
	digest := bytes.Repeat([]byte{7}, 32)
	for name, key := range signingKeys(t) {
		s, err := policy.NewSigner(key.Public())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		text, err := s.PEM()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		fromPEM, err := policy.ParseSigner(text)
		if err != nil || fromPEM != s {
			t.Errorf("%s: from PEM %v, %v", name, fromPEM, err)
		}
		if ofArea, err := policy.SignerOf(s.Area()); err != nil || ofArea != s || len(s.Name()) != 34 {
			t.Errorf("%s: of its public area %v, %v", name, ofArea, err)
		}
		signature, err := policy.Sign(key, digest, []byte("tls/v1"))
		if err != nil || !s.Verify(digest, []byte("tls/v1"), signature) {
			t.Errorf("%s: %v", name, err)
		}
		if s.Verify(digest, []byte("tls/v2"), signature) || s.Verify(digest[1:], []byte("tls/v1"), signature) || s.Verify(digest, []byte("tls/v1"), signature[1:]) {
			t.Errorf("%s: a signature counts for what it was not made for", name)
		}
		form, err := s.TPMSignature(signature)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if back, err := policy.ParseTPMSignature(form); err != nil || !s.Verify(digest, []byte("tls/v1"), back) {
			t.Errorf("%s: the TPM's form comes back as %x, %v", name, back, err)
		}
		root := policy.Policy{Root: policy.Authorize{Signer: s, Ref: "tls/v1"}}
		tree, err := json.Marshal(root)
		if err != nil {
			t.Fatal(err)
		}
		var again policy.Policy
		if err := json.Unmarshal(tree, &again); err != nil || !again.Equal(root) {
			t.Errorf("%s: %s is read as %v, %v", name, tree, again, err)
		}
	}
}

// A signer with a public area of another's choice keeps it.
func TestASignersOwnPublicAreaIsKept(t *testing.T) {
	t.Parallel()
	s, err := policy.NewSigner(signingKeys(t)["P-256"].Public())
	if err != nil {
		t.Fatal(err)
	}
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](s.Area())
	if err != nil {
		t.Fatal(err)
	}
	area.ObjectAttributes = tpm2.TPMAObject{SignEncrypt: true}
	other, err := policy.SignerOf(tpm2.Marshal(area))
	if err != nil || bytes.Equal(other.Name(), s.Name()) {
		t.Fatalf("%v, %v", other, err)
	}
	root := policy.Policy{Root: policy.Authorize{Signer: other}}
	tree, err := json.Marshal(root)
	if err != nil || !strings.HasPrefix(string(tree), `{"authorize":{"public":"0023000b`) {
		t.Errorf("%s, %v", tree, err)
	}
	var again policy.Policy
	if err := json.Unmarshal(tree, &again); err != nil || !again.Equal(root) {
		t.Errorf("%v, %v", again, err)
	}
	area.NameAlg = tpm2.TPMAlgSHA384
	if _, err := policy.SignerOf(tpm2.Marshal(area)); !errors.Is(err, policy.ErrInvalid) {
		t.Errorf("a Name of SHA-384: %v", err)
	}
}

func TestWhatIsNoSigner(t *testing.T) {
	t.Parallel()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	small := &rsa.PublicKey{N: signingKeys(t)["RSA"].(*rsa.PrivateKey).Primes[0], E: 65537}
	for name, key := range map[string]crypto.PublicKey{"Ed25519": public, "P-521": p521.Public(), "1024 bits": small, "nothing": nil} {
		if s, err := policy.NewSigner(key); !errors.Is(err, policy.ErrInvalid) || !s.IsZero() {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
	for _, text := range []string{"", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
		if s, err := policy.ParseSigner([]byte(text)); !errors.Is(err, policy.ErrInvalid) || !s.IsZero() {
			t.Errorf("%q: %v, %v", text, s, err)
		}
	}
}

// Resolve reads the signer's key once: what is in the file later does not matter.
func TestASignersFileIsReadOnce(t *testing.T) {
	t.Parallel()
	keys := signingKeys(t)
	s, err := policy.NewSigner(keys["P-256"].Public())
	if err != nil {
		t.Fatal(err)
	}
	text, err := s.PEM()
	if err != nil {
		t.Fatal(err)
	}
	asked := policy.Policy{Root: policy.Authorize{File: "/etc/ci.pub"}}
	if _, err := asked.Digest(tpm2.TPMAlgSHA256); !errors.Is(err, policy.ErrUnresolved) {
		t.Errorf("before the file is read: %v", err)
	}
	if _, err := asked.Resolve(policy.State{}, false); !errors.Is(err, policy.ErrUnresolved) {
		t.Errorf("where files cannot be read: %v", err)
	}
	read := func(content []byte, err error) policy.State {
		return policy.State{File: func(string) ([]byte, error) { return content, err }}
	}
	p, err := asked.Resolve(read(text, nil), false)
	if err != nil || !p.Equal(policy.Policy{Root: policy.Authorize{Signer: s}}) {
		t.Errorf("%v, %v", p, err)
	}
	if again, err := p.Resolve(read(nil, errors.New("gone")), false); err != nil || !again.Equal(p) {
		t.Errorf("%v, %v", again, err)
	}
	for name, state := range map[string]policy.State{"a file that cannot be read": read(nil, errors.New("gone")), "a file without a key": read([]byte("x"), nil)} {
		if _, err := asked.Resolve(state, false); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}
