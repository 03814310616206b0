package cms

import "errors"

// Each failure of Open is one of these, by errors.Is.
var (
	ErrMalformed   = errors.New("CMS message is malformed") // not BER, or not EnvelopedData as KMS makes it
	ErrUnsupported = errors.New("CMS message has a version or algorithm not used by KMS")
	ErrRecipient   = errors.New("CMS message is for another key")
	ErrKey         = errors.New("the recipient key could not be used") // it wraps the key's own error
	// ErrDecrypt is returned bare for everything that decryption can reveal: a
	// bad OAEP block, a content key of another length, bad CBC padding.
	ErrDecrypt = errors.New("CMS message cannot be decrypted")
)
