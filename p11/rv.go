package p11

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/kms"
	"github.com/tpm2-p11/tpm2-p11/kms/cms"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
	"github.com/tpm2-p11/tpm2-p11/signer"
)

// Error is the CKR_ name.
func (rv RV) Error() string {
	if name, ok := rvNames[rv]; ok {
		return name
	}
	return fmt.Sprintf("CKR 0x%08x", uint64(rv))
}

// refuse is an RV with a reason for the log.
func refuse(rv RV, format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), rv)
}

// rvTable says which return value an error of the layers below becomes; the first that matches counts.
var rvTable = []struct {
	err error
	rv  RV
}{
	{provider.ErrAuth, CKR_PIN_INCORRECT}, // of a login, and of a key whose own PIN is first checked by its use
	{provider.ErrLockout, CKR_PIN_LOCKED},
	{provider.ErrPolicy, CKR_FUNCTION_REJECTED},
	{provider.ErrHierarchyAuth, CKR_FUNCTION_REJECTED},
	{context.DeadlineExceeded, CKR_DEVICE_ERROR}, // a TPM that does not answer is still there
	{provider.ErrUnavailable, CKR_DEVICE_REMOVED},
	{provider.ErrClosed, CKR_CRYPTOKI_NOT_INITIALIZED},
	{provider.ErrBusy, CKR_DEVICE_ERROR},
	{provider.ErrFailure, CKR_DEVICE_ERROR},
	{provider.ErrMalformed, CKR_DEVICE_ERROR},
	{provider.ErrIntegrity, CKR_DEVICE_ERROR},
	{provider.ErrParentChanged, CKR_DEVICE_ERROR},
	{provider.ErrWrongTPM, CKR_DEVICE_ERROR},
	{provider.ErrNoSpace, CKR_DEVICE_MEMORY},
	{provider.ErrHandleTaken, CKR_FUNCTION_FAILED},    // not CKR_DEVICE_MEMORY: the TPM may have room, and the log says what is where
	{provider.ErrNoObject, CKR_OBJECT_HANDLE_INVALID}, // CKR_KEY_HANDLE_INVALID where a key is used
	{provider.ErrOtherObject, CKR_OBJECT_HANDLE_INVALID},
	{provider.ErrDecrypt, CKR_ENCRYPTED_DATA_INVALID},
	{provider.ErrWrongUse, CKR_KEY_FUNCTION_NOT_PERMITTED},
	{policy.ErrBankInactive, CKR_FUNCTION_FAILED}, // an ErrUnsupported, and of a policy
	{provider.ErrUnsupported, CKR_MECHANISM_INVALID},
	{keystore.ErrNotInitialized, CKR_TOKEN_NOT_RECOGNIZED},
	{keystore.ErrInitialized, CKR_FUNCTION_REJECTED},
	{keystore.ErrNotFound, CKR_OBJECT_HANDLE_INVALID},
	{keystore.ErrReadOnly, CKR_TOKEN_WRITE_PROTECTED},
	{keystore.ErrLoginNeeded, CKR_USER_NOT_LOGGED_IN},
	{keystore.ErrKeyPINNeeded, CKR_USER_NOT_LOGGED_IN},
	{keystore.ErrNoPIN, CKR_USER_PIN_NOT_INITIALIZED},
	{keystore.ErrPINLength, CKR_PIN_LEN_RANGE},
	{keystore.ErrCorrupt, CKR_DEVICE_ERROR},
	{keystore.ErrNewer, CKR_TOKEN_NOT_RECOGNIZED},
	{keystore.ErrExists, CKR_TEMPLATE_INCONSISTENT},
	{keystore.ErrConflict, CKR_TEMPLATE_INCONSISTENT},
	{keystore.ErrUnfinished, CKR_OBJECT_HANDLE_INVALID},
	{keystore.ErrPolicyUnknown, CKR_FUNCTION_REJECTED},
	{keystore.ErrInvalid, CKR_ARGUMENTS_BAD},
	{signer.ErrAlgorithm, CKR_DATA_INVALID}, // a DigestInfo of a hash that is not signed
	{signer.ErrLength, CKR_DATA_LEN_RANGE},
	{signer.ErrForked, CKR_CRYPTOKI_NOT_INITIALIZED},
	{kms.ErrAccessDenied, CKR_FUNCTION_REJECTED},
	{kms.ErrCiphertext, CKR_WRAPPED_KEY_INVALID},
	{kms.ErrWrongKey, CKR_WRAPPED_KEY_INVALID},
	{kms.ErrInput, CKR_MECHANISM_PARAM_INVALID},
	{kms.ErrRecipientKey, CKR_UNWRAPPING_KEY_SIZE_RANGE},
	{kms.ErrPlaintext, CKR_ENCRYPTED_DATA_INVALID},
	{kms.ErrAnswer, CKR_ENCRYPTED_DATA_INVALID},
	{cms.ErrRecipient, CKR_ENCRYPTED_DATA_INVALID},
	{cms.ErrDecrypt, CKR_ENCRYPTED_DATA_INVALID},
	{cms.ErrMalformed, CKR_ENCRYPTED_DATA_INVALID},
	{cms.ErrUnsupported, CKR_ENCRYPTED_DATA_INVALID},
	{kms.ErrDocument, CKR_DEVICE_ERROR},
	{kms.ErrDocumentExpired, CKR_DEVICE_ERROR},
	{kms.ErrClosed, CKR_USER_NOT_LOGGED_IN},
	// Without access to AWS, a key there or a region it is CKR_FUNCTION_FAILED, as for all that the log alone can tell.
	// Of the disk: to an application the store is part of the token.
	{syscall.ENOSPC, CKR_DEVICE_MEMORY},
	{syscall.EDQUOT, CKR_DEVICE_MEMORY},
	{syscall.EIO, CKR_DEVICE_ERROR},
	{context.Canceled, CKR_FUNCTION_CANCELED},
}

// RVOf is the return value that tells an error to a Cryptoki application: CKR_OK for nil.
func RVOf(err error) RV {
	if err == nil {
		return CKR_OK
	}
	var rv RV
	if errors.As(err, &rv) {
		return rv
	}
	for _, row := range rvTable {
		if errors.Is(err, row.err) {
			return row.rv
		}
	}
	var unsatisfied *policy.UnsatisfiedError
	if errors.As(err, &unsatisfied) {
		return CKR_FUNCTION_REJECTED
	}
	return CKR_FUNCTION_FAILED
}
