package kms_test

import (
	"bytes"
	"encoding/pem"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/internal/tpmtest"
	"github.com/tpm2-p11/tpm2-p11/keystore/tss2"
	"github.com/tpm2-p11/tpm2-p11/kms"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// away is a machine that has unwrapped a data key, with an offline cache, before KMS went out of reach.
type away struct {
	*machine
	tpm        *tpmtest.TPM
	key        *tpmKey
	dir        string
	ciphertext []byte
}

const offlineTerm = 24 * time.Hour

func newAway(t *testing.T) *away {
	t.Helper()
	a := &away{machine: newMachine(t), dir: filepath.Join(t.TempDir(), "offline")}
	a.key, a.tpm = newTPMKey(t)
	a.key.tpm.Release()
	a.tpm.Extend(t, "sha256", 4, []byte("image")) // the recipient key is bound to PCR 7, the cache to PCR 4
	a.ciphertext = a.encrypt(t, "a data key", context1)
	s, err := a.offline(t).Unwrap(t.Context(), a.ciphertext, context1)
	if err != nil || string(s.Bytes()) != "a data key" {
		t.Fatalf("while KMS is there: %v", err)
	}
	a.kms.fault = func(_ int, _ question, w http.ResponseWriter) bool {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			conn.Close()
		}
		return true
	}
	return a
}

