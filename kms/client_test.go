package kms_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/attest"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/cms"
	"github.com/tpm2-p11/tpm2-p11/kms"
)

var context1 = map[string]string{"service": "payroll", "stage": "production"}

func TestASecretOfAnOperatorIsUnwrapped(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	ciphertext := m.encrypt(t, "the database's password", context1)
	for _, form := range []cms.Form{cms.Constructed, cms.Primitive} {
		m.kms.form = form
		s, err := m.unwrapper(t).Unwrap(t.Context(), ciphertext, context1)
		if err != nil {
			t.Fatal(err)
		}
		if string(s.Bytes()) != "the database's password" {
			t.Errorf("form %d: another secret", form)
		}
		s.Wipe()
		if s.Len() != 0 {
			t.Error("not wiped")
		}
	}
}

func TestADataKeyEncryptsAndIsUnwrappedAgain(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	u := m.unwrapper(t)
	key, ciphertext, err := u.DataKey(t.Context(), context1)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := key.AEAD()
	if err != nil {
		t.Fatal(err)
	}
	nonce := make([]byte, aead.NonceSize())
	rand.Read(nonce)
	box := aead.Seal(nil, nonce, []byte("a record"), nil)
	key.Wipe()

	again, err := u.Unwrap(t.Context(), ciphertext, context1)
	if err != nil {
		t.Fatal(err)
	}
	if aead, err = again.AEAD(); err != nil {
		t.Fatal(err)
	}
	if record, err := aead.Open(nil, nonce, box, nil); err != nil || string(record) != "a record" {
		t.Errorf("%q, %v", record, err)
	}
}

