package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/policy/eventlog"
)

// machineThatBooted has what a machine with secure boot measured: its log, and the same in its TPM.
func machineThatBooted(t *testing.T) *machine {
	t.Helper()
	m := newMachine(t)
	text := m.bootLog()
	l, err := eventlog.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range l.Events {
		if !e.Extends() {
			continue
		}
		var digests []string
		for _, b := range l.Banks {
			name := map[int]string{20: "sha1", 32: "sha256", 48: "sha384", 64: "sha512"}[b.Size]
			digests = append(digests, fmt.Sprintf("%s=%x", name, e.Digests[b.Hash]))
		}
		m.tool("tpm2_pcrextend", fmt.Sprintf("%d:%s", e.PCR, strings.Join(digests, ",")))
	}
	return m
}

// bootLog writes a machine's log as boot.log.
func (m *machine) bootLog() string {
	m.t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "policy", "eventlog", "testdata", "secure.log"))
	if err != nil {
		m.t.Fatal(err)
	}
	m.write("boot.log", string(text))
	return string(text)
}

// What each event did is told without a TPM.
func TestWhichEventMadeWhichPCR(t *testing.T) {
	t.Parallel()
	m := offline(t)
	m.bootLog()
	text := m.run("policy", "events", "@boot.log")
	contains(t, "events", text,
		"sha384 PCR7  b06003bca7e6f8cb4a4d62d0bb7318ad3258268da5c7bde47d39cd7ff00bbebe59fa74a02a98833ec80e45463c0d417f\n",
		"=  EV_EFI_VARIABLE_DRIVER_CONFIG  SecureBoot\n", `\EFI\BOOT\BOOTX64.EFI`, "sha384 PCR11 637f92a6")
	one := m.run("policy", "events", "@boot.log", "--pcr", "sha256:12,4")
	if !strings.HasPrefix(one, "sha256 PCR4 ") || !strings.HasSuffix(one, "sha256 PCR12 "+strings.Repeat("0", 64)+"\n") || strings.Contains(one, "PCR7") {
		t.Errorf("two PCRs: %s", one)
	}
	if m.stdin = m.bootLog(); m.run("policy", "events", "-") != text {
		t.Error("standard input gives another answer")
	}
}

// The log is compared with the TPM: what the operating system extended since is no surprise, what the firmware measured is.
func TestALogIsComparedWithTheTPM(t *testing.T) {
	t.Parallel()
	m := machineThatBooted(t)
	events := []string{"policy", "events", "@boot.log", "--tpm", m.tpm.Address()}
	if text := m.run(events...); strings.Count(text, "as in the TPM") != 10 || strings.Contains(text, "TPM has") {
		t.Errorf("after the boot: %s", text)
	}
	m.tpm.Extend(t, "sha384", 11, []byte("enter-initrd"))
	contains(t, "later", m.run(events...), "and the TPM has ", "extended after the log")
	if m.json(events...)["pcrs"].([]any)[9].(map[string]any)["match"] != false {
		t.Error("PCR 11 matches")
	}

	m.tpm.Extend(t, "sha384", 4, []byte("another program"))
	r := m.try(events...)
	if r.code != exitFailed || r.stderr != "" {
		t.Errorf("exit code %d, %q", r.code, r.stderr)
	}
	contains(t, "another log", r.stdout, "but the TPM has ", "not this boot's, or was changed")
}

func TestLogsThatCannotBeRead(t *testing.T) {
	t.Parallel()
	m := offline(t)
	m.bootLog()
	m.write("text", "no log")
	for _, c := range []struct {
		code                int
		args, message, hint string
	}{
		{exitUsage, "policy events a b", `argument "b" is one too many`, "--help"},
		{exitUsage, "policy events @boot.log --pcr 7", "7", "--help"},
		{exitFailed, "policy events @text", "not a TCG event log", ""},
		{exitFailed, "policy events @missing", "missing", ""},
		{exitFailed, "policy events @boot.log --tpm device:/nowhere", "/nowhere", ""},
	} {
		m.refused(c.code, c.message, c.hint, strings.Fields(c.args)...)
	}
	m.write("old.log", string(append(append(make([]byte, 4), 4, 0, 0, 0), make([]byte, 24)...)))
	contains(t, "an old log", m.run("policy", "events", "@old.log"), "sha1 PCR0 ", "EV_SEPARATOR")
	m.refused(exitFailed, "the log has no digests for sha256", "", "policy", "events", "@old.log", "--pcr", "sha256:7")
}
