package attest

import (
	"bytes"
	"errors"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/provider"
)

// FuzzAnswer: whatever a TPM answers, it is a document, an NSM error, or read on.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte("\xa1\x6bAttestation\xa1\x68document\x43abc"))
	f.Add([]byte("\xa1\x65Error\x6fInvalidArgument\xff"))
	f.Add([]byte("\xbf\x65Error\x7f\x61a\x61b\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		document, err := parseAnswer(b)
		if (err == nil) != (len(document) > 0) || err != nil && !errors.As(err, new(NSMError)) {
			t.Errorf("%x, %v", document, err)
		}
		if err == nil && (!complete(b) || !bytes.Contains(b, document[:1])) {
			t.Errorf("a document of an answer that is not whole")
		}
	})
}

// FuzzEvidence: no file crashes the verifier, and none is accepted whose signatures nobody made.
func FuzzEvidence(f *testing.F) {
	f.Add([]byte(`{"format":"tpm2-p11 key evidence 1","ak":"AAEACwAFAHIAAAAQABAIAAAAAAAAAA==","ak_hierarchy":"owner","key":"AAEACwAFAHIAAAAQABAIAAAAAAAAAA==","certify":{"attest":"/1RDRw==","signature":"ABgACw=="},"pcrs":{"sha256":{"7":"00"}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEvidence(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("an untyped refusal: %v", err)
			}
			return
		}
		if VerifyKey(e, KeyPolicy{AK: e.AK.Name(), Nonce: []byte("a nonce"), PCRs: []provider.PCRValues{}}) == nil {
			t.Errorf("accepted %q", b)
		}
	})
}
