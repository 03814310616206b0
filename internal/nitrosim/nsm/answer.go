package nsm

import (
	"errors"
	"fmt"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// Limits of a request's fields, in bytes.
const (
	MaxPublicKey = 1024
	MaxUserData  = 512
	MaxNonce     = 512
)

// Error is an NSM's refusal, by the name that it has on the wire.
type Error string

// The refusals of an NSM that attestation has.
const (
	InvalidArgument  Error = "InvalidArgument"  // not a well-formed request
	InvalidOperation Error = "InvalidOperation" // a well-formed one for something else
	InputTooLarge    Error = "InputTooLarge"    // a field beyond its limit
	BufferTooSmall   Error = "BufferTooSmall"   // no room for the document
	InternalError    Error = "InternalError"
)

func (e Error) Error() string { return "NSM: " + string(e) }

// PCRs are a TPM's SHA-384 bank.
type PCRs [24][]byte

// Answer carries out the request at the start of b and gives the answer, of at
// most len(b) bytes unless even an error is longer. What follows the request in
// b does not count.
func (a *Authority) Answer(b []byte, pcrs PCRs, now time.Time) []byte {
	answer, err := a.attest(b, pcrs, now)
	if err == nil && len(answer) > len(b) {
		err = BufferTooSmall
	}
	if err == nil {
		return answer
	}
	refusal := InternalError
	errors.As(err, &refusal)
	answer, err = cbor.Marshal(map[string]string{"Error": string(refusal)})
	if err != nil {
		panic(err) // a map of strings has an encoding
	}
	return answer
}

func (a *Authority) attest(b []byte, pcrs PCRs, now time.Time) ([]byte, error) {
	content, err := parseRequest(b)
	if err != nil {
		return nil, err
	}
	content.PCRs = pcrs
	draft, err := a.Draft(now, content)
	if err != nil {
		return nil, err
	}
	document, err := draft.Sign()
	if err != nil {
		return nil, err
	}
	return cbor.Marshal(map[string]any{"Attestation": map[string][]byte{"document": document}})
}

var requests = func() cbor.DecMode {
	mode, err := cbor.DecOptions{DupMapKey: cbor.DupMapKeyEnforcedAPF, MaxNestedLevels: 4, MaxMapPairs: 16}.DecMode()
	if err != nil {
		panic(err) // the options are constants
	}
	return mode
}()

// parseRequest reads {"Attestation": {"public_key", "user_data", "nonce"}},
// each a byte string, null or absent.
func parseRequest(b []byte) (Content, error) {
	var request map[string]cbor.RawMessage
	if _, err := requests.UnmarshalFirst(b, &request); err != nil {
		return Content{}, fmt.Errorf("%w: %w", InvalidArgument, err)
	}
	body, ok := request["Attestation"]
	if !ok || len(request) != 1 {
		return Content{}, InvalidOperation
	}
	var fields map[string]any
	if err := requests.Unmarshal(body, &fields); err != nil || fields == nil {
		return Content{}, InvalidArgument
	}
	var c Content
	for _, f := range []struct {
		name string
		into *[]byte
		max  int
	}{
		{"public_key", &c.PublicKey, MaxPublicKey},
		{"user_data", &c.UserData, MaxUserData},
		{"nonce", &c.Nonce, MaxNonce},
	} {
		switch v := fields[f.name].(type) {
		case nil:
		case []byte:
			if len(v) > f.max {
				return Content{}, InputTooLarge
			}
			*f.into = v
		default:
			return Content{}, InvalidArgument
		}
	}
	return c, nil
}
