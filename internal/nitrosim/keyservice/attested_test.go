package keyservice_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awskms "github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/cms"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/keyservice"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/nsm"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/simtest"
)

var purpose = map[string]string{"service": "payroll", "stage": "production"}

// A release encrypts a secret; only the machine with the image in the policy reads it.
func TestASecretForOneImage(t *testing.T) {
	t.Parallel()
	for _, form := range []cms.Form{cms.Constructed, cms.Primitive} {
		m := newMachine(t, func(o *keyservice.Options) { o.Form = form })
		key := m.kms.Key(t, statements(
			statement("Allow", simtest.ReleaseRole.ARN, "kms:Encrypt", nil),
			statement("Allow", simtest.MachineRole.ARN, "kms:Decrypt", m.pcr4()),
		))
		encrypted, err := m.kms.Client(simtest.ReleaseRole).Encrypt(t.Context(), &awskms.EncryptInput{
			KeyId: &key, Plaintext: []byte("open sesame"), EncryptionContext: purpose,
		})
		if err != nil {
			t.Fatal(err)
		}
		request := &awskms.DecryptInput{CiphertextBlob: encrypted.CiphertextBlob, EncryptionContext: purpose, Recipient: m.recipient()}
		client := m.kms.Client(simtest.MachineRole)
		out, err := client.Decrypt(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		if got := open(t, out.CiphertextForRecipient); string(got) != "open sesame" || len(out.Plaintext) != 0 || aws.ToString(out.KeyId) != key {
			t.Errorf("form %d: %q, in the clear %q, of key %s", form, got, out.Plaintext, aws.ToString(out.KeyId))
		}

		request.Recipient = nil
		_, err = client.Decrypt(t.Context(), request)
		refused(t, "without a document", err, "AccessDeniedException")
		m.pcrs[4] = make([]byte, 48)
		request.Recipient = m.recipient()
		_, err = client.Decrypt(t.Context(), request)
		refused(t, "another image", err, "AccessDeniedException")
	}
}

func TestEachAttestedRequestIsAnsweredForItsKeyOnly(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	key := m.kms.Key(t, "")
	client := m.kms.Client(simtest.MachineRole)

	dataKey, err := client.GenerateDataKey(t.Context(), &awskms.GenerateDataKeyInput{
		KeyId: &key, KeySpec: types.DataKeySpecAes256, EncryptionContext: purpose, Recipient: m.recipient(),
	})
	if err != nil {
		t.Fatal(err)
	}
	plaintext := open(t, dataKey.CiphertextForRecipient)
	again, err := client.Decrypt(t.Context(), &awskms.DecryptInput{CiphertextBlob: dataKey.CiphertextBlob, KeyId: &key, EncryptionContext: purpose})
	if err != nil {
		t.Fatal(err)
	}
	if len(plaintext) != 32 || !bytes.Equal(plaintext, again.Plaintext) || len(dataKey.Plaintext) != 0 {
		t.Error("the data key and its ciphertext do not agree, or it came in the clear")
	}

	for _, spec := range []types.DataKeyPairSpec{types.DataKeyPairSpecRsa2048, types.DataKeyPairSpecEccNistP256, types.DataKeyPairSpecEccNistP384, types.DataKeyPairSpecEccNistP521} {
		pair, err := client.GenerateDataKeyPair(t.Context(), &awskms.GenerateDataKeyPairInput{
			KeyId: &key, KeyPairSpec: spec, EncryptionContext: purpose, Recipient: m.recipient(),
		})
		if err != nil {
			t.Fatal(err)
		}
		private := open(t, pair.CiphertextForRecipient)
		again, err := client.Decrypt(t.Context(), &awskms.DecryptInput{CiphertextBlob: pair.PrivateKeyCiphertextBlob, EncryptionContext: purpose})
		if err != nil || !bytes.Equal(private, again.Plaintext) || len(pair.PrivateKeyPlaintext) != 0 {
			t.Errorf("%s: the private key and its ciphertext do not agree, or it came in the clear: %v", spec, err)
		}
		isPair(t, private, pair.PublicKey)
	}

	random, err := client.GenerateRandom(t.Context(), &awskms.GenerateRandomInput{NumberOfBytes: aws.Int32(1024), Recipient: m.recipient()})
	if err != nil {
		t.Fatal(err)
	}
	if got := open(t, random.CiphertextForRecipient); len(got) != 1024 || len(random.Plaintext) != 0 {
		t.Errorf("%d random bytes, %d in the clear", len(got), len(random.Plaintext))
	}
}

// isPair compares a private key with a public key.
func isPair(t *testing.T, private, public []byte) {
	t.Helper()
	key, err := x509.ParsePKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	var der []byte
	switch key := key.(type) {
	case *rsa.PrivateKey:
		der, err = x509.MarshalPKIXPublicKey(key.Public())
	case *ecdsa.PrivateKey:
		der, err = x509.MarshalPKIXPublicKey(key.Public())
	}
	if err != nil || !bytes.Equal(der, public) {
		t.Errorf("the halves of a %T do not fit: %v", key, err)
	}
}

func TestASharedSecretWithAPeer(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	client := m.kms.Client(simtest.MachineRole)
	for _, c := range []struct {
		spec  types.KeySpec
		curve elliptic.Curve
	}{
		{types.KeySpecEccNistP256, elliptic.P256()}, {types.KeySpecEccNistP384, elliptic.P384()}, {types.KeySpecEccNistP521, elliptic.P521()},
	} {
		made, err := client.CreateKey(t.Context(), &awskms.CreateKeyInput{KeySpec: c.spec, KeyUsage: types.KeyUsageTypeKeyAgreement})
		if err != nil {
			t.Fatal(err)
		}
		key := made.KeyMetadata.Arn
		public, err := client.GetPublicKey(t.Context(), &awskms.GetPublicKeyInput{KeyId: key})
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := x509.ParsePKIXPublicKey(public.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		peer, err := ecdsa.GenerateKey(c.curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		want := agree(t, peer, theirs.(*ecdsa.PublicKey))
		der, err := x509.MarshalPKIXPublicKey(peer.Public())
		if err != nil {
			t.Fatal(err)
		}
		request := &awskms.DeriveSharedSecretInput{KeyId: key, KeyAgreementAlgorithm: types.KeyAgreementAlgorithmSpecEcdh, PublicKey: der, Recipient: m.recipient()}
		out, err := client.DeriveSharedSecret(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(open(t, out.CiphertextForRecipient), want) || len(out.SharedSecret) != 0 {
			t.Errorf("%s: another secret than the peer's, or in the clear", c.spec)
		}
		request.Recipient = nil
		if out, err = client.DeriveSharedSecret(t.Context(), request); err != nil || !bytes.Equal(out.SharedSecret, want) {
			t.Errorf("%s, in the clear: %v", c.spec, err)
		}
		request.PublicKey = public.PublicKey[:30]
		_, err = client.DeriveSharedSecret(t.Context(), request)
		refused(t, "half a public key", err, "ValidationException")
	}
}

func agree(t *testing.T, own *ecdsa.PrivateKey, theirs *ecdsa.PublicKey) []byte {
	t.Helper()
	var private *ecdh.PrivateKey
	var public *ecdh.PublicKey
	var err error
	if private, err = own.ECDH(); err == nil {
		public, err = theirs.ECDH()
	}
	if err != nil {
		t.Fatal(err)
	}
	secret, err := private.ECDH(public)
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

func TestDocumentsThatAreNotBelieved(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	stranger, err := nsm.New("i-0123456789abcdef0", simtest.Region, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	foreign := &machine{t: t, authority: stranger, pcrs: m.pcrs}
	ecc, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := x509.MarshalPKIXPublicKey(ecc.Public())
	if err != nil {
		t.Fatal(err)
	}
	flipped := m.recipient()
	flipped.AttestationDocument[len(flipped.AttestationDocument)/2] ^= 1
	cut := m.recipient()
	cut.AttestationDocument = cut.AttestationDocument[:100]
	keyed := func(key []byte) *types.RecipientInfo {
		return m.document(time.Now(), nsm.Content{PCRs: m.pcrs, PublicKey: key})
	}
	algorithm := m.recipient()
	algorithm.KeyEncryptionAlgorithm = "RSAES_OAEP_SHA_1"
	for name, recipient := range map[string]*types.RecipientInfo{
		"expired":                m.document(time.Now().Add(-4*time.Hour), m.content()),
		"of the future":          m.document(time.Now().Add(time.Hour), m.content()),
		"of another PKI":         foreign.recipient(),
		"without a public key":   keyed(nil),
		"with a key that is ECC": keyed(point),
		"with no key at all":     keyed([]byte("a public key")),
		"with a flipped bit":     flipped,
		"cut short":              cut,
		"for another algorithm":  algorithm,
	} {
		_, err := m.kms.Client(simtest.MachineRole).GenerateRandom(t.Context(), &awskms.GenerateRandomInput{NumberOfBytes: aws.Int32(32), Recipient: recipient})
		refused(t, name, err, "ValidationException")
	}

	ignorant := simtest.StartKMS(t, keyservice.Options{})
	_, err = ignorant.Client(simtest.MachineRole).GenerateRandom(t.Context(), &awskms.GenerateRandomInput{NumberOfBytes: aws.Int32(32), Recipient: m.recipient()})
	refused(t, "a KMS without roots", err, "ValidationException")
}
