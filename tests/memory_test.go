package tests

import (
	"crypto/sha256"
	"fmt"
	"testing"
)

// A PIN is in no core dump of a process that logged in by it, and after the logout it is nowhere in the process.
func TestAPINIsNotLeftInMemory(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	pin := "a PIN, and a canary"
	m.write("pin", pin)
	m.tpm2p11("init", "--pin-file", "pin", "--so-pin-file", "pin")
	m.tpm2p11("key", "create", "web", "--type", "p256", "--pin-file", "pin")
	program := m.host("memory")
	m.run(program, module, m.path("pin"), fmt.Sprintf("%x", sha256.Sum256([]byte(pin))))
}
