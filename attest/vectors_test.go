//go:build vectors

package attest_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tpm2-p11/tpm2-p11/attest"
)

// vector reads a file of the folder that make test-vectors names.
func vector(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(os.Getenv("TPM2_P11_VECTORS"), name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A document that a real NitroTPM made.
var made = time.Date(2026, 6, 18, 5, 10, 49, 634e6, time.UTC)

// PCR 7 of a machine without secure boot.
const pcr7 = "98441c7f7625d10058c47683aec486ce311c633235eb555593a7ee791121e3578ae72d04ecef661f272d59058b77af35"

func TestVectorsRealDocumentVerifiesAtItsTime(t *testing.T) {
	want, err := hex.DecodeString(pcr7)
	if err != nil {
		t.Fatal(err)
	}
	d, err := attest.Verify(vector(t, "nitrotpm-document.cbor"), attest.Policy{
		Now: made, Instance: "i-05473b8eb5f575457", PCRs: map[int][]byte{7: want},
	})
	if err != nil {
		t.Fatal(err)
	}
	if !d.Timestamp.Equal(made) || len(d.Nonce) != 32 || d.PublicKey != nil || d.UserData != nil {
		t.Errorf("timestamp %s, nonce of %d bytes, public key %x, user data %x", d.Timestamp, len(d.Nonce), d.PublicKey, d.UserData)
	}
}

func TestVectorsRealDocumentIsExpiredToday(t *testing.T) {
	if _, err := attest.Verify(vector(t, "nitrotpm-document.cbor"), attest.Policy{}); !errors.Is(err, attest.ErrTime) {
		t.Errorf("got %v", err)
	}
}

func TestVectorsRealDocumentWithEachBitOfItsPayloadFlippedIsRefused(t *testing.T) {
	document := vector(t, "nitrotpm-document.cbor")
	for i := range document {
		bent := bytes.Clone(document)
		bent[i] ^= 1 << (i % 8)
		if _, err := attest.Verify(bent, attest.Policy{Now: made}); err == nil {
			t.Fatalf("accepted with a bit of byte %d flipped", i)
		}
	}
	for i := range document {
		if _, err := attest.Verify(document[:i], attest.Policy{Now: made}); err == nil {
			t.Fatalf("accepted after a cut at byte %d", i)
		}
	}
}

func TestVectorsEmbeddedRootIsAWSs(t *testing.T) {
	const fingerprint = "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"
	block, _ := pem.Decode(vector(t, "aws-nitro-root-g1.pem"))
	sum := sha256.Sum256(attest.AWSRoot().Raw)
	if hex.EncodeToString(sum[:]) != fingerprint || !bytes.Equal(block.Bytes, attest.AWSRoot().Raw) {
		t.Errorf("the embedded root has fingerprint %x", sum)
	}
}
