package attest

import (
	"crypto/rand"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// MakeCredential encrypts a secret of at most 32 bytes so that only the TPM
// with that EK can open it, and only if it holds that AK as well (TPM 2.0
// Part 1, "Credential Protection"). Whoever answers with the secret
// (provider.TPM.ActivateCredential) has proved that the AK is in the EK's TPM;
// that the EK is of a real TPM is for its certificate to prove. An AK with other
// attributes than an AK's is ErrAK.
func MakeCredential(ek, ak provider.Public, secret []byte) (credential, encrypted []byte, err error) {
	if len(secret) == 0 || len(secret) > provider.MaxQualifyingData {
		return nil, nil, fmt.Errorf("%w: a secret of %d bytes: it has 1 to %d", ErrTooLarge, len(secret), provider.MaxQualifyingData)
	}
	e := provider.Evidence{AK: ak, AKHierarchy: tpm2.TPMRHEndorsement}
	if err := checkAK(e, ak.Name()); err != nil {
		return nil, nil, err
	}
	if !ek.IsStorageKey() {
		return nil, nil, fmt.Errorf("%w: the endorsement key is %s", ErrMalformed, ek.Describe())
	}
	area := ek.Area()
	key, err := tpm2.ImportEncapsulationKey(&area)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: endorsement key: %w", ErrMalformed, err)
	}
	return tpm2.CreateCredential(rand.Reader, key, ak.Name(), secret)
}
