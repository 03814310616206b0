package p11

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

func TestErrorsBecomeReturnValues(t *testing.T) {
	for _, c := range []struct {
		err  error
		want RV
	}{
		{nil, CKR_OK},
		{CKR_DATA_INVALID, CKR_DATA_INVALID},
		{refuse(CKR_TEMPLATE_INCONSISTENT, "because"), CKR_TEMPLATE_INCONSISTENT},
		{fmt.Errorf("signing: %w", provider.ErrAuth), CKR_PIN_INCORRECT},
		{fmt.Errorf("signing: %w", provider.ErrLockout), CKR_PIN_LOCKED},
		{fmt.Errorf("signing: %w", provider.ErrPolicy), CKR_FUNCTION_REJECTED},
		{fmt.Errorf("signing: %w", &policy.UnsatisfiedError{}), CKR_FUNCTION_REJECTED},
		{fmt.Errorf("signing: %w", provider.ErrUnavailable), CKR_DEVICE_REMOVED},
		{provider.ErrIntegrity, CKR_DEVICE_ERROR},
		{provider.ErrNoSpace, CKR_DEVICE_MEMORY},
		{provider.ErrHandleTaken, CKR_FUNCTION_FAILED},
		{provider.ErrNoObject, CKR_OBJECT_HANDLE_INVALID},
		{provider.ErrOtherObject, CKR_OBJECT_HANDLE_INVALID},
		{provider.ErrDecrypt, CKR_ENCRYPTED_DATA_INVALID},
		{keystore.ErrReadOnly, CKR_TOKEN_WRITE_PROTECTED},
		{keystore.ErrLoginNeeded, CKR_USER_NOT_LOGGED_IN},
		{context.DeadlineExceeded, CKR_DEVICE_ERROR},
		{fmt.Errorf("%w: no answer: %w", provider.ErrUnavailable, context.DeadlineExceeded), CKR_DEVICE_ERROR},
		{provider.ErrFailure, CKR_DEVICE_ERROR},
		{&fs.PathError{Op: "write", Path: "key", Err: syscall.ENOSPC}, CKR_DEVICE_MEMORY},
		{&fs.PathError{Op: "write", Path: "key", Err: syscall.EDQUOT}, CKR_DEVICE_MEMORY},
		{&fs.PathError{Op: "read", Path: "key", Err: syscall.EIO}, CKR_DEVICE_ERROR},
		{fmt.Errorf("%w: %w", provider.ErrUnavailable, syscall.EIO), CKR_DEVICE_REMOVED},
		{errors.New("something else"), CKR_FUNCTION_FAILED},
	} {
		if got := RVOf(c.err); got != c.want {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
	}
	if CKR_OK.Error() != "CKR_OK" || RV(0x4711).Error() != "CKR 0x00004711" {
		t.Errorf("%v, %v", CKR_OK, RV(0x4711))
	}
}
