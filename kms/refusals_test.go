package kms_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tpm2-p11/tpm2-p11/attest"
	simcms "github.com/tpm2-p11/tpm2-p11/internal/nitrosim/cms"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/nsm"
	"github.com/tpm2-p11/tpm2-p11/kms"
	"github.com/tpm2-p11/tpm2-p11/kms/cms"
)

// notRSA is a Decrypter with a key of another kind.
type notRSA struct{ *ecdsa.PrivateKey }

func (notRSA) Decrypt(io.Reader, []byte, crypto.DecrypterOpts) ([]byte, error) {
	return nil, errors.New("asked to decrypt")
}

func TestAMachineOfAnotherImageIsDenied(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	ciphertext := m.encrypt(t, "secret", context1)
	m.pcrs[4] = bytes.Repeat([]byte{0xbb}, 48)
	_, err := m.unwrapper(t).Unwrap(t.Context(), ciphertext, context1)
	var denied *kms.AccessError
	if !errors.Is(err, kms.ErrAccessDenied) || !errors.As(err, &denied) {
		t.Fatalf("got %v", err)
	}
	for _, i := range []int{4, 7, 12} {
		if value := hex.EncodeToString(m.pcrs[i]); denied.PCRs[i] != value || !strings.Contains(err.Error(), value) {
			t.Errorf("the refusal does not name PCR%d: %v", i, err)
		}
	}
	if len(denied.PCRs) != 3 {
		t.Errorf("%d PCRs", len(denied.PCRs))
	}
}

func TestAnotherEncryptionContextDoesNotUnwrap(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	u := m.unwrapper(t)
	ciphertext := m.encrypt(t, "secret", context1)
	for _, other := range []map[string]string{nil, {"service": "payroll"}, {"service": "payroll", "stage": "test"}} {
		if _, err := u.Unwrap(t.Context(), ciphertext, other); !errors.Is(err, kms.ErrCiphertext) {
			t.Errorf("%v: %v", other, err)
		}
	}
	ciphertext[20] ^= 1
	if _, err := u.Unwrap(t.Context(), ciphertext, context1); !errors.Is(err, kms.ErrCiphertext) {
		t.Errorf("a flipped bit: %v", err)
	}
}

