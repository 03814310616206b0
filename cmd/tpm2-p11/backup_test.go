package main

import (
	"os"
	"testing"
)

// What docs/backup.md says of a store that is lost, with a backup and without one.
func TestWhatABackupIsWorth(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.write("pin", "user pin\n")
	m.write("so", "so pin\n")
	m.write("in", "what is signed")
	m.run("init", "--pin-file", "@pin", "--so-pin-file", "@so")
	m.run("key", "create", "web", "--type", "p256", "--no-pin")
	m.run("key", "create", "mail", "--type", "p256", "--pin-file", "@pin")
	m.run("key", "create", "gone", "--type", "p256", "--no-pin")
	store, backup := m.path("store"), os.DirFS(m.path("backup"))
	if err := os.CopyFS(m.path("backup"), os.DirFS(store)); err != nil {
		t.Fatal(err)
	}
	m.run("key", "delete", "gone", "--yes")
	m.run("key", "create", "since", "--type", "p256", "--no-pin")
	lose := func() {
		t.Helper()
		if err := os.RemoveAll(store); err != nil {
			t.Fatal(err)
		}
	}
	sign := func(label string, more ...string) []string {
		return append([]string{"sign", label, "-i", "@in", "-o", "@sig"}, more...)
	}

	// Without a backup: what is at a handle and takes no PIN.
	lose()
	m.run("init", "--no-pin")
	contains(t, "handles", m.run("handles"), "0x81000100", "0x81000101", "0x81000102")
	m.run("key", "link", "0x81000100", "--label", "web")
	m.run(sign("web")...)
	m.run("key", "link", "0x81000101", "--label", "mail")
	m.refused(exitFailed, "wrong PIN or authorisation value", "the key has an authorisation of its own: take it in again", sign("mail")...)

	// With it: what it has, and by a link what came since.
	lose()
	if err := os.CopyFS(store, backup); err != nil {
		t.Fatal(err)
	}
	m.run(sign("web")...)
	m.run(sign("mail", "--pin-file", "@pin")...)
	m.diagnosed(`fail  key "gone": another object is at 0x81000102`)
	m.run("key", "evict", "gone")
	m.run(sign("gone")...)
	m.run("key", "link", "0x81000102", "--label", "since")
	m.run(sign("since")...)
	contains(t, "doctor", m.run("doctor"), `ok    key "web": usable now`, `ok    key "mail": usable now, by the token's PIN`, `ok    key "gone": usable now`, `ok    key "since": `)
}
