package kms_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
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
	return a.unwrapper(t, kms.UnwrapperOptions{}, change...)
}

// unwrapper is offline with other options.
func (a *away) unwrapper(t *testing.T, o kms.UnwrapperOptions, change ...func(*kms.Options)) *kms.Unwrapper {
	t.Helper()
	if o.KeyID == "" {
		o.KeyID = keyARN
	}
	if o.Offline == nil {
		o.Offline = a.terms(offlineTerm, 4)
	}
	u, err := kms.NewUnwrapper(a.client(t, a.key, change...), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close() })
	return u
}

// terms are an offline cache's.
func (a *away) terms(term time.Duration, pcrs ...uint) *kms.Offline {
	selection := policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{}}
	for _, i := range pcrs {
		selection.Values[i] = nil
	}
	return &kms.Offline{Dir: a.dir, TPM: a.key.tpm, PCRs: selection, For: term}
}

// reachable has KMS answer while f runs.
func (a *away) reachable(f func()) {
	fault := a.kms.fault
	a.kms.fault = nil
	f()
	a.kms.fault = fault
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
	if info, err := os.Stat(copies[0]); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the copy's mode: %v, %v", info.Mode(), err)
	}
	var made *kms.Secret
	var ciphertext []byte
	a.reachable(func() { made, ciphertext, err = a.offline(t).DataKey(t.Context(), context1) })
	if err != nil {
		t.Fatal(err)
	}
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

// A machine that was off for long has its copies, old by the calendar as they are. Those whose term is over go when another one is made.
func TestCopiesGoByTheTPMsClock(t *testing.T) {
	t.Parallel()
	a := newAway(t)
	first := a.copies(t)[0]
	if err := os.Chtimes(first, time.Time{}, time.Now().Add(-100*offlineTerm)); err != nil {
		t.Fatal(err)
	}
	another := func() {
		a.reachable(func() {
			if _, _, err := a.offline(t).DataKey(t.Context(), context1); err != nil {
				t.Fatal(err)
			}
		})
	}
	another()
	if s, err := a.offline(t).Unwrap(t.Context(), a.ciphertext, context1); err != nil || string(s.Bytes()) != "a data key" {
		t.Errorf("after it was off for long: %v", err)
	}
	now, err := a.key.tpm.PolicyState(t.Context()).Clock()
	if err != nil {
		t.Fatal(err)
	}
	a.key.tpm.Release()
	a.tpm.SetClock(t, now.Clock+uint64(offlineTerm.Milliseconds()))
	another()
	if copies := a.copies(t); len(copies) != 1 || copies[0] == first {
		t.Errorf("after the term: %v", copies)
	}
}

