package kms_test

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"io"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/internal/tpmtest"
	"github.com/tpm2-p11/tpm2-p11/kms"
	"github.com/tpm2-p11/tpm2-p11/kms/cms"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

// tpmKey is a key in a TPM, as signer.Key is.
type tpmKey struct {
	tpm    *provider.TPM
	object provider.Object
	auth   provider.Auth
	public crypto.PublicKey
}

func (k *tpmKey) Public() crypto.PublicKey { return k.public }

func (k *tpmKey) Decrypt(_ io.Reader, ciphertext []byte, opts crypto.DecrypterOpts) ([]byte, error) {
	return k.DecryptContext(context.Background(), ciphertext, opts)
}

func (k *tpmKey) DecryptContext(ctx context.Context, ciphertext []byte, _ crypto.DecrypterOpts) ([]byte, error) {
	out, err := k.tpm.DecryptOAEP(ctx, k.object, k.auth, crypto.SHA256, nil, ciphertext)
	if err != nil {
		return nil, err
	}
	defer out.Wipe()
	return bytes.Clone(out.Bytes()), nil
}

// newTPMKey makes a key for decryption in a TPM of its own, bound to PCR 7 as it is.
func newTPMKey(t *testing.T) (*tpmKey, *tpmtest.TPM) {
	t.Helper()
	machine := tpmtest.Start(t)
	dialer, err := transport.Parse(machine.Address())
	if err != nil {
		t.Fatal(err)
	}
	tpm := provider.New(dialer)
	t.Cleanup(func() { tpm.Close() })
	srk, err := tpm.ProvisionSRK(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tpm.UseSRK(srk)
	bound, digest := boundToPCR7(t, tpm)
	object, err := tpm.CreateKey(t.Context(), provider.Template{Type: provider.RSA2048, Use: provider.Use{Decrypt: true}, AuthPolicy: digest}, nil)
	if err != nil {
		t.Fatal(err)
	}
	public, err := object.Public.Key()
	if err != nil {
		t.Fatal(err)
	}
	return &tpmKey{tpm, object, provider.Auth{Policy: bound}, public}, machine
}

func TestASecretIsUnwrappedByAKeyThatNeverLeavesItsTPM(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	key, _ := newTPMKey(t)
	ciphertext := m.encrypt(t, "secret", context1)
	s, err := m.client(t, key).Decrypt(t.Context(), kms.DecryptRequest{Ciphertext: ciphertext, Context: context1, KeyID: keyARN})
	if err != nil || string(s.Bytes()) != "secret" {
		t.Fatalf("%v", err)
	}
	m.kms.bend = func(_ question, a answer) { a["CiphertextForRecipient"].([]byte)[200] ^= 1 }
	if _, err := m.client(t, key).GenerateRandom(t.Context(), 32); !errors.Is(err, cms.ErrDecrypt) {
		t.Errorf("a flipped bit: %v", err)
	}
}

func TestARecipientKeyIsBoundToItsPolicy(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	key, machine := newTPMKey(t)
	key.tpm.Release()
	machine.Extend(t, "sha256", 7, []byte("another boot"))
	s, err := m.client(t, key).GenerateRandom(t.Context(), 32)
	if !errors.Is(err, cms.ErrKey) || !errors.Is(err, provider.ErrPolicy) || s != nil {
		t.Errorf("got %v", err)
	}
}

// boundToPCR7 is a policy on PCR 7 as it is, and its digest.
func boundToPCR7(t *testing.T, tpm *provider.TPM) (policy.Policy, []byte) {
	t.Helper()
	node := policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{7: nil}}
	p, err := policy.Policy{Root: policy.All{node}}.Resolve(tpm.PolicyState(t.Context()), true)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := p.Digest(tpm2.TPMAlgSHA256)
	if err != nil {
		t.Fatal(err)
	}
	return p, digest
}
