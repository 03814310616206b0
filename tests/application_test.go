package tests

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
)

const (
	// storyFolder is the variable that makes the test binary an application: the machine's folder.
	storyFolder = "TPM2_P11_STORY_FOLDER"
	// patience is how long one Cryptoki call may take. A longer one is a hang.
	patience = time.Minute
)

// story is an application that uses the module, and what goes on around it.
// A process has one Cryptoki library, configured by its environment: each
// application is therefore a process of its own, the test binary run again
// with the same test.
type story struct {
	config string                                     // more lines of the configuration
	boot   func(t *testing.T, config string) *machine // in place of newMachine
	ways   []transport                                // in place of all of them
	before func(m *machine)                           // before the application starts
	app    func(a *application)                       // in the application's process
	events map[string]func(m *machine) string         // what the application lets happen by its name, and the news of it
	after  func(m *machine, log string)               // after the application's end, with what the module logged
}

// tell runs the story. Below it, in the application's process, only its application.
func (s story) tell(t *testing.T) {
	t.Helper()
	if dir := os.Getenv(storyFolder); dir != "" {
		s.apply(t, dir)
		return
	}
	t.Parallel()
	ways := s.ways
	if ways == nil {
		ways = transports
	}
	if testing.Short() {
		ways = ways[:1]
	}
	if s.boot == nil {
		s.boot = newMachine
	}
	name := t.Name()
	over(t, ways, func(t *testing.T, by transport) {
		m := s.boot(t, by.config+s.config)
		if s.before != nil {
			s.before(m)
		}
		log := s.run(m, name, by)
		if s.after != nil {
			s.after(m, log)
		}
	})
}

// run is the parent's side: it waits for the application of a test and makes the events happen.
func (s story) run(m *machine, test string, by transport) (log string) {
	m.t.Helper()
	var env []string
	more := func() string { return "" }
	if by.prepare != nil {
		env, more = by.prepare(m)
	}
	requests, requestEnd := pipe(m.t)
	answerEnd, answers := pipe(m.t)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+strings.ReplaceAll(test, "/", "$/^")+"$", "-test.count=1")
	c.Env = append(append(m.env, storyFolder+"="+m.dir, "GOTRACEBACK=all"), env...)
	c.ExtraFiles = []*os.File{requestEnd, answerEnd}
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Start(); err != nil {
		m.t.Fatal(err)
	}
	requestEnd.Close()
	answerEnd.Close()
	for lines := bufio.NewScanner(requests); lines.Scan(); {
		fmt.Fprintf(answers, "%s\n", s.events[lines.Text()](m))
	}
	if err := c.Wait(); err != nil {
		m.t.Fatalf("the application: %v\n%s\nlog:\n%s", err, &stdout, last(stderr.String(), 4000))
	}
	return stderr.String() + more()
}

// last is the end of a text.
func last(text string, most int) string { return text[max(0, len(text)-most):] }

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// application is a program that has loaded the module.
type application struct {
	t        *testing.T
	dir      string
	ctx      *pkcs11.Ctx
	session  pkcs11.SessionHandle // read-write, on the first slot
	lastCall atomic.Int64         // Unix nanoseconds; 0 while it waits for an event
	patience atomic.Int64         // nanoseconds that a call may take
	requests *os.File
	answers  *bufio.Scanner
}

// apply is the application's side.
func (s story) apply(t *testing.T, dir string) {
	a := &application{t: t, dir: dir, ctx: pkcs11.New(module), requests: os.NewFile(3, "requests"), answers: bufio.NewScanner(os.NewFile(4, "answers"))}
	if a.ctx == nil {
		t.Fatalf("%s does not load", module)
	}
	a.patience.Store(int64(patience))
	go a.watch()
	a.ok("C_Initialize", a.p11().Initialize())
	t.Cleanup(func() { a.p11().Finalize() }) // of a story that failed
	a.session = a.open(pkcs11.CKF_RW_SESSION)
	s.app(a)
	a.ok("C_Finalize", a.p11().Finalize())
}

// p11 is the library, for one call.
func (a *application) p11() *pkcs11.Ctx {
	a.lastCall.Store(time.Now().UnixNano())
	return a.ctx
}

// watch ends the process, with all stacks, when a call hangs.
func (a *application) watch() {
	for range time.Tick(time.Second) {
		if last := a.lastCall.Load(); last != 0 && time.Since(time.Unix(0, last)) > time.Duration(a.patience.Load()) {
			panic("a call hangs")
		}
	}
}

// happen lets one of the story's events happen and gives its news.
func (a *application) happen(event string) string {
	a.t.Helper()
	a.lastCall.Store(0)
	fmt.Fprintln(a.requests, event)
	if !a.answers.Scan() {
		a.t.Fatalf("%s: no answer", event)
	}
	a.lastCall.Store(time.Now().UnixNano())
	return a.answers.Text()
}