// What was kept by another configuration is used on no terms but those of now.
func TestAnOfflineCopyIsOnTheTermsOfNow(t *testing.T) {
	t.Parallel()
	a := newAway(t)
	for name, c := range map[string]struct {
		kept, now *kms.Offline
		opens     bool
	}{
		"the same":       {a.terms(offlineTerm, 4, 12), a.terms(offlineTerm, 4, 12), true},
		"a shorter term": {a.terms(2*offlineTerm, 4), a.terms(offlineTerm, 4), false},
		"a longer term":  {a.terms(offlineTerm, 4), a.terms(2*offlineTerm, 4), true},
		"another PCR":    {a.terms(offlineTerm, 12), a.terms(offlineTerm, 4), false},
		"one PCR more":   {a.terms(offlineTerm, 4), a.terms(offlineTerm, 4, 12), false},
		"one PCR less":   {a.terms(offlineTerm, 4, 12), a.terms(offlineTerm, 4), false},
	} {
		a.reachable(func() {
			if _, err := a.unwrapper(t, kms.UnwrapperOptions{Offline: c.kept}).Unwrap(t.Context(), a.ciphertext, context1); err != nil {
				t.Fatal(err)
			}
		})
		_, err := a.unwrapper(t, kms.UnwrapperOptions{Offline: c.now}).Unwrap(t.Context(), a.ciphertext, context1)
		if c.opens && err != nil || !c.opens && (!errors.Is(err, kms.ErrUnreachable) || !strings.Contains(err.Error(), "than is asked for now")) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Another image on this machine has all of the disk, and the TPM but for what its PCRs forbid. It has a key made for the PCRs
// of the good image, and puts a copy with a data key of its own there, to cut KMS off and have the good image encrypt under that.
func TestACopyThatAnotherImageMadeIsNotOpened(t *testing.T) {
	t.Parallel()
	a := newAway(t)
	good, err := os.ReadFile(a.copies(t)[0])
	if err != nil {
		t.Fatal(err)
	}
	first, _ := pem.Decode(good)
	k, err := tss2.Decode(pem.EncodeToMemory(first))
	if err != nil {
		t.Fatal(err)
	}
	digest := k.Object.Public.AuthPolicy()
	a.key.tpm.Release()
	a.tpm.Restart(t)
	a.tpm.Extend(t, "sha256", 4, []byte("another image"))

	// Data that it seals, or a key that it has made: both under the policy of the good image.
	known := bytes.Repeat([]byte{0x42}, 32)
	sealed, err := a.key.tpm.Seal(t.Context(), secret.From(bytes.Clone(known)), provider.Template{AuthPolicy: digest}, nil)
	if err != nil {
		t.Fatal(err)
	}
	made, err := a.key.tpm.CreateMACKey(t.Context(), digest)
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]policy.Policy{"its policy": k.Policy, "no policy": {}} {
		for whose, key := range map[string]provider.Object{"the copy's key": k.Object, "a key of its own": made} {
			if mac, err := a.key.tpm.MAC(t.Context(), key, provider.Auth{Policy: p}, []byte("the copy's name")); err == nil {
				t.Errorf("it computes with %s by %s: %x", whose, name, mac.Bytes())
			}
		}
	}
	block, err := aes.NewCipher(known)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	forged := map[string][]byte{}
	for name, key := range map[string]tss2.Key{
		"sealed data":    {Object: sealed, Sealed: true, EmptyAuth: true, Policy: k.Policy},
		"a key for MACs": {Object: made, EmptyAuth: true, Policy: k.Policy},
	} {
		text, err := tss2.Encode(key)
		if err != nil {
			t.Fatal(err)
		}
		closed := pem.EncodeToMemory(&pem.Block{Type: "TPM2-P11 ENCRYPTED SECRET", Bytes: aead.Seal(nil, nil, []byte("the attacker's key"), nil)})
		forged[name] = append(text, closed...)
	}

	a.key.tpm.Release()
	a.tpm.Restart(t)
	a.tpm.Extend(t, "sha256", 4, []byte("image"))
	for name, text := range forged {
		if err := os.WriteFile(a.copies(t)[0], text, 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := a.offline(t).Unwrap(t.Context(), a.ciphertext, context1); !errors.Is(err, kms.ErrUnreachable) || s != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.WriteFile(a.copies(t)[0], good, 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := a.offline(t).Unwrap(t.Context(), a.ciphertext, context1); err != nil || string(s.Bytes()) != "a data key" {
		t.Errorf("the good image's own: %v", err)
	}
}

func TestWhenKMSRefusesTheOfflineCopyGoes(t *testing.T) {
	t.Parallel()
	a := newAway(t)
	pcr4 := a.kms.pcr4
	var other []byte
	a.reachable(func() {
		other = a.encrypt(t, "another data key", context1)
		if _, err := a.offline(t).Unwrap(t.Context(), other, context1); err != nil {
			t.Fatal(err)
		}
	})
	for _, refusedAs := range []string{keyARN, "alias/machines", keyARN[len(keyARN)-36:]} {
		a.kms.pcr4 = pcr4
		a.reachable(func() {
			for _, id := range []string{keyARN, "alias/machines"} {
				if _, err := a.unwrapper(t, kms.UnwrapperOptions{KeyID: id}).Unwrap(t.Context(), a.ciphertext, context1); err != nil {
					t.Fatal(err)
				}
			}
			a.kms.pcr4 = []byte("revoked")
			if _, err := a.unwrapper(t, kms.UnwrapperOptions{KeyID: refusedAs}).Unwrap(t.Context(), a.ciphertext, context1); !errors.Is(err, kms.ErrAccessDenied) {
				t.Fatalf("an image that was revoked: %v", err)
			}
		})
		for _, id := range []string{keyARN, "alias/machines"} {
			_, err := a.unwrapper(t, kms.UnwrapperOptions{KeyID: id}).Unwrap(t.Context(), a.ciphertext, context1)
			if !errors.Is(err, kms.ErrUnreachable) || !strings.Contains(err.Error(), "no copy of it is kept here") {
				t.Errorf("refused as %s, and out of reach as %s after that: %v", refusedAs, id, err)
			}
		}
	}
	if copies := a.copies(t); len(copies) != 1 {
		t.Errorf("copies, one of which is of another ciphertext: %v", copies)
	}
	if s, err := a.offline(t).Unwrap(t.Context(), other, context1); err != nil || string(s.Bytes()) != "another data key" {
		t.Errorf("what was not refused: %v", err)
	}
}

// Where an application may choose the region, one that is out of reach does not get it the copy without asking the KMS that gave it, nor
// does the refusal of one that does not know the key take the copy away.
func TestAnotherRegionSaysNothingOfAnOfflineCopy(t *testing.T) {
	t.Parallel()
	a := newAway(t)
	another := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, &refusal{code: "NotFoundException", message: "Alias is not found."})
	}))
	defer another.Close()
	byAlias := kms.UnwrapperOptions{KeyID: "alias/machines"}
	unwrap := func(change ...func(*kms.Options)) error {
		s, err := a.unwrapper(t, byAlias, change...).Unwrap(t.Context(), a.ciphertext, context1)
		if err == nil && string(s.Bytes()) != "a data key" {
			t.Errorf("it is %q", s.Bytes())
		}
		return err
	}
	elsewhere := func(o *kms.Options) { o.Region, o.Endpoint, o.AllowPlainHTTP = "xx-nowhere-1", another.URL, true }
	a.reachable(func() {
		if err := unwrap(); err != nil {
			t.Fatal(err)
		}
	})
	if err := unwrap(elsewhere); !errors.Is(err, kms.ErrKeyNotFound) {
		t.Errorf("in a region without the key: %v", err)
	}
	if err := unwrap(); err != nil {
		t.Errorf("after the refusal of another region: %v", err)
	}
	another.Close()
	if err := unwrap(elsewhere); !errors.Is(err, kms.ErrUnreachable) || !strings.Contains(err.Error(), "no copy of it is kept here") {
		t.Errorf("in a region that is out of reach: %v", err)
	}
}