func TestForeignAndExpiredDocumentsAreRefused(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	stranger, err := nsm.New("i-0123456789abcdef0", region, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	old, err := nsm.New("i-0123456789abcdef0", region, time.Now().Add(-6*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name      string
		authority *nsm.Authority
		made      time.Time
		want      error
	}{
		{"foreign", stranger, time.Now(), kms.ErrDocument},
		{"expired", old, time.Now().Add(-5 * time.Hour), kms.ErrDocumentExpired},
	} {
		documents := func(_ context.Context, r attest.Request) ([]byte, error) {
			d, err := c.authority.Draft(c.made, nsm.Content{PCRs: m.pcrs, PublicKey: r.PublicKey})
			if err != nil {
				return nil, err
			}
			return d.Sign()
		}
		client, err := kms.NewClient(m.service(t), documents, recipientKey())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.GenerateRandom(t.Context(), 32); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestEachRefusalOfKMSHasItsError(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	u := m.unwrapper(t)
	ciphertext := m.encrypt(t, "secret", context1)
	for _, c := range []struct {
		refusal refusal
		want    error
	}{
		{refusal{code: "AccessDeniedException", message: "explicit deny"}, kms.ErrAccessDenied},
		{refusal{code: "ThrottlingException", message: "Rate exceeded"}, kms.ErrThrottled},
		{refusal{code: "LimitExceededException"}, kms.ErrThrottled},
		{refusal{code: "InvalidCiphertextException"}, kms.ErrCiphertext},
		{refusal{code: "IncorrectKeyException"}, kms.ErrWrongKey},
		{refusal{code: "NotFoundException", message: "Key does not exist"}, kms.ErrKeyNotFound},
		{refusal{code: "NotFoundException", message: "Invalid arn us-west-2"}, kms.ErrRegion},
		{refusal{code: "InvalidSignatureException", message: "Credential should be scoped to a valid region."}, kms.ErrRegion},
		{refusal{code: "DisabledException"}, kms.ErrKeyState},
		{refusal{code: "KMSInvalidStateException", message: "pending deletion", status: 409}, kms.ErrKeyState},
		{refusal{code: "InvalidKeyUsageException"}, kms.ErrKeyState},
		{refusal{code: "UnrecognizedClientException", message: "The security token is invalid"}, kms.ErrCredentials},
		{refusal{code: "ExpiredTokenException"}, kms.ErrCredentials},
		{refusal{code: "InvalidSignatureException", message: "Signature expired"}, kms.ErrCredentials},
		{refusal{code: "KMSInternalException", status: 500}, kms.ErrUnavailable},
		{refusal{code: "DependencyTimeoutException", status: 503}, kms.ErrUnavailable},
		{refusal{code: "KeyUnavailableException", status: 500}, kms.ErrUnavailable},
		{refusal{code: "ValidationException", message: "The attestation document has expired"}, kms.ErrDocumentExpired},
		{refusal{code: "ValidationException", message: "Attestation document cannot be parsed"}, kms.ErrDocument},
		{refusal{code: "ValidationException", message: "something else"}, kms.ErrRefused},
		{refusal{code: "NeverHeardOfException"}, kms.ErrRefused},
	} {
		m.kms.fault = func(_ int, _ question, w http.ResponseWriter) bool { refuse(w, &c.refusal); return true }
		s, err := u.Unwrap(t.Context(), ciphertext, context1)
		if !errors.Is(err, c.want) || s != nil {
			t.Errorf("%s %q: %v", c.refusal.code, c.refusal.message, err)
		}
	}
}

func TestThrottlingIsWaitedOut(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	ciphertext := m.encrypt(t, "secret", context1)
	m.kms.fault = func(n int, _ question, w http.ResponseWriter) bool {
		if n > 3 {
			return false
		}
		refuse(w, &refusal{code: "ThrottlingException"})
		return true
	}
	if _, err := m.unwrapper(t).Unwrap(t.Context(), ciphertext, context1); err != nil {
		t.Error(err)
	}
	if n := len(m.kms.seen()); n != 4 {
		t.Errorf("%d requests", n)
	}
}

func TestAnswersThatAreNotWhatWasAskedForAreRefused(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	another := newRSA()
	closed := func(plaintext []byte) []byte {
		b, err := simcms.Encrypt(&recipientKey().PublicKey, plaintext, simcms.Primitive)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, c := range []struct {
		name string
		bend func(answer)
		want error
	}{
		{"in the clear", func(a answer) { delete(a, "CiphertextForRecipient"); a["Plaintext"] = []byte("plaintext") }, kms.ErrPlaintext},
		{"in the clear too", func(a answer) { a["Plaintext"] = make([]byte, 32) }, kms.ErrPlaintext},
		{"for nobody", func(a answer) { delete(a, "CiphertextForRecipient") }, kms.ErrAnswer},
		{"of nothing", func(a answer) { a["CiphertextForRecipient"] = closed(nil) }, kms.ErrAnswer},
		{"a key of 31 bytes", func(a answer) { a["CiphertextForRecipient"] = closed(make([]byte, 31)) }, kms.ErrAnswer},
		{"a key of 33 bytes", func(a answer) { a["CiphertextForRecipient"] = closed(make([]byte, 33)) }, kms.ErrAnswer},
		{"without ciphertext", func(a answer) { delete(a, "CiphertextBlob") }, kms.ErrAnswer},
		{"of another KMS key", func(a answer) { a["KeyId"] = strings.Replace(keyARN, "1234abcd", "ffffffff", 1) }, kms.ErrAnswer},
		{"of no KMS key", func(a answer) { delete(a, "KeyId") }, kms.ErrAnswer},
		{"for another key", func(a answer) {
			b, err := simcms.Encrypt(&another.PublicKey, make([]byte, 32), simcms.Constructed)
			if err != nil {
				t.Error(err)
			}
			a["CiphertextForRecipient"] = b
		}, cms.ErrRecipient},
		{"a CMS cut short", func(a answer) { b := a["CiphertextForRecipient"].([]byte); a["CiphertextForRecipient"] = b[:len(b)-9] }, cms.ErrMalformed},
		{"a flipped bit", func(a answer) { a["CiphertextForRecipient"].([]byte)[200] ^= 1 }, cms.ErrDecrypt},
		{"a CMS that is too long", func(a answer) { a["CiphertextForRecipient"] = closed(make([]byte, 64<<10)) }, cms.ErrMalformed},
		{"not base64", func(a answer) { a["CiphertextForRecipient"] = "***" }, kms.ErrAnswer},
	} {
		m.kms.bend = func(_ question, a answer) { c.bend(a) }
		s, ciphertext, err := m.unwrapper(t).DataKey(t.Context(), context1)
		if !errors.Is(err, c.want) || s != nil || ciphertext != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestAnAnswerCutAtAnyByteIsRefused(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	c := m.client(t, recipientKey(), func(o *kms.Options) { o.Attempts = 1 })
	whole := []byte(`{"CiphertextForRecipient":"MIAGCSqGSIb3DQEHA6CAMIACAQIxggFr","KeyId":"` + keyARN + `"}`)
	for i := range whole {
		for _, announced := range []bool{false, true} { // the length: cut by KMS, or on the way
			m.kms.fault = func(_ int, _ question, w http.ResponseWriter) bool {
				w.Header().Set("Content-Type", "application/x-amz-json-1.1")
				if announced {
					w.Header().Set("Content-Length", strconv.Itoa(len(whole)))
				}
				if _, err := w.Write(whole[:i]); err != nil {
					t.Error(err)
				}
				return true
			}
			_, err := c.Decrypt(t.Context(), kms.DecryptRequest{Ciphertext: []byte("c"), KeyID: keyARN, Context: context1})
			if !errors.Is(err, kms.ErrAnswer) && !errors.Is(err, kms.ErrUnreachable) {
				t.Fatalf("cut at byte %d, announced %t: %v", i, announced, err)
			}
		}
	}
}

func TestAnAnswerWithoutEndIsNotReadToItsEnd(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	written := 0
	m.kms.fault = func(_ int, _ question, w http.ResponseWriter) bool {
		block := bytes.Repeat([]byte(" "), 1<<16)
		for written < 1<<26 {
			n, err := w.Write(block)
			written += n
			if err != nil {
				break
			}
		}
		return true
	}
	c := m.client(t, recipientKey(), func(o *kms.Options) { o.Attempts = 1 })
	if _, err := c.GenerateRandom(t.Context(), 32); !errors.Is(err, kms.ErrAnswer) {
		t.Errorf("got %v", err)
	}
	m.kms.Close() // waits for the handler
	if written >= 1<<26 {
		t.Errorf("%d bytes were read", written)
	}
}

func TestKMSOutOfReachInTheMiddle(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	ciphertext := m.encrypt(t, "secret", context1)
	u := m.unwrapper(t)
	m.kms.fault = func(int, question, http.ResponseWriter) bool { panic(http.ErrAbortHandler) }
	if _, err := u.Unwrap(t.Context(), ciphertext, context1); !errors.Is(err, kms.ErrUnreachable) {
		t.Errorf("connection lost: %v", err)
	}
	m.kms.Close()
	if _, err := u.Unwrap(t.Context(), ciphertext, context1); !errors.Is(err, kms.ErrUnreachable) {
		t.Errorf("no server: %v", err)
	}
}

func TestASilentKMSIsGivenUp(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	done := make(chan struct{})
	m.kms.fault = func(int, question, http.ResponseWriter) bool { <-done; return false }
	c := m.client(t, recipientKey(), func(o *kms.Options) { o.Timeout = 300 * time.Millisecond })
	_, err := c.GenerateRandom(t.Context(), 32)
	if !errors.Is(err, kms.ErrUnreachable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.GenerateRandom(ctx, 32); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	close(done)
}

// gone is a key whose TPM is lost between the request and the answer.
type gone struct{ crypto.Decrypter }

var errGone = errors.New("the TPM cannot be reached")

func (gone) Decrypt(io.Reader, []byte, crypto.DecrypterOpts) ([]byte, error) { return nil, errGone }

func TestTheTPMLostInTheMiddle(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	s, err := m.client(t, gone{recipientKey()}).GenerateRandom(t.Context(), 32)
	if !errors.Is(err, cms.ErrKey) || !errors.Is(err, errGone) || s != nil {
		t.Errorf("got %v", err)
	}
}
