package keystore

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/internal/stamp"
	"github.com/tpm2-p11/tpm2-p11/policy"
)

func TestAStoreThatDoesNotExistIsEmpty(t *testing.T) {
	t.Parallel()
	s := diskStore(t)
	token := s.open(t)
	if token.Initialized() || token.HasPIN() || token.Label() != "" || !token.Writable() {
		t.Error("there seems to be something")
	}
	if got := labels(t, token); len(got) != 0 {
		t.Errorf("keys: %v", got)
	}
	if err := token.Recover(context.Background()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(s.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("looking made the folder: %v", err)
	}
	if _, err := token.CreateKey(context.Background(), KeySpec{Label: "web"}); !errors.Is(err, ErrNotInitialized) {
		t.Errorf("creating a key: %v", err)
	}
}

func TestAKeyIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	s := diskStore(t)
	p := policy.Policy{Root: policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{7: bytes.Repeat([]byte{7}, 32)}}}
	public := softPublic(t, p)
	side := sideOf(t, public, "web")
	side.Handle, side.Policy = 0x81000100, p
	s.write(t, "0011.pem", pemOf(t, public, p, true))
	s.writeSidecar(t, "0011", side)
	e, err := s.open(t).Find(Query{Label: "web"})
	must(t, err)
	if e.ID != "0011" || e.Object.Handle != 0x81000100 || !bytes.Equal(e.CKAID, side.CKAID) || !e.EmptyAuth || e.OwnPIN ||
		e.State != Ready || !e.Created.Equal(side.Created) || e.Linked() || e.PolicyIgnored() || e.PolicyErr != nil {
		t.Errorf("%+v", e)
	}
	if !e.Policy.Equal(p) {
		t.Errorf("the policy is %v: its values come from the sidecar", e.Policy)
	}
}

func TestTheSidecarsPolicyCountsOnlyIfItIsTheKeys(t *testing.T) {
	t.Parallel()
	bound := policy.Policy{Root: policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{7: bytes.Repeat([]byte{7}, 32)}}}
	other := policy.Policy{Root: policy.PIN{}}
	public := softPublic(t, bound)
	for _, c := range []struct {
		name      string
		side, pem policy.Policy
		known     bool
	}{
		{"the PEM's is taken when the sidecar has another", other, bound, true},
		{"the PEM's is taken when the sidecar has none", policy.Policy{}, bound, true},
		{"the sidecar's is taken when the PEM has none", bound, policy.Policy{}, true},
		{"none is right", other, policy.Policy{}, false},
		{"there is none", policy.Policy{}, policy.Policy{}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := diskStore(t)
			side := sideOf(t, public, "web")
			side.Policy = c.side
			s.write(t, "0011.pem", pemOf(t, public, c.pem, true))
			s.writeSidecar(t, "0011", side)
			token := s.open(t)
			e, err := token.Find(Query{Label: "web"})
			must(t, err)
			_, err = token.Auth(e, nil)
			if c.known {
				digest, digestErr := e.Policy.Digest(tpm2.TPMAlgSHA256)
				if err != nil || digestErr != nil || !bytes.Equal(digest, public.AuthPolicy()) {
					t.Errorf("the policy is %v: %v, %v", e.Policy, err, digestErr)
				}
			} else if !errors.Is(err, ErrPolicyUnknown) || e.PolicyErr == nil {
				t.Errorf("the key can be used with the policy %v: %v", e.Policy, err)
			}
		})
	}
}

