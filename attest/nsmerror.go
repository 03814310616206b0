package attest

import "fmt"

// NSMError is a refusal of the Nitro Security Module, by the name that it has
// in answers. Names that are not listed here are possible.
type NSMError string

// The refusals that the NSM's interface has.
const (
	InvalidArgument  NSMError = "InvalidArgument"  // a field of the request is not what it must be
	InvalidIndex     NSMError = "InvalidIndex"     // a PCR that does not exist
	InvalidResponse  NSMError = "InvalidResponse"  // the answer cannot be understood
	ReadOnlyIndex    NSMError = "ReadOnlyIndex"    // a PCR that cannot be changed
	InvalidOperation NSMError = "InvalidOperation" // not possible in this state
	BufferTooSmall   NSMError = "BufferTooSmall"   // the answer has no room
	InputTooLarge    NSMError = "InputTooLarge"    // a field of the request is too long
	InternalError    NSMError = "InternalError"
)

var nsmErrors = map[NSMError]string{
	InvalidArgument:  "the request is not well formed",
	InvalidIndex:     "there is no such PCR",
	InvalidResponse:  "the answer cannot be understood",
	ReadOnlyIndex:    "the PCR is read-only",
	InvalidOperation: "the operation is not possible",
	BufferTooSmall:   "the document has no room in the buffer",
	InputTooLarge:    "a field of the request is too large",
	InternalError:    "it failed inside",
}

// Error names the refusal.
func (e NSMError) Error() string {
	if meaning, ok := nsmErrors[e]; ok {
		return fmt.Sprintf("the Nitro Security Module: %s (%s)", meaning, string(e))
	}
	return fmt.Sprintf("the Nitro Security Module: error %q", string(e))
}
