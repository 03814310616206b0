package kms

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// What can go wrong between this machine and KMS, for errors.Is. Errors of
// opening an answer are those of package kms/cms.
var (
	ErrAccessDenied    = errors.New("access denied by KMS") // an *AccessError
	ErrThrottled       = errors.New("KMS asks to send fewer requests")
	ErrUnreachable     = errors.New("KMS cannot be reached")
	ErrUnavailable     = errors.New("KMS failed inside")
	ErrRegion          = errors.New("no region or another region's")
	ErrCredentials     = errors.New("no AWS credentials, or KMS refuses them")
	ErrCiphertext      = errors.New("KMS cannot decrypt: the ciphertext was changed, or its encryption context is another") // KMS does not say which
	ErrWrongKey        = errors.New("the ciphertext was made with another KMS key")
	ErrKeyNotFound     = errors.New("KMS has no such key")
	ErrKeyState        = errors.New("the KMS key is not in a state or of a kind for this")
	ErrDocument        = errors.New("the attestation document is not accepted")
	ErrDocumentExpired = errors.New("the attestation document has expired")
	ErrRecipientKey    = errors.New("the recipient key cannot receive answers of KMS")
	ErrPlaintext       = errors.New("KMS answered in the clear: the document was not taken into account and the answer is not used")
	ErrAnswer          = errors.New("the answer of KMS is not what was asked for")
	ErrInput           = errors.New("this cannot be given to KMS")
	ErrEndpoint        = errors.New("the endpoint is not allowed")
	ErrRefused         = errors.New("KMS refused the request") // for any other reason
	ErrClosed          = errors.New("the unwrapper was closed")
)

// AccessError is an ErrAccessDenied.
type AccessError struct {
	PCRs    map[int]string // what the document showed: PCRs 4, 7 and 12 in hex
	Message string         // KMS's own words
}

// Error names the PCRs that were sent.
func (e *AccessError) Error() string {
	var sent []string
	for _, i := range slices.Sorted(maps.Keys(e.PCRs)) {
		sent = append(sent, fmt.Sprintf("PCR%d %s", i, e.PCRs[i]))
	}
	return fmt.Sprintf("%v to a machine with %s: compare them with the conditions %s<n> of the key policy, and its principals with these credentials (KMS says %q)",
		ErrAccessDenied, strings.Join(sent, ", "), conditionPCR, e.Message)
}

// Unwrap gives ErrAccessDenied.
func (e *AccessError) Unwrap() error { return ErrAccessDenied }
