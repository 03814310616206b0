package attest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/fxamacker/cbor/v2"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// Request is what a caller wants to have in a document. All of it is optional:
// nil leaves a field out.
type Request struct {
	PublicKey []byte // at most 1024 bytes; DER SubjectPublicKeyInfo by convention
	UserData  []byte // at most 512 bytes
	Nonce     []byte // at most 512 bytes
}

// Document asks a NitroTPM for an attestation document: COSE_Sign1 bytes, as
// Parse and Verify take them. Nothing about it was verified.
//
// It takes the owner hierarchy's authorization, one free NV index and 8 KiB of
// NV space for as long as it runs. Too large a field is ErrTooLarge before
// anything is sent, a TPM that is no NitroTPM provider.ErrUnsupported, and a
// refusal of the Nitro Security Module an NSMError.
func Document(ctx context.Context, tpm *provider.TPM, r Request) ([]byte, error) {
	document, err := r.send(ctx, tpm)
	if err != nil {
		return nil, fmt.Errorf("attestation document: %w", err)
	}
	return document, nil
}

func (r Request) send(ctx context.Context, tpm *provider.TPM) ([]byte, error) {
	request, err := r.marshal()
	if err != nil {
		return nil, err
	}
	answer, err := tpm.NSMRequest(ctx, request, complete)
	if err != nil {
		return nil, err
	}
	return parseAnswer(answer)
}

// marshal gives the request's CBOR, its fields in the order that AWS's own
// tool has.
func (r Request) marshal() ([]byte, error) {
	for _, f := range []struct {
		name  string
		value []byte
		most  int
	}{{"public key", r.PublicKey, maxPublicKey}, {"user data", r.UserData, maxUserData}, {"nonce", r.Nonce, maxNonce}} {
		if len(f.value) > f.most {
			return nil, fmt.Errorf("%w: %d bytes of %s: at most %d", ErrTooLarge, len(f.value), f.name, f.most)
		}
	}
	type fields struct {
		UserData  []byte `cbor:"user_data"` // a nil slice is null
		Nonce     []byte `cbor:"nonce"`
		PublicKey []byte `cbor:"public_key"`
	}
	return cbor.Marshal(struct{ Attestation fields }{fields{r.UserData, r.Nonce, r.PublicKey}})
}

// complete tells whether b begins with a whole CBOR item. What can never
// become one counts as whole: reading on is of no use.
func complete(b []byte) bool {
	var item cbor.RawMessage
	_, err := answers.UnmarshalFirst(b, &item)
	return !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF)
}

// answers decodes what comes from the TPM, which need not be what it should be.
var answers = must(cbor.DecOptions{
	DupMapKey:        cbor.DupMapKeyEnforcedAPF,
	TagsMd:           cbor.TagsForbidden,
	UTF8:             cbor.UTF8RejectInvalid,
	MaxNestedLevels:  4,
	MaxArrayElements: 16,
	MaxMapPairs:      16,
}.DecMode())

// parseAnswer reads {"Attestation": {"document": bytes}} or {"Error": text}.
// What follows it is left from other answers.
func parseAnswer(b []byte) ([]byte, error) {
	var answer struct {
		Attestation struct {
			Document []byte `cbor:"document"`
		}
		Error string
	}
	if _, err := answers.UnmarshalFirst(b, &answer); err != nil {
		return nil, fmt.Errorf("%w: %w", InvalidResponse, err)
	}
	switch document := answer.Attestation.Document; {
	case answer.Error != "":
		return nil, NSMError(answer.Error)
	case len(document) == 0:
		return nil, fmt.Errorf("%w: neither a document nor an error", InvalidResponse)
	default:
		return bytes.Clone(document), nil
	}
}
