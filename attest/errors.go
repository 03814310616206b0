package attest

import "errors"

// Each refusal of Parse and Verify is one of these, by errors.Is; its text names the particulars.
var (
	ErrMalformed = errors.New("attestation document is malformed")            // not the CBOR, COSE or certificates that it should be
	ErrKind      = errors.New("not a NitroTPM attestation document")          // of an enclave, or of something else
	ErrChain     = errors.New("attestation certificate chain is not trusted") // root, order, signature, curve, usage, path length
	ErrTime      = errors.New("attestation document is out of its time")      // certificates or the document itself
	ErrSignature = errors.New("attestation signature is wrong")
	ErrModule    = errors.New("attestation document is of another machine")
	ErrNonce     = errors.New("attestation nonce is not the expected one")
	ErrUserData  = errors.New("attestation user data is not the expected one")
	ErrPublicKey = errors.New("attestation public key is not the expected one")
	ErrPCR       = errors.New("attestation PCR is not the expected one") // a *PCRError
)

// Refusals of VerifyKey besides ErrMalformed, ErrSignature, ErrNonce, ErrPublicKey and ErrPCR.
var (
	ErrAK         = errors.New("attestation key is not the trusted one")
	ErrStatement  = errors.New("TPM statement is not the wanted one") // not a TPM's, of another type, of another signer
	ErrKey        = errors.New("attested key is not resident in the TPM")
	ErrAuthPolicy = errors.New("attested key's policy is not the expected one")
)

// ErrTooLarge is a Request with a field beyond its limit; nothing was sent.
var ErrTooLarge = errors.New("the attestation request is too large")