// A folder has so many copies and no more, whoever asks for ever more ciphertexts. Those that are there are made anew.
func TestAnOfflineCacheHasALimit(t *testing.T) {
	t.Parallel()
	a := newAway(t)
	kept := a.copies(t)[0]
	before, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1023 {
		if err := os.WriteFile(filepath.Join(a.dir, fmt.Sprintf("%064x-%064x.pem", i, i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var log bytes.Buffer
	a.reachable(func() {
		u := a.offline(t, withLog(&log))
		if _, err := u.Unwrap(t.Context(), a.encrypt(t, "one too many", context1), context1); err != nil {
			t.Errorf("without a copy: %v", err)
		}
		if _, err := u.Unwrap(t.Context(), a.ciphertext, context1); err != nil {
			t.Errorf("what has a copy: %v", err)
		}
	})
	if n := len(a.copies(t)); n != 1024 || strings.Count(log.String(), "has 1024 copies, and no more are kept") != 1 {
		t.Errorf("%d copies, and the log is\n%s", n, log.String())
	}
	if now, err := os.ReadFile(kept); err != nil || bytes.Equal(now, before) {
		t.Errorf("the copy that was there was not made anew: %v", err)
	}
}

// interrupted is a recipient key to whose user something happens once, with KMS's good answer in his hands.
type interrupted struct {
	*tpmKey
	meanwhile func()
}

func (k *interrupted) DecryptContext(ctx context.Context, ciphertext []byte, o crypto.DecrypterOpts) ([]byte, error) {
	if f := k.meanwhile; f != nil {
		k.meanwhile = nil
		f()
	}
	return k.tpmKey.DecryptContext(ctx, ciphertext, o)
}

// One process has KMS's answer already when KMS refuses another process the same: the answer is not kept for later.
func TestWhatKMSRefusesMeanwhileIsNotKept(t *testing.T) {
	t.Parallel()
	a := newAway(t)
	var log bytes.Buffer
	pcr4 := a.kms.pcr4
	key := &interrupted{tpmKey: a.key, meanwhile: func() {
		a.kms.pcr4 = []byte("revoked")
		if _, err := a.offline(t).Unwrap(t.Context(), a.ciphertext, context1); !errors.Is(err, kms.ErrAccessDenied) {
			t.Errorf("the other process: %v", err)
		}
	}}
	u, err := kms.NewUnwrapper(a.client(t, key, withLog(&log)), kms.UnwrapperOptions{KeyID: keyARN, Offline: a.terms(offlineTerm, 4)})
	if err != nil {
		t.Fatal(err)
	}
	a.reachable(func() {
		if s, err := u.Unwrap(t.Context(), a.ciphertext, context1); err != nil || string(s.Bytes()) != "a data key" {
			t.Errorf("the answer itself: %v", err)
		}
	})
	if copies := a.copies(t); len(copies) != 0 || !strings.Contains(log.String(), "meanwhile KMS refused") {
		t.Errorf("copies: %v; the log: %s", copies, log.String())
	}
	a.kms.pcr4 = pcr4
	a.reachable(func() { _, err = u.Unwrap(t.Context(), a.ciphertext, context1) })
	if copies := a.copies(t); err != nil || len(copies) != 1 {
		t.Errorf("when KMS allows it again: %v, copies %v", err, copies)
	}
}

// A cache in memory does not make the term of a copy longer: it is opened each time that KMS is out of reach.
func TestACopyIsOpenedEachTimeItIsUsed(t *testing.T) {
	t.Parallel()
	a := newAway(t)
	u := a.unwrapper(t, kms.UnwrapperOptions{CacheFor: time.Hour})
	if s, err := u.Unwrap(t.Context(), a.ciphertext, context1); err != nil || s.Offline() == nil {
		t.Fatal(err)
	}
	a.key.tpm.Release()
	a.tpm.Extend(t, "sha256", 4, []byte("something else"))
	if s, err := u.Unwrap(t.Context(), a.ciphertext, context1); !errors.Is(err, provider.ErrPolicy) || s != nil {
		t.Errorf("after the PCR changed: %v", err)
	}
}

// A server that does not answer takes all of a caller's time, who then gets the copy nevertheless. Who calls it off gets nothing.
func TestACallersTimeIsOverBeforeKMSAnswers(t *testing.T) {
	t.Parallel()
	a := newAway(t)
	over, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	if s, err := a.offline(t).Unwrap(over, a.ciphertext, context1); err != nil || string(s.Bytes()) != "a data key" {
		t.Errorf("got %v", err)
	}
	off, cancel := context.WithCancel(t.Context())
	cancel()
	if s, err := a.offline(t).Unwrap(off, a.ciphertext, context1); !errors.Is(err, context.Canceled) || s != nil {
		t.Errorf("called off: %v", err)
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
