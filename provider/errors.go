package provider

import (
	"errors"
	"fmt"
)

// Errors that callers tell apart with errors.Is. A response code of the TPM arrives as a *ResponseError
// that wraps the one it stands for.
var (
	// ErrClosed: Close was called.
	ErrClosed = errors.New("the TPM was closed")
	// ErrUnavailable: no device, no permission, connection lost, TPM not started; it wraps the cause.
	ErrUnavailable = errors.New("the TPM cannot be reached")
	// ErrBusy: the TPM asked for patience beyond the deadline, or another client holds it.
	ErrBusy = errors.New("the TPM is busy")
	// ErrIntegrity: a wrong response HMAC, a wrong Name, or a signature that does not verify.
	ErrIntegrity = errors.New("a TPM response was not authentic")
	// ErrMalformed: a response that cannot be read.
	ErrMalformed = errors.New("a TPM response was malformed")
	// ErrFailure: the TPM is in failure mode (TPM_RC_FAILURE), which only a restart of the machine ends.
	ErrFailure = errors.New("the TPM has failed")
	// ErrAuth: the authValue was not the object's.
	ErrAuth = errors.New("wrong PIN or authorisation value")
	// ErrLockout: objects under dictionary-attack protection cannot be used for now.
	ErrLockout = errors.New("the TPM is in dictionary-attack lockout")
	// ErrPolicy: a policy is not met. It wraps a *policy.UnsatisfiedError when the cause is known.
	ErrPolicy = errors.New("the object's policy refuses this use")
	// ErrHandleTaken: another object is persistent at the handle.
	ErrHandleTaken = errors.New("the persistent handle is taken")
	// ErrNoObject: nothing is at the handle.
	ErrNoObject = errors.New("there is no object at this handle")
	// ErrOtherObject: something else is at the handle; it comes as an *OtherObjectError.
	ErrOtherObject = errors.New("another object is at this handle")
	// ErrOtherIndex: an NV index of another kind has the number; it is left as it is.
	ErrOtherIndex = errors.New("another NV index is there")
	// ErrParentChanged: the storage root key's Name is not the pinned one, or nothing is at its handle. No secret was sent.
	ErrParentChanged = errors.New("the storage root key is not the one this store was made with")
	// ErrWrongTPM: the TPM refused to load an object (TPM_RC_INTEGRITY, TPM_RC_BINDING).
	ErrWrongTPM = errors.New("the object was made in another TPM or under another parent")
	// ErrNoSpace: no room; ErrNoMemory or ErrNoNV.
	ErrNoSpace = errors.New("the TPM has no room")
	// ErrNoMemory is an ErrNoSpace: too many objects or sessions are loaded, by whomever. They are gone after a restart.
	ErrNoMemory = fmt.Errorf("%w for another loaded object or session", ErrNoSpace)
	// ErrNoNV is an ErrNoSpace: persistent objects and NV indices fill the TPM's NV memory.
	ErrNoNV = fmt.Errorf("%w in its NV memory", ErrNoSpace)
	// ErrUnsupported: an algorithm, size or command that the TPM does not have.
	ErrUnsupported = errors.New("the TPM does not support this")
	// ErrWrongUse: the key's type or attributes do not allow the operation, or its input does not fit the key.
	ErrWrongUse = errors.New("the key does not permit this use")
	// ErrDecrypt is returned bare for every kind of bad ciphertext, so that nobody can tell one from another.
	ErrDecrypt = errors.New("decryption failed")
	// ErrHierarchyAuth: the owner, lockout or endorsement hierarchy has another auth value than was given; it comes as a *HierarchyError.
	ErrHierarchyAuth = errors.New("a hierarchy's authorisation is missing or wrong")
)
