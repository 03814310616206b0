package main

import (
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/keystore/tss2"
)

const (
	canaryPIN = "canary-1234"
	canarySO  = "canary-so-5678"
)

func newMachineWithPIN(t *testing.T) *machine {
	t.Helper()
	m := newMachine(t)
	m.write("pin", canaryPIN+"\n")
	m.write("so", canarySO+"\n")
	m.write("wrong", "not the PIN\n")
	contains(t, "init", m.run("init", "--pin-file", "@pin", "--so-pin-file", "@so"), "with a PIN")
	m.run("key", "create", "web", "--type", "p256", "--pin-file", "@pin")
	m.write("in", "what is signed")
	return m
}

func TestAKeyBehindAPIN(t *testing.T) {
	t.Parallel()
	m := newMachineWithPIN(t)
	sign := func(more ...string) []string { return append([]string{"sign", "web", "-i", "@in"}, more...) }
	m.run(sign("--pin-file", "@pin")...)
	m.run("sign", "pkcs11:object=web?pin-source="+m.path("pin"), "-i", "@in")
	m.refused(exitUsage, "the PIN of token tpm2-p11 is needed", "give it by --pin-file FILE", sign()...)
	m.stdin = canaryPIN
	m.run(sign("--pin-file", "-")...)
	m.refused(exitUsage, "both read standard input", "--help", "sign", "web", "--pin-file", "-")

	m.answers = []string{canaryPIN}
	m.run(sign()...)
	m.answers = nil

	before := m.json("lockout", "show")["counter"]
	m.refused(exitFailed, "wrong PIN", "lockout show", sign("--pin-file", "@wrong")...)
	if after := m.json("lockout", "show")["counter"]; after != before.(float64)+1 {
		t.Errorf("one wrong PIN counts from %v to %v", before, after)
	}
	m.run("key", "show", "web") // takes no PIN
}

