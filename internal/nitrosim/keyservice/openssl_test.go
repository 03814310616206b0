package keyservice_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	awskms "github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/cms"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/keyservice"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/simtest"
)

// The usual recipe, without any reader of ours: openssl opens an answer with the key alone.
func TestOpenSSLOpensAnAnswer(t *testing.T) {
	t.Parallel()
	der, err := x509.MarshalPKCS8PrivateKey(recipientKey())
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, form := range []cms.Form{cms.Constructed, cms.Primitive} {
		m := newMachine(t, func(o *keyservice.Options) { o.Form = form })
		_, ciphertext := m.encrypted("a secret of this machine")
		out, err := m.kms.Client(simtest.MachineRole).Decrypt(t.Context(), &awskms.DecryptInput{CiphertextBlob: ciphertext, EncryptionContext: purpose, Recipient: m.recipient()})
		if err != nil {
			t.Fatal(err)
		}
		decrypt := exec.Command("openssl", "cms", "-decrypt", "-inform", "DER", "-binary", "-inkey", key)
		decrypt.Stdin = bytes.NewReader(out.CiphertextForRecipient)
		var stderr bytes.Buffer
		decrypt.Stderr = &stderr
		if got, err := decrypt.Output(); err != nil || string(got) != "a secret of this machine" {
			t.Errorf("form %d: %q, error %v: %s", form, got, err, stderr.String())
		}
	}
}