// ok ends the story if a call failed.
func (a *application) ok(what string, err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatalf("%s: %v", what, err)
	}
}

// refused demands one return value.
func (a *application) refused(what string, want uint, err error) {
	a.t.Helper()
	if got := rvOf(err); got != want {
		a.t.Errorf("%s: %v, want %v", what, pkcs11.Error(got), pkcs11.Error(want))
	}
}

func rvOf(err error) uint {
	if err == nil {
		return pkcs11.CKR_OK
	}
	rv, ok := err.(pkcs11.Error)
	if !ok {
		return pkcs11.CKR_GENERAL_ERROR
	}
	return uint(rv)
}

func (a *application) open(flags uint) pkcs11.SessionHandle {
	a.t.Helper()
	h, err := a.p11().OpenSession(0, pkcs11.CKF_SERIAL_SESSION|flags)
	a.ok("C_OpenSession", err)
	return h
}

// find gives the handles of the objects that match a template.
func (a *application) find(h pkcs11.SessionHandle, template ...*pkcs11.Attribute) []pkcs11.ObjectHandle {
	a.t.Helper()
	found, err := a.search(h, template...)
	a.ok("C_FindObjects", err)
	return found
}

func (a *application) search(h pkcs11.SessionHandle, template ...*pkcs11.Attribute) ([]pkcs11.ObjectHandle, error) {
	if err := a.p11().FindObjectsInit(h, template); err != nil {
		return nil, err
	}
	found, _, err := a.p11().FindObjects(h, 100)
	if err != nil {
		return nil, err
	}
	return found, a.p11().FindObjectsFinal(h)
}

// object is the only object of a class with a label.
func (a *application) object(class uint, label string) pkcs11.ObjectHandle {
	a.t.Helper()
	found := a.find(a.session, pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label))
	if len(found) != 1 {
		a.t.Fatalf("%d objects of class %d are called %q", len(found), class, label)
	}
	return found[0]
}

func (a *application) private(label string) pkcs11.ObjectHandle {
	a.t.Helper()
	return a.object(pkcs11.CKO_PRIVATE_KEY, label)
}

func (a *application) public(label string) pkcs11.ObjectHandle {
	a.t.Helper()
	return a.object(pkcs11.CKO_PUBLIC_KEY, label)
}

// sign is C_SignInit and C_Sign.
func (a *application) sign(h pkcs11.SessionHandle, m *pkcs11.Mechanism, key pkcs11.ObjectHandle, data []byte) ([]byte, error) {
	if err := a.p11().SignInit(h, []*pkcs11.Mechanism{m}, key); err != nil {
		return nil, err
	}
	return a.p11().Sign(h, data)
}

// verify is C_VerifyInit and C_Verify.
func (a *application) verify(h pkcs11.SessionHandle, m *pkcs11.Mechanism, key pkcs11.ObjectHandle, data, signature []byte) error {
	if err := a.p11().VerifyInit(h, []*pkcs11.Mechanism{m}, key); err != nil {
		return err
	}
	return a.p11().Verify(h, data, signature)
}

// decrypt is C_DecryptInit and C_Decrypt.
func (a *application) decrypt(m *pkcs11.Mechanism, key pkcs11.ObjectHandle, ciphertext []byte) ([]byte, error) {
	if err := a.p11().DecryptInit(a.session, []*pkcs11.Mechanism{m}, key); err != nil {
		return nil, err
	}
	return a.p11().Decrypt(a.session, ciphertext)
}

// works demands a signature of an EC key.
func (a *application) works(label string) {
	a.t.Helper()
	signature, err := a.sign(a.session, ecdsaSHA256(), a.private(label), message)
	a.ok("C_Sign with "+label, err)
	a.ok("C_Verify with "+label, a.verify(a.session, ecdsaSHA256(), a.public(label), message, signature))
}

// publicKey reads what the command exported.
func (a *application) publicKey(file string) crypto.PublicKey {
	a.t.Helper()
	text, err := os.ReadFile(filepath.Join(a.dir, file))
	a.ok(file, err)
	block, _ := pem.Decode(text)
	if block == nil {
		a.t.Fatalf("%s is no PEM", file)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	a.ok(file, err)
	return key
}

func mechanism(id uint) *pkcs11.Mechanism { return pkcs11.NewMechanism(id, nil) }

func ecdsaSHA256() *pkcs11.Mechanism { return mechanism(pkcs11.CKM_ECDSA_SHA256) }

// message is what the stories sign.
var message = []byte(strings.Repeat("the contract ", 100))