func TestPINFilesThatAreRefused(t *testing.T) {
	t.Parallel()
	m := newMachineWithPIN(t)
	sign := []string{"sign", "web", "-i", "@in", "--pin-file", "@other"}
	m.refused(exitFailed, "no such file", "", sign...)
	m.write("other", canaryPIN)
	if err := os.Chmod(m.path("other"), 0o644); err != nil {
		t.Fatal(err)
	}
	m.refused(exitFailed, "other: it is open to others (mode 0644): chmod 600 it", "", sign...)
	if err := os.Chmod(m.path("other"), 0o640); err != nil {
		t.Fatal(err)
	}
	m.run(sign...)
	m.write("other", "")
	m.refused(exitFailed, "is empty", "", sign...)
	m.write("other", canaryPIN+"\n\n")
	m.refused(exitFailed, "holds more than one line", "", sign...)
	m.write("other", strings.Repeat("1", 257))
	m.refused(exitFailed, "more than 256 bytes", "", sign...)
	m.stdin = strings.Repeat("1", 257)
	m.refused(exitFailed, "standard input: it is too long", "", "sign", "web", "-i", "@in", "--pin-file", "-")

	// A shell's <(…) will do, where the caller names it. What a URI names is a file.
	pipe := m.path("pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	m.refused(exitFailed, "pipe: it is not a regular file", "", "sign", "pkcs11:object=web?pin-source="+pipe, "-i", "@in")
	written := make(chan error, 1)
	go func() { written <- os.WriteFile(pipe, []byte(canaryPIN), 0) }()
	m.run("sign", "web", "-i", "@in", "--pin-file", "@pipe")
	if err := <-written; err != nil {
		t.Error(err)
	}
	// The flag goes before the URI.
	m.run("sign", "pkcs11:object=web?pin-source=/nowhere", "-i", "@in", "--pin-file", "@pin")
}

// A PEM may say that its key has a password although its policy never asks for it. Then nobody else does.
func TestAKeyWhosePolicyTakesNoPIN(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.write("in", "what is signed")
	m.run("init", "--no-pin")
	made := m.json("key", "create", "bound", "--type", "p256", "--pcr", "sha256:16", "--wrapped", "--force")["key"].(map[string]any)
	m.run("key", "export", "bound", "-o", "@bound.pem")
	k, err := tss2.Decode(m.read("bound.pem"))
	if err != nil {
		t.Fatal(err)
	}
	k.EmptyAuth = false
	text, err := tss2.Encode(k)
	if err != nil {
		t.Fatal(err)
	}
	m.run("key", "delete", "bound", "--yes")
	m.write("store/dropped.pem", string(text))
	if shown := m.run("key", "show", made["cka_id"].(string)); !strings.Contains(shown, "PIN          none") {
		t.Errorf("key show:\n%s", shown)
	}
	m.run("sign", "dropped", "-i", "@in")
}

func TestChangingPINs(t *testing.T) {
	t.Parallel()
	m := newMachineWithPIN(t)
	m.write("new", "canary-9999\n")
	m.refused(exitFailed, "wrong PIN", "lockout show", "pin", "set", "--pin-file", "@wrong", "--new-pin-file", "@new")
	m.run("pin", "set", "--pin-file", "@pin", "--new-pin-file", "@new")
	m.run("sign", "web", "-i", "@in", "--pin-file", "@new")
	m.run("lockout", "reset")
	if r := m.try("sign", "web", "-i", "@in", "--pin-file", "@pin"); r.code != exitFailed {
		t.Errorf("the old PIN still works: %v", r)
	}
	m.run("pin", "reset", "--so-pin-file", "@so", "--new-pin-file", "@pin")
	m.run("sign", "web", "-i", "@in", "--pin-file", "@pin")
	m.run("pin", "set", "--so", "--pin-file", "@so", "--new-pin-file", "@new")
	m.run("pin", "reset", "--so-pin-file", "@new", "--new-pin-file", "@pin")

	m.answers = []string{canaryPIN, "canary-5555", "canary-5555"}
	m.run("pin", "set")
	m.answers = []string{"canary-5555", "canary-1111", "canary-2222"}
	m.refused(exitFailed, "the two PINs are not the same", "", "pin", "set")
	m.answers = nil
	m.write("short", "123")
	m.refused(exitFailed, "PIN's length is out of range", "", "pin", "reset", "--so-pin-file", "@new", "--new-pin-file", "@short")
}

func TestLockout(t *testing.T) {
	t.Parallel()
	m := newMachineWithPIN(t)
	m.run("key", "create", "free", "--type", "p256", "--no-pin")
	for range 10 {
		if m.json("lockout", "show")["locked"] == true {
			break
		}
		m.try("sign", "web", "-i", "@in", "--pin-file", "@wrong")
	}
	m.refused(exitFailed, "lockout", "lockout reset", "sign", "web", "-i", "@in", "--pin-file", "@pin")
	contains(t, "lockout show", m.run("lockout", "show"), "locked:")
	m.run("sign", "free", "-i", "@in") // a key without a PIN works on
	contains(t, "doctor", m.try("doctor").stdout, "warn  lockout: the TPM is locked",
		`ok    key "web": usable when the lockout is over, by the token's PIN`, `ok    key "free": usable now`)
	contains(t, "lockout reset", m.run("lockout", "reset"), "not locked: 0 of")
	m.run("sign", "web", "-i", "@in", "--pin-file", "@pin")
	m.write("auth", "not the lockout authorisation")
	m.tool("tpm2_changeauth", "-c", "lockout", "the-right-one")
	if r := m.try("lockout", "reset", "--lockout-auth-file", "@auth"); r.code != exitFailed {
		t.Errorf("a wrong lockout authorisation: %v", r)
	}
}

func TestAKeyWithItsOwnPIN(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.write("in", "what is signed")
	m.write("own", canaryPIN)
	m.write("wrong", "not the PIN")
	m.run("init", "--no-pin")
	m.run("key", "create", "mine", "--type", "p256", "--own-pin-file", "@own")
	contains(t, "key show", m.run("key", "show", "mine"), "PIN          own")
	m.refused(exitUsage, "the PIN of key mine is needed", "--pin-file FILE", "sign", "mine", "-i", "@in")
	m.run("sign", "mine", "-i", "@in", "--pin-file", "@own")
	m.refused(exitFailed, "wrong PIN", "lockout show", "sign", "mine", "-i", "@in", "--pin-file", "@wrong")
}

func TestInitAtATerminal(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.answers = []string{canaryPIN, canaryPIN, canarySO, canarySO}
	token := m.json("init", "--label", "mine")["token"].(map[string]any)
	if token["label"] != "mine" || token["pin"] != true || token["store"] != m.path("store") || token["serial"] == "" {
		t.Errorf("init --json: %v", token)
	}
	m.refused(exitFailed, "the store is initialised already", "--store FOLDER", "init", "--no-pin")

	other := newMachine(t)
	other.answers = []string{""}
	contains(t, "init", other.run("init"), "without a PIN")
	other.refused(exitFailed, "the token has no PIN", "init", "pin", "set")
}

// Whatever goes wrong, in text, JSON or the log, no PIN and no sealed data is in it.
func TestNoSecretInAnyOutput(t *testing.T) {
	t.Parallel()
	m := newMachineWithPIN(t)
	m.configure("log = \"file:" + m.path("log") + "\"\nlog_level = \"debug\"\n")
	m.write("data", "canary-data")
	m.write("other", "canary-wrong")
	var said strings.Builder
	for _, args := range [][]string{
		{"sign", "web", "-i", "@in", "--pin-file", "@pin"},
		{"sign", "web", "-i", "@in", "--pin-file", "@other"},
		{"seal", "-i", "@data", "--pin-file", "@pin", "-o", "@sealed"},
		{"unseal", "@sealed", "--pin-file", "@other"},
		{"lockout", "reset"},
		{"unseal", "@sealed", "--pin-file", "@pin", "-o", "@opened"},
		{"pin", "set", "--pin-file", "@other", "--new-pin-file", "@pin"},
		{"pin", "reset", "--so-pin-file", "@so", "--new-pin-file", "@other"},
		{"key", "show", "web"},
		{"sign", "pkcs11:object=web?pin-value=canary-uri", "-i", "@in"},
		{"doctor"},
	} {
		for _, more := range []string{"", "--json"} {
			r := m.try(slices.DeleteFunc(append(args, more), func(s string) bool { return s == "" })...)
			said.WriteString(r.stdout + r.stderr)
		}
	}
	logged := string(m.read("log"))
	contains(t, "the log", logged, "TPM2_Unseal")
	said.WriteString(logged)
	if i := strings.Index(said.String(), "canary"); i >= 0 {
		t.Errorf("a secret was printed: …%s…", said.String()[max(0, i-80):i+20])
	}
	if string(m.read("opened")) != "canary-data" {
		t.Error("the data was not opened")
	}
}