func TestFilesThatCannotBeUnderstoodAreSkippedAndNamed(t *testing.T) {
	t.Parallel()
	good := func(t *testing.T, s *store) []byte {
		public := softPublic(t, policy.Policy{})
		s.writeSidecar(t, "bad", sideOf(t, public, "bad"))
		return pemOf(t, public, policy.Policy{}, true)
	}
	side := func(change func(map[string]any)) func(*testing.T, *store) {
		return func(t *testing.T, s *store) {
			s.write(t, "bad.pem", good(t, s))
			var tree map[string]any
			must(t, json.Unmarshal(s.read(t, "bad.json"), &tree))
			change(tree)
			text, err := json.Marshal(tree)
			must(t, err)
			s.write(t, "bad.json", text)
		}
	}
	pem := []string{"bad"} // which alone is a key
	for _, c := range []struct {
		name    string
		prepare func(*testing.T, *store)
		file    string
		want    error
		keys    []string
	}{
		{"an empty PEM", func(t *testing.T, s *store) { good(t, s); s.write(t, "bad.pem", nil) }, "bad.pem", ErrCorrupt, nil},
		{"a torn PEM", func(t *testing.T, s *store) { s.write(t, "bad.pem", good(t, s)[:100]) }, "bad.pem", ErrCorrupt, nil},
		{"a huge PEM", func(t *testing.T, s *store) { good(t, s); s.write(t, "bad.pem", make([]byte, 1<<20)) }, "bad.pem", ErrCorrupt, nil},
		{"no PEM", func(t *testing.T, s *store) { good(t, s) }, "bad.json", ErrCorrupt, nil},
		{"an empty sidecar", func(t *testing.T, s *store) { s.write(t, "bad.pem", good(t, s)); s.write(t, "bad.json", nil) }, "bad.json", ErrCorrupt, pem},
		{"a torn sidecar", func(t *testing.T, s *store) {
			s.write(t, "bad.pem", good(t, s))
			s.write(t, "bad.json", s.read(t, "bad.json")[:50])
		}, "bad.json", ErrCorrupt, pem},
		{"two objects in a sidecar", func(t *testing.T, s *store) {
			s.write(t, "bad.pem", good(t, s))
			s.write(t, "bad.json", append(s.read(t, "bad.json"), "{}"...))
		}, "bad.json", ErrCorrupt, pem},
		{"a newer sidecar", side(func(m map[string]any) { m["version"] = 2; m["new"] = "field" }), "bad.json", ErrNewer, nil},
		{"an older sidecar", side(func(m map[string]any) { m["version"] = 0 }), "bad.json", ErrCorrupt, pem},
		{"an unknown field", side(func(m map[string]any) { m["lable"] = "x" }), "bad.json", ErrCorrupt, pem},
		{"an unknown state", side(func(m map[string]any) { m["state"] = "lost" }), "bad.json", ErrCorrupt, pem},
		{"a foreign handle", side(func(m map[string]any) { m["handle"] = "0x81800000" }), "bad.json", ErrCorrupt, pem},
		{"no label", side(func(m map[string]any) { m["label"] = "" }), "bad.json", ErrCorrupt, pem},
		{"a label with a line break", side(func(m map[string]any) { m["label"] = "a\nb" }), "bad.json", ErrCorrupt, pem},
		{"a symbolic link", func(t *testing.T, s *store) {
			target := filepath.Join(t.TempDir(), "target")
			must(t, os.WriteFile(target, good(t, s), 0o600))
			must(t, os.Symlink(target, filepath.Join(s.dir, "bad.pem")))
		}, "bad.pem", ErrCorrupt, nil},
		{"a FIFO", func(t *testing.T, s *store) {
			good(t, s)
			must(t, syscall.Mkfifo(filepath.Join(s.dir, "bad.pem"), 0o600))
		}, "bad.pem", ErrCorrupt, nil},
		{"a folder", func(t *testing.T, s *store) {
			good(t, s)
			must(t, os.Mkdir(filepath.Join(s.dir, "bad.pem"), 0o700))
		}, "bad.pem", ErrCorrupt, nil},
		{"a certificate without a key", func(t *testing.T, s *store) { s.write(t, "bad.crt", []byte("x")) }, "bad.crt", ErrCorrupt, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := diskStore(t)
			s.softKey(t, "good", "good")
			c.prepare(t, s)
			token := s.open(t)
			if got := labels(t, token); !slices.Equal(got, append(c.keys, "good")) {
				t.Errorf("keys: %v", got)
			}
			problems, err := token.Problems()
			must(t, err)
			if len(problems) != 1 || problems[0].File != c.file || !errors.Is(problems[0].Err, c.want) {
				t.Errorf("problems: %v", problems)
			}
			labels(t, token)
			if n := strings.Count(s.log.String(), "file="+c.file); n != 1 {
				t.Errorf("the log says it %d times: %s", n, s.log)
			}
		})
	}
}

