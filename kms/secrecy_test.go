package kms_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tpm2-p11/tpm2-p11/kms"
)

const canary = "canary-in-the-coal-mine-32-bytes"

// shows finds the canary in any of the forms that a log could give it.
func shows(s string) bool {
	for _, form := range []string{
		canary, hex.EncodeToString([]byte(canary)), base64.StdEncoding.EncodeToString([]byte(canary))[:40],
		strings.Trim(fmt.Sprint([]byte(canary)), "[]"), canary[4:20],
	} {
		if strings.Contains(strings.ToLower(s), strings.ToLower(form)) {
			return true
		}
	}
	return false
}

func TestNeitherDebugLogsNorErrorsHoldThePlaintext(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	var log bytes.Buffer
	everything := []func(*kms.Options){withLog(&log)}
	errs := []error{}

	ciphertext := m.encrypt(t, canary, map[string]string{"stage": canary})
	u := m.unwrapper(t, everything...)
	s, err := u.Unwrap(t.Context(), ciphertext, map[string]string{"stage": canary})
	if err != nil || string(s.Bytes()) != canary {
		t.Fatal(err)
	}
	_, err = m.service(t, everything...).Encrypt(t.Context(), kms.EncryptRequest{KeyID: keyARN, Plaintext: []byte(canary)})
	errs = append(errs, err)

	clear := base64.StdEncoding.EncodeToString([]byte(canary))
	for _, body := range []string{
		`{"Plaintext":"` + clear + `","KeyId":"` + keyARN + `"}`,
		`{"Plaintext":"` + clear + `","KeyId":`,
		`{"Plaintext":"` + clear,
		`{"Plaintext":` + clear + `}`,
		`{"Plaintext":"` + canary + `"}`,
		canary,
	} {
		m.kms.fault = func(_ int, _ question, w http.ResponseWriter) bool {
			w.Header().Set("Content-Type", "application/x-amz-json-1.1")
			if _, err := w.Write([]byte(body)); err != nil {
				t.Error(err)
			}
			return true
		}
		s, err := u.Unwrap(t.Context(), ciphertext, nil)
		if err == nil || s != nil {
			t.Errorf("%s was accepted", body)
		}
		errs = append(errs, err)
	}
	m.kms.fault = nil
	for _, bend := range []func(answer){
		func(a answer) { a["CiphertextForRecipient"].([]byte)[200] ^= 1 },
		func(a answer) { a["CiphertextForRecipient"] = []byte(canary) },
		func(a answer) { a["KeyId"] = "arn:aws:kms:eu-central-1:111122223333:key/other" },
	} {
		m.kms.bend = func(_ question, a answer) { bend(a) }
		_, err := u.Unwrap(t.Context(), ciphertext, map[string]string{"stage": canary})
		if err == nil {
			t.Error("a bent answer was accepted")
		}
		errs = append(errs, err)
	}
	for _, err := range errs {
		if err != nil && shows(err.Error()) {
			t.Errorf("an error holds it: %v", err)
		}
	}
	if n := strings.Count(log.String(), "request to KMS"); n < 10 {
		t.Errorf("only %d lines were logged: the test proves nothing", n)
	}
	if shows(log.String()) {
		t.Errorf("a log holds it:\n%s", log.String())
	}
}

func TestNothingPrintsASecret(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	s, err := m.unwrapper(t).Unwrap(t.Context(), m.encrypt(t, canary, context1), context1)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	type holder struct {
		Secret *kms.Secret
		hidden *kms.Secret
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		if got := fmt.Sprintf(verb, s); got != "***" {
			t.Errorf("%s gives %q", verb, got)
		}
		fmt.Fprintf(&out, verb, *s)
		fmt.Fprintf(&out, verb, holder{s, s})
		fmt.Fprintf(&out, verb, &kms.DataKey{Plaintext: s})
	}
	b, err := json.Marshal([]any{s, holder{Secret: s}, kms.KeyPair{PrivateKey: s}})
	if err != nil {
		t.Error(err)
	}
	out.Write(b)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("unwrapped", "secret", s, "holder", holder{Secret: s})
	if shows(out.String()) {
		t.Errorf("it shows in %s", out.String())
	}
}

func TestTheCacheOfAnUnwrapper(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	ciphertext := m.encrypt(t, "secret", context1)
	u, err := kms.NewUnwrapper(m.client(t, recipientKey()), kms.UnwrapperOptions{KeyID: keyARN, CacheFor: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	before := len(m.kms.seen())
	for range 5 {
		s, err := u.Unwrap(t.Context(), ciphertext, context1)
		if err != nil || string(s.Bytes()) != "secret" {
			t.Fatal(err)
		}
		s.Wipe()
	}
	if n := len(m.kms.seen()) - before; n != 1 {
		t.Errorf("KMS was asked %d times", n)
	}
	if _, err := u.Unwrap(t.Context(), ciphertext, nil); !errors.Is(err, kms.ErrCiphertext) {
		t.Errorf("another context, from the cache: %v", err)
	}
	if err := u.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Unwrap(t.Context(), ciphertext, context1); !errors.Is(err, kms.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := kms.NewUnwrapper(m.client(t, recipientKey()), kms.UnwrapperOptions{CacheFor: -1}); !errors.Is(err, kms.ErrInput) {
		t.Errorf("a negative time: %v", err)
	}
}
