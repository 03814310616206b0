package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// contained runs a program as a container does: as a user whom nothing names, without a home or anything else in the environment, on a
// root file system that cannot be written.
func (m *machine) contained(args ...string) result {
	m.t.Helper()
	const script = `mount -o remount,ro,bind / && mount -t tmpfs -o mode=1777 tmpfs memory && exec setpriv --reuid=4242 --regid=4242 --clear-groups env -i "$@"`
	if err := os.MkdirAll(m.path("memory"), 0o755); err != nil {
		m.t.Fatal(err)
	}
	return m.start("unshare", append([]string{"--mount", "sh", "-c", script, "sh", "PATH=/usr/bin:/bin", "TPM2_P11_CONF=" + m.path("tpm2-p11.conf")}, args...)...)
}

// docs/containers.md: a container whose user is a number to the host has the keys that a table gives that number.
func TestAContainerHasKeysByASocket(t *testing.T) {
	t.Parallel()
	s := newService(t, "[[access]]\nusers = [\"4242\"]\nkeys = [\"web\"]\npurposes = [\"sign\"]\n", "--type", "p256")
	s.write("in.txt", "the contract")
	if err := os.Chmod(s.path("in.txt"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.run("install", "-m", "755", command, s.path("tpm2-p11"))
	if r := s.contained(s.path("tpm2-p11"), "doctor"); r.code != 0 || !strings.Contains(r.stdout, "answers and lets this user in") {
		t.Errorf("doctor: %d\n%s", r.code, r.all())
	}
	list := s.contained("pkcs11-tool", "--module", s.path("module.so"), "--list-objects")
	if list.code != 0 || !strings.Contains(list.all(), "label:      web") || strings.Contains(list.all(), "label:      mail") {
		t.Errorf("it sees\n%s", list.all())
	}
	if r := s.contained("pkcs11-tool", "--module", s.path("module.so"), "--sign", "--mechanism", "ECDSA-SHA256", "--label", "web", "--input-file", "in.txt"); r.code != 0 {
		t.Errorf("it cannot sign: %s", r.all())
	}
}

// The same with the TPM: what is declared is made once, and adopted by each container that begins without a store.
func TestAContainerHasTheTPM(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.show(m.dir)
	m.show(filepath.Dir(m.tpm.Socket()))
	m.run("install", "-m", "755", command, m.path("tpm2-p11"))
	if err := os.Chmod(m.tpm.Socket(), 0o666); err != nil {
		t.Fatal(err)
	}
	m.write("tpm2-p11.conf", fmt.Sprintf("log = \"stderr\"\ntpm = %q\nstore = %q\n[[key]]\nlabel = \"web\"\nhandle = 0x81000100\ntype = \"p256\"\n",
		m.tpm.Address(), m.path("memory/store")))
	if err := os.Chmod(m.path("tpm2-p11.conf"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, outcome := range []string{"created", "adopted"} {
		r := m.contained("sh", "-ec", `"$0" key ensure; "$0" doctor; echo the contract | "$0" sign web --out memory/signature; test -s memory/signature`, m.path("tpm2-p11"))
		if r.code != 0 || !strings.Contains(r.stdout, "web: "+outcome) || !strings.Contains(r.stdout, `ok    declared key "web"`) {
			t.Errorf("%s: %d\n%s", outcome, r.code, r.all())
		}
	}
}