// offline is an unwrapper of a process that starts now.
func (a *away) offline(t *testing.T, change ...func(*kms.Options)) *kms.Unwrapper {
	t.Helper()
	u, err := kms.NewUnwrapper(a.client(t, a.key, change...), kms.UnwrapperOptions{KeyID: keyARN, Offline: &kms.Offline{
		Dir: a.dir, TPM: a.key.tpm, PCRs: policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{4: nil}}, For: offlineTerm,
	}})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func (a *away) copies(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(a.dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestAMachineBootsWhileKMSIsOutOfReach(t *testing.T) {
	t.Parallel()
	a := newAway(t)
	var log bytes.Buffer
	s, err := a.offline(t, withLog(&log)).Unwrap(t.Context(), a.ciphertext, context1)
	if err != nil || string(s.Bytes()) != "a data key" {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "KMS is out of reach") {
		t.Errorf("the log does not tell: %s", log.String())
	}
	copies := a.copies(t)
	if len(copies) != 1 {
		t.Fatalf("copies: %v", copies)
	}
	text, err := os.ReadFile(copies[0])
	if err != nil || bytes.Contains(text, []byte("a data key")) {
		t.Errorf("the copy is in the clear: %v", err)
	}
	sealed, _ := pem.Decode(text)
	k, err := tss2.Decode(pem.EncodeToMemory(sealed))
	if err != nil {
		t.Fatal(err)
	}
	key, err := a.key.tpm.Unseal(t.Context(), k.Object, provider.Auth{Policy: k.Policy})
	if err != nil || key.Len() != 32 || bytes.Count(key.Bytes(), []byte{0}) > 8 {
		t.Errorf("the sealed key of %d bytes is not drawn at random: %v", key.Len(), err)
	}
	key.Wipe()
	if info, err := os.Stat(copies[0]); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the copy's mode: %v, %v", info.Mode(), err)
	}
	fault := a.kms.fault
	a.kms.fault = nil
	made, ciphertext, err := a.offline(t).DataKey(t.Context(), context1)
	if err != nil {
		t.Fatal(err)
	}
	a.kms.fault = fault
	s, err = a.offline(t).Unwrap(t.Context(), ciphertext, context1)
	if err != nil || !bytes.Equal(s.Bytes(), made.Bytes()) {
		t.Errorf("a data key that was made before KMS went: %v", err)
	}
	for what, context := range map[string]map[string]string{"another encryption context": {"service": "other"}, "none": nil} {
		if _, err := a.offline(t).Unwrap(t.Context(), a.ciphertext, context); !errors.Is(err, kms.ErrUnreachable) {
			t.Errorf("with %s: %v", what, err)
		}
	}
}

func TestAnOfflineCopyIsForThisImageAndItsTerm(t *testing.T) {
	t.Parallel()
	t.Run("another image", func(t *testing.T) {
		t.Parallel()
		a := newAway(t)
		a.key.tpm.Release()
		a.tpm.Extend(t, "sha256", 4, []byte("another image"))
		_, err := a.offline(t).Unwrap(t.Context(), a.ciphertext, context1)
		if !errors.Is(err, kms.ErrUnreachable) || !errors.Is(err, provider.ErrPolicy) || !strings.Contains(err.Error(), "4") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("too late", func(t *testing.T) {
		t.Parallel()
		a := newAway(t)
		now, err := a.key.tpm.PolicyState(t.Context()).Clock()
		if err != nil {
			t.Fatal(err)
		}
		a.key.tpm.Release()
		a.tpm.SetClock(t, now.Clock+uint64(offlineTerm.Milliseconds()))
		_, err = a.offline(t).Unwrap(t.Context(), a.ciphertext, context1)
		if !errors.Is(err, kms.ErrUnreachable) || !errors.Is(err, provider.ErrPolicy) || !strings.Contains(err.Error(), "clock") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("another machine", func(t *testing.T) {
		t.Parallel()
		a := newAway(t)
		a.key, a.tpm = newTPMKey(t)
		a.key.tpm.Release()
		a.tpm.Extend(t, "sha256", 4, []byte("image"))
		if s, err := a.offline(t).Unwrap(t.Context(), a.ciphertext, context1); !errors.Is(err, kms.ErrUnreachable) || s != nil {
			t.Errorf("got %v", err)
		}
	})
}

func TestWhenKMSRefusesTheOfflineCopyGoes(t *testing.T) {
	t.Parallel()
	a := newAway(t)
	out := a.kms.fault
	a.kms.fault = nil
	a.kms.pcr4 = []byte("revoked")
	if _, err := a.offline(t).Unwrap(t.Context(), a.ciphertext, context1); !errors.Is(err, kms.ErrAccessDenied) {
		t.Fatalf("an image that was revoked: %v", err)
	}
	if copies := a.copies(t); len(copies) != 0 {
		t.Errorf("copies: %v", copies)
	}
	a.kms.fault = out
	if _, err := a.offline(t).Unwrap(t.Context(), a.ciphertext, context1); !errors.Is(err, kms.ErrUnreachable) {
		t.Errorf("out of reach after that: %v", err)
	}
}

func TestAnOfflineCopyThatWasTamperedWith(t *testing.T) {
	t.Parallel()
	a := newAway(t)
	whole, err := os.ReadFile(a.copies(t)[0])
	if err != nil {
		t.Fatal(err)
	}
	last := bytes.LastIndex(whole, []byte("\n-----END"))
	changed := slices.Clone(whole)
	changed[last-20] ^= 1
	for name, text := range map[string][]byte{
		"cut short": whole[:len(whole)/2], "empty": nil, "a changed ciphertext": changed, "something after it": append(slices.Clone(whole), "more"...),
		"without its ciphertext": whole[:bytes.Index(whole, []byte("-----BEGIN TPM2-P11"))], "rubbish": bytes.Repeat([]byte{0xff}, 300),
	} {
		if err := os.WriteFile(a.copies(t)[0], text, 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := a.offline(t).Unwrap(t.Context(), a.ciphertext, context1); !errors.Is(err, kms.ErrUnreachable) || s != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.WriteFile(a.copies(t)[0], whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(a.copies(t)[0], 0o644); err != nil {
		t.Fatal(err)
	}
	if s, err := a.offline(t).Unwrap(t.Context(), a.ciphertext, context1); err == nil || s != nil {
		t.Error("a copy that others can read was used")
	}
}

func TestAnOfflineCacheWithoutBoundsIsRefused(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	tpm := provider.New(nil)
	pcr4 := policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{4: nil}}
	for name, o := range map[string]kms.Offline{
		"no PCRs":   {Dir: t.TempDir(), TPM: tpm, For: time.Hour},
		"no time":   {Dir: t.TempDir(), TPM: tpm, PCRs: pcr4},
		"no folder": {TPM: tpm, PCRs: pcr4, For: time.Hour},
		"no TPM":    {Dir: t.TempDir(), PCRs: pcr4, For: time.Hour},
	} {
		_, err := kms.NewUnwrapper(m.client(t, recipientKey()), kms.UnwrapperOptions{KeyID: keyARN, Offline: &o})
		if !errors.Is(err, kms.ErrInput) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
