package client

import (
	"errors"
	"fmt"
)

// RV is a CKR_ value (PKCS #11 v3.1, section 5.1) that a call was answered with, as an error.
type RV uint64

// The values that callers tell apart.
const (
	RVDataInvalid             RV = 0x20
	RVDataLenRange            RV = 0x21
	RVDeviceError             RV = 0x30
	RVDeviceRemoved           RV = 0x32
	RVEncryptedDataInvalid    RV = 0x40
	RVEncryptedDataLenRange   RV = 0x41
	RVKeyHandleInvalid        RV = 0x60
	RVKeyFunctionNotPermitted RV = 0x68
	RVMechanismInvalid        RV = 0x70
	RVMechanismParamInvalid   RV = 0x71
	RVObjectHandleInvalid     RV = 0x82
	RVPINIncorrect            RV = 0xA0
	RVPINLenRange             RV = 0xA2
	RVPINLocked               RV = 0xA4
	RVSessionHandleInvalid    RV = 0xB3
	RVTokenNotRecognized      RV = 0xE1
	RVUserAlreadyLoggedIn     RV = 0x100
	RVUserNotLoggedIn         RV = 0x101
	RVFunctionRejected        RV = 0x200

	rvOK                   RV = 0
	rvAttributeSensitive   RV = 0x11
	rvAttributeTypeInvalid RV = 0x12
)

// rvTexts are names, and what they mean where that is not the caller's doing.
var rvTexts = map[RV]string{
	RVDataInvalid:             "CKR_DATA_INVALID",
	RVDataLenRange:            "CKR_DATA_LEN_RANGE",
	RVDeviceError:             "CKR_DEVICE_ERROR, its TPM failed",
	RVDeviceRemoved:           "CKR_DEVICE_REMOVED, it does not reach its TPM",
	RVEncryptedDataInvalid:    "CKR_ENCRYPTED_DATA_INVALID",
	RVEncryptedDataLenRange:   "CKR_ENCRYPTED_DATA_LEN_RANGE",
	RVKeyHandleInvalid:        "CKR_KEY_HANDLE_INVALID, the key is gone",
	RVKeyFunctionNotPermitted: "CKR_KEY_FUNCTION_NOT_PERMITTED, the key was not made for this, or this user may not use it for this",
	RVMechanismInvalid:        "CKR_MECHANISM_INVALID",
	RVMechanismParamInvalid:   "CKR_MECHANISM_PARAM_INVALID",
	RVObjectHandleInvalid:     "CKR_OBJECT_HANDLE_INVALID, the object is gone",
	RVPINIncorrect:            "CKR_PIN_INCORRECT",
	RVPINLenRange:             "CKR_PIN_LEN_RANGE",
	RVPINLocked:               "CKR_PIN_LOCKED",
	RVSessionHandleInvalid:    "CKR_SESSION_HANDLE_INVALID",
	RVTokenNotRecognized:      "CKR_TOKEN_NOT_RECOGNIZED",
	RVUserAlreadyLoggedIn:     "CKR_USER_ALREADY_LOGGED_IN",
	RVUserNotLoggedIn:         "CKR_USER_NOT_LOGGED_IN",
	RVFunctionRejected:        "CKR_FUNCTION_REJECTED, the key's policy is not met",
}

func (rv RV) Error() string {
	if text, ok := rvTexts[rv]; ok {
		return "the server answers " + text
	}
	return fmt.Sprintf("the server answers CKR_ 0x%X", uint64(rv))
}

var (
	// ErrUnreachable tells that no server answers at the socket.
	ErrUnreachable = errors.New("no server answers")
	// ErrNoAccess tells that the server lets this process's user use no key.
	ErrNoAccess = errors.New("the server lets this user use no key")
	// ErrClosed tells that the Client was closed.
	ErrClosed = errors.New("closed")

	// errLost tells that a connection ended; whether the server acted on what was sent is not known.
	errLost = errors.New("the connection to the server was lost")
)