func TestDataKeysOfOtherSizesHaveNoAES256(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	for _, size := range []int{1, 16, 33, 1024} {
		k, err := m.client(t, recipientKey()).GenerateDataKey(t.Context(), kms.DataKeyRequest{KeyID: keyARN, Context: context1, Size: size})
		if err != nil {
			t.Fatal(err)
		}
		if k.Plaintext.Len() != size {
			t.Errorf("%d bytes, asked for %d", k.Plaintext.Len(), size)
		}
		if _, err := k.Plaintext.AEAD(); !errors.Is(err, kms.ErrInput) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

func TestAKeyPairComesWithItsPrivateKey(t *testing.T) {
	t.Parallel()
	c := newMachine(t).client(t, recipientKey())
	pair, err := c.GenerateDataKeyPair(t.Context(), kms.KeyPairRequest{KeyID: keyARN, Context: context1, Spec: "ECC_NIST_P256"})
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.ParsePKCS8PrivateKey(pair.PrivateKey.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(private.(*ecdsa.PrivateKey).Public())
	if err != nil || !bytes.Equal(public, pair.PublicKey) {
		t.Errorf("the keys are no pair: %v", err)
	}
	again, err := c.Decrypt(t.Context(), kms.DecryptRequest{Ciphertext: pair.Ciphertext, Context: context1, KeyID: keyARN})
	if err != nil || !bytes.Equal(again.Bytes(), pair.PrivateKey.Bytes()) {
		t.Errorf("its ciphertext: %v", err)
	}
}

func TestRandomBytesAreOfKMS(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	s, err := m.client(t, recipientKey()).GenerateRandom(t.Context(), 48)
	if err != nil || s.Len() != 48 {
		t.Fatal(err)
	}
	if q := m.kms.seen(); len(q) != 1 || q[0].operation != "GenerateRandom" {
		t.Errorf("KMS saw %v", q)
	}
}

func TestASharedSecretIsThePeersToo(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	peer, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(peer.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	s, err := m.client(t, recipientKey()).DeriveSharedSecret(t.Context(), kms.SharedSecretRequest{KeyID: keyARN, PublicKey: public})
	if err != nil {
		t.Fatal(err)
	}
	want, err := peer.ECDH(m.kms.agreement.PublicKey())
	if err != nil || !bytes.Equal(s.Bytes(), want) {
		t.Errorf("another secret: %v", err)
	}
}

func TestEachRequestHasAFreshDocument(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	u := m.unwrapper(t)
	ciphertext := m.encrypt(t, "secret", context1)
	for range 3 {
		if _, err := u.Unwrap(t.Context(), ciphertext, context1); err != nil {
			t.Fatal(err)
		}
	}
	sent := map[string]bool{}
	for _, q := range m.kms.seen() {
		if q.Recipient != nil {
			sent[string(q.Recipient.AttestationDocument)] = true
		}
	}
	if len(sent) != 3 || len(m.documents) != 3 {
		t.Errorf("3 requests with %d documents, of %d made", len(sent), len(m.documents))
	}
}

func TestTheEncryptionContextIsTheCallersAlone(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	var log bytes.Buffer
	u := m.unwrapper(t, withLog(&log))
	if _, _, err := u.DataKey(t.Context(), context1); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(log.Bytes(), []byte("level=WARN")) {
		t.Errorf("a warning with a context: %s", log.String())
	}
	if _, _, err := u.DataKey(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(log.Bytes(), []byte("level=WARN")) {
		t.Error("no warning without a context")
	}
	q := m.kms.seen()
	if got := q[0].EncryptionContext; len(got) != 2 || got["service"] != "payroll" || got["stage"] != "production" {
		t.Errorf("sent %v", got)
	}
	if got, is := q[1].raw["EncryptionContext"]; is {
		t.Errorf("sent %s unasked", got)
	}
}

func TestARotatedKeyReceivesWhatFollows(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	c := m.client(t, recipientKey())
	next := newRSA()
	if err := c.Rotate(next); err != nil {
		t.Fatal(err)
	}
	if _, err := c.GenerateRandom(t.Context(), 32); err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(next.Public())
	if err != nil {
		t.Fatal(err)
	}
	claims, err := attest.Parse(m.kms.seen()[0].Recipient.AttestationDocument)
	if err != nil || !bytes.Equal(claims.PublicKey, public) {
		t.Errorf("the document has the old key: %v", err)
	}
}

func TestKeysThatCannotReceiveAreRefused(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kms.NewClient(m.service(t), m.document, small); !errors.Is(err, kms.ErrRecipientKey) {
		t.Errorf("RSA-1024: %v", err)
	}
	elliptic, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kms.NewClient(m.service(t), m.document, notRSA{elliptic}); !errors.Is(err, kms.ErrRecipientKey) {
		t.Errorf("ECDSA: %v", err)
	}
}

// The steps on different machines: a document made here, sent from there, opened here.
func TestTheStepsMayBeApart(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	ciphertext := m.encrypt(t, "secret", context1)
	public, err := x509.MarshalPKIXPublicKey(recipientKey().Public())
	if err != nil {
		t.Fatal(err)
	}
	document, err := m.document(t.Context(), attest.Request{PublicKey: public})
	if err != nil {
		t.Fatal(err)
	}
	a, err := m.service(t).Decrypt(t.Context(), document, kms.DecryptRequest{Ciphertext: ciphertext, Context: context1})
	if err != nil {
		t.Fatal(err)
	}
	if a.KeyID != keyARN || bytes.Contains(a.Closed, []byte("secret")) {
		t.Errorf("key %s", a.KeyID)
	}
	s, err := kms.Open(t.Context(), a.Closed, recipientKey())
	if err != nil || string(s.Bytes()) != "secret" {
		t.Errorf("%v", err)
	}
}

func TestDocumentsThatDoNotFitAreNotSent(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	errNoTPM := errors.New("no TPM")
	for name, documents := range map[string]kms.DocumentFunc{
		"none made":      func(context.Context, attest.Request) ([]byte, error) { return nil, errNoTPM },
		"not a document": func(context.Context, attest.Request) ([]byte, error) { return []byte("document"), nil },
		"of another key": func(ctx context.Context, _ attest.Request) ([]byte, error) {
			return m.document(ctx, attest.Request{PublicKey: []byte("key")})
		},
		"without any key": func(ctx context.Context, _ attest.Request) ([]byte, error) { return m.document(ctx, attest.Request{}) },
	} {
		c, err := kms.NewClient(m.service(t), documents, recipientKey())
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.GenerateRandom(t.Context(), 32)
		if !errors.Is(err, kms.ErrDocument) || name == "none made" && !errors.Is(err, errNoTPM) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(m.kms.seen()); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}

func TestImpossibleRequestsAreNotSent(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	c := m.client(t, recipientKey())
	for name, ask := range map[string]func() error{
		"no ciphertext": func() error { _, err := c.Decrypt(t.Context(), kms.DecryptRequest{}); return err },
		"ciphertext too big": func() error {
			_, err := c.Decrypt(t.Context(), kms.DecryptRequest{Ciphertext: make([]byte, 6145)})
			return err
		},
		"asymmetric without its key": func() error {
			_, err := c.Decrypt(t.Context(), kms.DecryptRequest{Ciphertext: []byte("c"), Algorithm: "RSAES_OAEP_SHA_256"})
			return err
		},
		"asymmetric with a context": func() error {
			_, err := c.Decrypt(t.Context(), kms.DecryptRequest{Ciphertext: []byte("c"), Algorithm: "RSAES_OAEP_SHA_256", KeyID: keyARN, Context: context1})
			return err
		},
		"data key of no KMS key": func() error { _, err := c.GenerateDataKey(t.Context(), kms.DataKeyRequest{}); return err },
		"data key of -1 bytes": func() error {
			_, err := c.GenerateDataKey(t.Context(), kms.DataKeyRequest{KeyID: keyARN, Size: -1})
			return err
		},
		"data key of 1025 bytes": func() error {
			_, err := c.GenerateDataKey(t.Context(), kms.DataKeyRequest{KeyID: keyARN, Size: 1025})
			return err
		},
		"pair of no kind": func() error {
			_, err := c.GenerateDataKeyPair(t.Context(), kms.KeyPairRequest{KeyID: keyARN})
			return err
		},
		"no random bytes": func() error { _, err := c.GenerateRandom(t.Context(), 0); return err },
		"secret with nobody": func() error {
			_, err := c.DeriveSharedSecret(t.Context(), kms.SharedSecretRequest{KeyID: keyARN})
			return err
		},
		"key of 2049 letters": func() error {
			_, err := c.GenerateDataKey(t.Context(), kms.DataKeyRequest{KeyID: string(make([]byte, 2049))})
			return err
		},
		"a long plaintext": func() error {
			_, err := m.service(t).Encrypt(t.Context(), kms.EncryptRequest{KeyID: keyARN, Plaintext: make([]byte, 4097)})
			return err
		},
	} {
		if err := ask(); !errors.Is(err, kms.ErrInput) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(m.kms.seen()); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}
