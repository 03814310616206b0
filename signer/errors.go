package signer

import (
	"errors"

	"github.com/tpm2-p11/tpm2-p11/internal/client"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// Errors of finding and opening a key, for errors.Is.
var (
	ErrNotInitialized = keystore.ErrNotInitialized // there is no store yet
	ErrNotFound       = keystore.ErrNotFound       // no key answers to the name
	ErrAmbiguous      = keystore.ErrAmbiguous      // several do; the error names them
	ErrPINNeeded      = keystore.ErrLoginNeeded    // the token has a PIN and none was given
	ErrKeyPINNeeded   = keystore.ErrKeyPINNeeded   // the key has a PIN of its own and none was given
	ErrUnfinished     = keystore.ErrUnfinished     // it is half deleted
	ErrPolicyUnknown  = keystore.ErrPolicyUnknown  // it has a policy, and the store does not say which
	ErrNoAccess       = client.ErrNoAccess         // the server lets this process's user use no key
	ErrNoCertificate  = errors.New("the key has no certificate")
)

// Errors of using a key, for errors.Is.
var (
	ErrPolicy        = provider.ErrPolicy        // the key's policy is not met; see PolicyError
	ErrPIN           = provider.ErrAuth          // wrong PIN, counted by the TPM
	ErrLockout       = provider.ErrLockout       // too many wrong PINs: the TPM takes none for a while
	ErrUnavailable   = provider.ErrUnavailable   // no TPM, no permission, connection lost
	ErrBusy          = provider.ErrBusy          // another program holds the TPM
	ErrFailure       = provider.ErrFailure       // the TPM is in failure mode: restart the machine
	ErrIntegrity     = provider.ErrIntegrity     // an answer was forged or damaged, and nothing of it returned
	ErrMalformed     = provider.ErrMalformed     // an answer was none
	ErrNoMemory      = provider.ErrNoMemory      // programs have too much loaded in the TPM
	ErrWrongTPM      = provider.ErrWrongTPM      // the key was made in another TPM
	ErrParentChanged = provider.ErrParentChanged // the TPM was cleared or is another one, or a program removed its storage root key
	ErrNoObject      = provider.ErrNoObject      // the key is no longer at its persistent handle
	ErrOtherObject   = provider.ErrOtherObject   // another one is there now
	ErrUnsupported   = provider.ErrUnsupported   // this TPM lacks the algorithm
	ErrWrongUse      = provider.ErrWrongUse      // the key was not made for this
	ErrDecrypt       = provider.ErrDecrypt       // a bad ciphertext, whatever is bad about it
	ErrClosed        = provider.ErrClosed        // the key was closed
	ErrAlgorithm     = errors.New("the algorithm is not offered")
	ErrLength        = errors.New("the length of the input is wrong")
	ErrForked        = errors.New("the key was opened by another process and does not survive fork: open it in this one")
)

// PolicyError tells what keeps a key's policy from being met: which PCR, with
// its current and its approved value, or which other node, with what it wants
// and what the TPM has in words. Get it with errors.As from an ErrPolicy.
type PolicyError = policy.UnsatisfiedError
