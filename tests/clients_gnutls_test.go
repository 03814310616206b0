package tests

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A user whose p11-kit knows the module: every program that asks p11-kit finds the token, p11tool without a word about the module.
func TestP11KitOfAUser(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.tpm2p11("init", "--label", "web", "--no-pin")
	m.tpm2p11("key", "create", "web", "--type", "p256")
	m.run("cp", module, "module.so")
	if err := os.MkdirAll(m.path(".config/pkcs11/modules"), 0o755); err != nil {
		t.Fatal(err)
	}
	m.write(".config/pkcs11/modules/tpm2-p11.module", "module: "+m.path("module.so")+"\n")
	user := m.givenAway()
	modules := m.run("env", append(user, "p11-kit", "list-modules")...).stdout
	for _, want := range []string{"tpm2-p11: " + m.path("module.so"), "token: web", "model: TPM 2.0"} {
		if !strings.Contains(modules, want) {
			t.Errorf("p11-kit's list lacks %q:\n%s", want, modules)
		}
	}
	m.run("env", append(user, "p11tool", "--test-sign", "pkcs11:token=web;object=web;type=private")...)
}

// givenAway gives root's machine to another user, for what is not for root: p11-kit reads no configuration of root's own. It gives the words
// to put before a command.
func (m *machine) givenAway() []string {
	m.t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	m.show(m.dir)
	m.show(filepath.Dir(m.tpm.Socket()))
	m.run("chown", "-R", "65534:65534", m.dir, m.tpm.Socket())
	return []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"}
}
