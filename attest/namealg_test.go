package attest

import (
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// Two public areas with the same SHA-1 can be made, one for the TPM and one for the verifier.
func TestANameBySHA1VouchesForNothing(t *testing.T) {
	t.Parallel()
	for alg, good := range map[tpm2.TPMAlgID]bool{tpm2.TPMAlgSHA1: false, tpm2.TPMAlgSHA256: true, tpm2.TPMAlgSHA384: true} {
		area := tpm2.ECCSRKTemplate
		area.NameAlg = alg
		key, err := provider.ParsePublic(tpm2.Marshal(area))
		if err != nil {
			t.Fatal(err)
		}
		if err := checkKey(key, KeyPolicy{}); good != (err == nil) || !good && !errors.Is(err, ErrKey) {
			t.Errorf("key with a Name by 0x%04X: %v", uint16(alg), err)
		}
		area.ObjectAttributes.Decrypt, area.ObjectAttributes.SignEncrypt = false, true
		ak, err := provider.ParsePublic(tpm2.Marshal(area))
		if err != nil {
			t.Fatal(err)
		}
		e := provider.Evidence{AK: ak, AKHierarchy: tpm2.TPMRHOwner}
		if err := checkAK(e, ak.Name()); good != (err == nil) || !good && !errors.Is(err, ErrAK) {
			t.Errorf("AK with a Name by 0x%04X: %v", uint16(alg), err)
		}
	}
}
