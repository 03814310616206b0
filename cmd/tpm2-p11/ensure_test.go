package main

import (
	"context"
	"io"
	"os"
	"strings"
	"testing"
)

const declared = `
[[key]]
label = "web"
handle = 0x81000100
type = "p256"
policy = { pcr = { bank = "sha256", indices = [7] } }

[[key]]
label = "mail"
handle = 0x81000101
type = "p256"
`

func TestDeclaredKeysSurviveTheLossOfTheStore(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.tpm.Extend(t, "sha256", 7, []byte("boot"))
	m.configure(declared)
	m.write("in", "what is signed")
	if got := m.run("key", "ensure"); got != "web: created\nmail: created\n" {
		t.Errorf("the first time:\n%s", got)
	}
	if got := m.run("key", "ensure"); got != "web: unchanged\nmail: unchanged\n" {
		t.Errorf("the second time:\n%s", got)
	}
	m.run("key", "public", "web", "-o", "@pub")
	persistent := m.tpm.Count(t).Persistent
	if err := os.RemoveAll(m.path("store")); err != nil {
		t.Fatal(err)
	}
	contains(t, "doctor", m.try("doctor").stdout, "run `tpm2-p11 key ensure`")
	if got := m.run("key", "ensure"); got != "web: adopted\nmail: adopted\n" {
		t.Errorf("after the store was lost:\n%s", got)
	}
	m.run("sign", "web", "-i", "@in", "-o", "@sig")
	m.run("verify", "--public", "@pub", "-i", "@in", "--signature", "@sig")
	if now := m.tpm.Count(t).Persistent; now != persistent {
		t.Errorf("%d persistent objects, there were %d", now, persistent)
	}
}

func TestEnsureDoesWhatItCan(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.tpm.Extend(t, "sha256", 7, []byte("boot"))
	m.configure(declared)
	if got := m.run("key", "ensure", "mail"); got != "mail: created\n" {
		t.Errorf("ensure mail:\n%s", got)
	}
	r := m.try("key", "ensure", "mail", "nobody")
	if r.code != exitFailed || r.stdout != "mail: unchanged\n" {
		t.Errorf("ensure nobody: %v", r)
	}
	contains(t, "ensure nobody", r.stderr, `the configuration declares no key "nobody"`, "add a [[key]] table to")

	m.configure(strings.ReplaceAll(declared, `type = "p256"`, `type = "p384"`))
	r = m.try("key", "ensure", "--json")
	if r.code != exitFailed {
		t.Errorf("a key that differs from its declaration: %v", r)
	}
	keys := decodeJSON(t, r.stdout)["keys"].([]any)
	web, mail := keys[0].(map[string]any), keys[1].(map[string]any)
	if web["outcome"] != "created" || mail["outcome"] != "failed" || mail["error"] == "" {
		t.Errorf("ensure --json: %v", keys)
	}
	m.configure("")
	if got := m.run("key", "ensure"); got != "" {
		t.Errorf("nothing is declared: %q", got)
	}
}

// One key's certificate that is not there keeps no other key from being made.
func TestEnsureMakesTheKeysWhoseDeclarationsCanBeRead(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.tpm.Extend(t, "sha256", 7, []byte("boot"))
	m.configure(strings.Replace(declared, "[[key]]", "[[key]]\ncertificate = \"absent.crt\"", 1))
	r := m.try("key", "ensure")
	if r.code != exitFailed || r.stdout != "web: failed\nmail: created\n" {
		t.Errorf("key ensure: %v", r)
	}
	contains(t, "key ensure", r.stderr, `key "web": certificate`, "absent.crt: no such file", "for a key that is yet to be made leave `certificate` out")
	doctor := m.try("doctor").stdout
	contains(t, "doctor", doctor, `fail  declared key "web": `, `ok    declared key "mail": it is there as declared`)
}

func TestSeveralTokens(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	conf := ""
	for _, label := range []string{"one", "two"} {
		conf += "[[token]]\nlabel = \"" + label + "\"\ntpm = \"" + m.tpm.Address() + "\"\nstore = \"" + m.path(label) + "\"\n"
	}
	m.write("tpm2-p11.conf", conf)
	m.refused(exitUsage, "the configuration has 2 tokens (one, two)", "--token LABEL", "init", "--no-pin")
	m.run("init", "--no-pin", "--token", "one")
	contains(t, "list", m.try("key", "list").stderr, "two: the store is not initialised: `tpm2-p11 init --token two` makes it", "no token has a key yet")
	m.run("init", "--no-pin", "--label", "two")
	m.run("key", "create", "web", "--type", "p256", "--token", "one")
	m.run("key", "create", "web", "--type", "p256", "--token", "two")
	m.run("key", "create", "mail", "--type", "p256", "--token", "two")
	if lines := strings.Split(m.run("key", "list"), "\n"); len(lines) != 5 || !strings.HasPrefix(lines[0], "TOKEN  LABEL") ||
		!strings.HasPrefix(lines[1], "one    web") || !strings.HasPrefix(lines[2], "two    mail") || !strings.HasPrefix(lines[3], "two    web") {
		t.Errorf("the list of two tokens: %q", lines)
	}
	if key := m.json("key", "list")["keys"].([]any)[1].(map[string]any); key["token"] != "two" || key["label"] != "mail" {
		t.Errorf("the second key is %v", key)
	}
	m.run("key", "show", "mail")
	m.refused(exitFailed, "more than one key answers", "", "key", "show", "web")
	contains(t, "key show", m.run("key", "show", "web", "--token", "two"), "pkcs11:token=two;object=web")
	contains(t, "key show", m.run("key", "show", "pkcs11:token=one;object=web"), "0x81000100")
	m.refused(exitFailed, `no token is called "three"`, "there is: one, two", "key", "list", "--token", "three")
	contains(t, "handles", m.run("handles", "--token", "one"), "key mail", "storage root key")
	contains(t, "doctor", m.run("doctor"), "one: store", "two: store")
	contains(t, "doctor", m.try("doctor", "--token", "three").stdout, `fail  token: no token is called "three"`)
	contains(t, "list", m.run("key", "list", "--store", "@two", "--token", "one"), "mail")
	m.refused(exitUsage, "it is not clear whose store it is", "", "key", "list", "--store", "@two")
}

func TestCompletionKnowsTheKeysWithoutTheTPM(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run("init", "--no-pin")
	m.run("key", "create", "web", "--type", "p256")
	m.tpm.Stop(t)
	contains(t, "completion", m.run("__complete", "--config", m.config, "sign", ""), "web\tp256 0x81000100")
	contains(t, "completion", m.run("__complete", "--config", m.config, "key", "create", "x", "--type", ""), "rsa2048", "p256")
	contains(t, "completion", m.run("__complete", "--config", m.config, "key", "list", "--token", ""), "tpm2-p11")
	m.tpm.Restart(t)
}

func TestAnInterruptStopsAtOnce(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run("init", "--no-pin")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var errs strings.Builder
	a := &app{in: strings.NewReader(""), out: io.Discard, err: &errs, ask: m.ask}
	if code := a.run(ctx, []string{"key", "create", "web", "--config", m.config}); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	contains(t, "standard error", errs.String(), "tpm2-p11: interrupted")
	if keys := m.json("key", "list")["keys"].([]any); len(keys) != 0 {
		t.Errorf("an interrupted key was left: %v", keys)
	}
}
