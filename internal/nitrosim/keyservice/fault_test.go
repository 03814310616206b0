package keyservice_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	awskms "github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/keyservice"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/simtest"
	"github.com/tpm2-p11/tpm2-p11/kms/cms"
)

func TestFaultsBefallTheNextRequests(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	client := m.kms.Client(simtest.MachineRole)
	ask := func() ([]byte, *awskms.GenerateRandomOutput, error) {
		out, err := client.GenerateRandom(t.Context(), &awskms.GenerateRandomInput{NumberOfBytes: aws.Int32(32), Recipient: m.recipient()})
		if err != nil {
			return nil, nil, err
		}
		plaintext, err := cms.Open(t.Context(), out.CiphertextForRecipient, recipientKey())
		if err != nil {
			return nil, out, err
		}
		defer plaintext.Wipe()
		return bytes.Clone(plaintext.Bytes()), out, nil
	}
	good := func(after keyservice.Fault) {
		t.Helper()
		if plaintext, _, err := ask(); err != nil || len(plaintext) != 32 {
			t.Errorf("after %s: %d bytes, error %v", after, len(plaintext), err)
		}
	}

	m.kms.Inject(keyservice.Throttle, 2)
	for range 2 {
		_, _, err := ask()
		refused(t, "throttled", err, "ThrottlingException")
	}
	good(keyservice.Throttle)

	m.kms.Inject(keyservice.Unavailable, 1)
	_, _, err := ask()
	refused(t, "unavailable", err, "KMSInternalException")
	good(keyservice.Unavailable)

	m.kms.Inject(keyservice.Close, 1)
	if _, _, err = ask(); !errors.Is(err, io.EOF) {
		t.Errorf("closed without an answer: %v", err)
	}
	good(keyservice.Close)

	m.kms.Inject(keyservice.Truncate, 1)
	if _, _, err = ask(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("closed in the middle of the answer: %v", err)
	}
	good(keyservice.Truncate)

	m.kms.Inject(keyservice.WrongKey, 1)
	if _, _, err = ask(); !errors.Is(err, cms.ErrRecipient) {
		t.Errorf("for another key: %v", err)
	}
	good(keyservice.WrongKey)

	m.kms.Inject(keyservice.Flip, 1)
	if _, _, err = ask(); err == nil {
		t.Error("an answer with a flipped bit opens")
	}
	good(keyservice.Flip)

	m.kms.Inject(keyservice.Short, 1)
	if plaintext, _, err := ask(); err != nil || len(plaintext) != 31 {
		t.Errorf("short: %d bytes, error %v", len(plaintext), err)
	}
	good(keyservice.Short)

	m.kms.Inject(keyservice.Open, 1)
	if _, out, _ := ask(); len(out.Plaintext) != 32 || out.CiphertextForRecipient != nil {
		t.Errorf("in the clear: %+v", out)
	}
	good(keyservice.Open)

	// Requests without a document do not use up what befalls attested ones.
	m.kms.Inject(keyservice.Short, 1)
	if out, err := client.GenerateRandom(t.Context(), &awskms.GenerateRandomInput{NumberOfBytes: aws.Int32(32)}); err != nil || len(out.Plaintext) != 32 {
		t.Errorf("%+v, error %v", out, err)
	}
	m.kms.Inject(keyservice.Short, 0)
	good("taking it back")
}

func TestFaultsAreInjectedOverHTTP(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	send := func(method, fault string) int {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, m.kms.URL+keyservice.PathFaults, strings.NewReader(fault))
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return response.StatusCode
	}
	for fault, want := range map[string]int{"fire:1": 400, "throttle:x": 400, "throttle:-1": 400, "": 400, strings.Repeat("throttle", 100): 405} {
		if got := send(http.MethodPost, fault); got != want {
			t.Errorf("%.20q: HTTP status %d", fault, got)
		}
	}
	if got := send(http.MethodGet, ""); got != http.StatusMethodNotAllowed {
		t.Errorf("GET: HTTP status %d", got)
	}
	if got := send(http.MethodPost, "throttle\n"); got != http.StatusOK {
		t.Errorf("HTTP status %d", got)
	}
	refused(t, "throttled", random(t.Context(), m.kms.Client(simtest.MachineRole)), "ThrottlingException")
	if err := random(t.Context(), m.kms.Client(simtest.MachineRole)); err != nil {
		t.Error(err)
	}
}
