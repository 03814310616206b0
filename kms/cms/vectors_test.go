//go:build vectors

package cms

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func vector(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(os.Getenv("TPM2_P11_VECTORS"), name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func vectorHex(t *testing.T, name string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.TrimSpace(string(vector(t, name))))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Answers that KMS gave, without their private key: the content constructed, and primitive.
var answers = map[string]string{"kms-cms-blob.ber": "", "kms-cms-blob-w-ctx.ber": "-w-ctx"}

func TestVectorsAnswersOfKMSAreRead(t *testing.T) {
	for blob, suffix := range answers {
		e, err := parse(vector(t, blob))
		if err != nil {
			t.Fatalf("%s: %v", blob, err)
		}
		for name, got := range map[string][]byte{
			"kms-cms-encrypted-key": e.encryptedKey, "kms-cms-iv": e.iv, "kms-cms-ciphertext": e.ciphertext,
		} {
			if want := vectorHex(t, name+suffix+".hex"); !bytes.Equal(got, want) {
				t.Errorf("%s: %s is %x, not %x", blob, name, got, want)
			}
		}
		if len(e.recipient) != 32 {
			t.Errorf("%s: recipient of %d bytes", blob, len(e.recipient))
		}
	}
}

func TestVectorsAnswersOfKMSAreForAnotherKey(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for blob := range answers {
		if _, err := Open(t.Context(), vector(t, blob), key); !errors.Is(err, ErrRecipient) {
			t.Errorf("%s: %v", blob, err)
		}
	}
}

func TestVectorsAnswersOfKMSCutAtAnyByteAreRefused(t *testing.T) {
	for blob := range answers {
		whole := vector(t, blob)
		for i := range whole {
			if _, err := parse(whole[:i]); !errors.Is(err, ErrMalformed) {
				t.Fatalf("%s cut at byte %d: %v", blob, i, err)
			}
		}
	}
}