func TestACertificateOfAnotherKeyIsNotTheKeys(t *testing.T) {
	t.Parallel()
	s := diskStore(t)
	s.softKey(t, "0011", "web")
	s.softKey(t, "0022", "mail")
	token := s.open(t)
	web, err := token.Find(Query{Label: "web"})
	must(t, err)
	mail, err := token.Find(Query{Label: "mail"})
	must(t, err)
	if _, err := token.SetCertificates(web, []*x509.Certificate{selfSigned(t, mail)}); !errors.Is(err, ErrInvalid) {
		t.Errorf("another key's certificate: %v", err)
	}
	own := selfSigned(t, web)
	web, err = token.SetCertificates(web, []*x509.Certificate{own, selfSigned(t, mail)})
	must(t, err)
	if len(web.Certificates) != 2 || !web.Certificates[0].Equal(own) {
		t.Errorf("%v", web.Certificates)
	}
	s.write(t, "0022.crt", s.read(t, "0011.crt"))
	mail, err = token.Find(Query{Label: "mail"})
	must(t, err)
	if problems, err := token.Problems(); err != nil || len(mail.Certificates) > 0 || len(problems) != 1 {
		t.Errorf("%v, %v, %v", mail.Certificates, problems, err)
	}
	web, err = token.SetCertificates(web, nil)
	must(t, err)
	if len(web.Certificates) != 0 {
		t.Error("the certificates stayed")
	}
}

