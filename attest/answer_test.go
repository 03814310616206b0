package attest

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"
)

func TestARequestHasNullForWhatIsAbsent(t *testing.T) {
	t.Parallel()
	for want, r := range map[string]Request{
		"a16b4174746573746174696f6ea369757365725f64617461f6656e6f6e6365f66a7075626c69635f6b6579f6":        {},
		"a16b4174746573746174696f6ea369757365725f6461746141 02656e6f6e636541036a7075626c69635f6b65794101": {PublicKey: []byte{1}, UserData: []byte{2}, Nonce: []byte{3}},
	} {
		wanted, err := hex.DecodeString(string(bytes.ReplaceAll([]byte(want), []byte(" "), nil)))
		if err != nil {
			t.Fatal(err)
		}
		got, err := r.marshal()
		if err != nil || !bytes.Equal(got, wanted) {
			t.Errorf("%x, %v; want %x", got, err, wanted)
		}
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	const document = "\xa1\x6bAttestation\xa1\x68document\x43abc"
	for answer, want := range map[string]error{
		document + "stale\xff":                    nil,
		"\xa1\x65Error\x6fInvalidArgument\xff":    InvalidArgument,
		"\xa1\x65Error\x6dInputTooLargerest":      InputTooLarge,
		"\xa1\x65Error\x63New":                    NSMError("New"),
		"\xa1\x65Error\x60":                       InvalidResponse,
		"\xa1\x6bAttestation\xa1\x68document\x40": InvalidResponse,
		"\xa1\x6bAttestation\xa1\x65nonce\xf6":    InvalidResponse, // the request, not answered
		"\xa0":                                    InvalidResponse,
		"\xff\xff":                                InvalidResponse,
		"\x63abc":                                 InvalidResponse,
		"":                                        InvalidResponse,
		document[:len(document)-1]:                InvalidResponse,
		"\xa2\x65Error\x61a\x65Error\x61b":        InvalidResponse,
	} {
		got, err := parseAnswer([]byte(answer))
		if !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("%q: %v, want %v", answer, err, want)
		}
		if want == nil && string(got) != "abc" {
			t.Errorf("%q: %q", answer, got)
		}
	}
}

func TestReadingEndsWithTheAnswer(t *testing.T) {
	t.Parallel()
	answer := []byte("\xa1\x6bAttestation\xa1\x68document\x43abc")
	for n := range answer {
		if complete(answer[:n]) {
			t.Errorf("%d of %d bytes are taken for a whole answer", n, len(answer))
		}
	}
	for _, whole := range [][]byte{answer, append(answer, 0xff, 0xff), []byte("\xff\xff\xff")} {
		if !complete(whole) {
			t.Errorf("%x is read on", whole)
		}
	}
}
