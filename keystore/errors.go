package keystore

import "errors"

// Errors that callers tell apart with errors.Is.
var (
	ErrNotInitialized = errors.New("the store is not initialised")
	ErrInitialized    = errors.New("the store is initialised already")
	ErrNotFound       = errors.New("no such key")
	ErrAmbiguous      = errors.New("more than one key answers to this name")
	ErrExists         = errors.New("the store has this key already")
	ErrLabelTaken     = errors.New("the token has a key of this label")
	ErrReadOnly       = errors.New("the store cannot be written")
	ErrUnsafe         = errors.New("the store can be changed by others")
	ErrLocked         = errors.New("another process holds the store's lock")
	ErrLoginNeeded    = errors.New("the token's PIN is needed")
	ErrKeyPINNeeded   = errors.New("the key's own PIN is needed")
	ErrNoPIN          = errors.New("the token has no PIN")
	ErrPINLength      = errors.New("the PIN's length is out of range") // 4 to 64 bytes; own PINs at most 32
	ErrCorrupt        = errors.New("a store file is corrupt")
	ErrNewer          = errors.New("a store file was written by a newer version")
	ErrConflict       = errors.New("the key differs from its declaration")
	ErrUnfinished     = errors.New("an interrupted change of the key is not finished")
	ErrPolicyUnknown  = errors.New("the key's policy is not known")
	ErrPolicyIgnored  = errors.New("the key's policy is not enforced") // userWithAuth is set: the policy is decoration
	ErrOtherApproval  = errors.New("an approved policy of this name is there already, with other content")
	ErrInvalid        = errors.New("invalid argument")
	ErrOtherKey       = errors.New("the private key does not belong to the public key")
)