func TestKeysAreFoundByWhatTheyAre(t *testing.T) {
	t.Parallel()
	s := diskStore(t)
	public := s.softKey(t, "0011", "web")
	s.softKey(t, "0022", "web")
	s.softKey(t, "0033", "mail")
	token := s.open(t)
	if _, err := token.Find(Query{Label: "web"}); !errors.Is(err, ErrAmbiguous) || !strings.Contains(err.Error(), "0011") ||
		!strings.Contains(err.Error(), "0022") {
		t.Errorf("two keys with a label: %v", err)
	}
	if _, err := token.Find(Query{Label: "ftp"}); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), `"ftp"`) {
		t.Errorf("no key with a label: %v", err)
	}
	e, err := token.Find(Query{Label: "web", Name: public.Name()})
	if err != nil || e.ID != "0011" {
		t.Errorf("by name: %v, %v", e, err)
	}
	id := bytes.Repeat([]byte{1}, 20)
	e, err = token.SetMetadata(e, Metadata{CKAID: id})
	must(t, err)
	if found, err := token.Find(Query{CKAID: id}); err != nil || found.ID != e.ID {
		t.Errorf("by CKA_ID: %v, %v", found, err)
	}
	e, err = token.SetMetadata(e, Metadata{Label: "post"})
	must(t, err)
	if e.Label != "post" || !bytes.Equal(e.CKAID, id) {
		t.Errorf("after a change of the label alone: %+v", e)
	}
	for name, bad := range map[string]Metadata{
		"a label of two lines": {Label: "a\nb", CKAID: []byte{7}},
		"a long CKA_ID":        {Label: "b", CKAID: make([]byte, 256)},
	} {
		if _, err := token.SetMetadata(e, bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if e, err = token.Find(Query{Label: "post"}); err != nil || !bytes.Equal(e.CKAID, id) {
		t.Errorf("what was refused as a whole changed a part: %v, %v", e, err)
	}
}

func TestAChangeOfAKeyThatIsGoneIsRefused(t *testing.T) {
	t.Parallel()
	s := diskStore(t)
	s.softKey(t, "0011", "web")
	token := s.open(t)
	e, err := token.Find(Query{Label: "web"})
	must(t, err)
	s.softKey(t, "0011", "another")
	if _, err := token.SetMetadata(e, Metadata{Label: "mine"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("the key was replaced: %v", err)
	}
	e.ID = "../0011"
	if _, err := token.SetMetadata(e, Metadata{Label: "mine"}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a path for an ID: %v", err)
	}
}

// unusable opens a store that cannot be used: it looks like one that is not initialised and cannot be written, each method says

// why, and the log says so once.

// Most programs that load every token may not read another user's store, and nobody needs to be told.

// `cp` of a key's PEM makes another file of the same key: it neither hides the key nor is it one more.

// Of several PEMs of a key without sidecars, the oldest is the key.

// A key without a readable sidecar is what its PEM says, and stays as it is: only its sidecar knew whether it has a handle.

// A file system that hangs keeps the one who reads waiting, and nobody who asks for the login.

func TestAHungFileSystemDoesNotHoldTheLogin(t *testing.T) {
	t.Parallel()
	token := diskStore(t).open(t)
	token.reading.Lock() // as a reader that hangs
	defer token.reading.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if token.LoggedIn() != 0 {
			t.Error("somebody is logged in")
		}
		if _, err := token.tokenSecret(); !errors.Is(err, ErrLoginNeeded) {
			t.Error(err)
		}
		token.Logout()
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Error("the login waits for the disk")
	}
}

// A key of another SRK does not load, and doctor can say why.

// anchorOf is a token file that pins a key as its SRK.

func TestUnchangedFilesAreReadOnce(t *testing.T) {
	t.Parallel()
	s := diskStore(t)
	s.softKey(t, "0011", "web")
	long := syscall.Timespec{Sec: 1e9}
	for _, name := range []string{"0011.pem", "0011.json"} {
		must(t, syscall.UtimesNano(filepath.Join(s.dir, name), []syscall.Timespec{long, long}))
	}
	time.Sleep(stamp.Settle + 10*time.Millisecond) // stamps younger than that tell nothing
	token := s.open(t)
	first, err := token.Find(Query{Label: "web"})
	must(t, err)
	// Forged: it tells whether the files are read again.
	token.scanner.mu.Lock()
	token.scanner.known["0011"].record.entry.Label = "remembered"
	token.scanner.mu.Unlock()
	if got := labels(t, token); !slices.Equal(got, []string{"remembered"}) {
		t.Errorf("keys: %v", got)
	}
	// Another process changes the label, at the same size and time.
	if _, err := s.open(t).SetMetadata(first, Metadata{Label: "bew"}); err != nil {
		t.Fatal(err)
	}
	must(t, syscall.UtimesNano(filepath.Join(s.dir, "0011.json"), []syscall.Timespec{long, long}))
	if got := labels(t, token); !slices.Equal(got, []string{"bew"}) {
		t.Errorf("keys after a change: %v", got)
	}
}

func TestWhatAWriterLeftHalfWrittenIsSwept(t *testing.T) {
	t.Parallel()
	s := diskStore(t)
	s.softKey(t, "0011", "web")
	s.write(t, tempPrefix+"0123", []byte(`{"version": 1, "la`))
	token := s.open(t)
	if got := labels(t, token); !slices.Equal(got, []string{"web"}) {
		t.Errorf("keys: %v", got)
	}
	must(t, token.Recover(context.Background()))
	if _, err := os.Stat(filepath.Join(s.dir, tempPrefix+"0123")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

func TestAWriterWaitsForAnotherNoLongerThanItMay(t *testing.T) {
	t.Parallel()
	s := diskStore(t)
	s.softKey(t, "0011", "web")
	w, err := folder(s.dir).write(context.Background())
	must(t, err)
	defer w.close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := folder(s.dir).write(ctx); !errors.Is(err, ErrLocked) {
		t.Errorf("a second writer: %v", err)
	}
	if got := labels(t, s.open(t)); !slices.Equal(got, []string{"web"}) {
		t.Errorf("a reader beside a writer sees %v", got)
	}
}

func BenchmarkFindAmong1000Keys(b *testing.B) {
	s := diskStore(b)
	for i := range 1000 {
		s.softKey(b, fmt.Sprintf("%04d", i), fmt.Sprint("key ", i))
	}
	token := s.open(b)
	// Until the files' last change is old enough to tell, they are read each time.
	for start := time.Now(); time.Since(start) < 2*stamp.Settle; {
		labels(b, token)
	}
	for b.Loop() {
		if _, err := token.Find(Query{Label: "key 500"}); err != nil {
			b.Fatal(err)
		}
	}
}
