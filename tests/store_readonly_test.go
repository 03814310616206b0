package tests

import (
	"strings"
	"testing"
)

// An image whose root is mounted read-only: its owner, root, may use the keys, and is told what keeps it from changing them.
func TestAStoreOnAReadOnlyFilesystem(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	oneKey(m)
	m.write("in.txt", "the contract")
	// In a mount namespace of its own, which ends with it.
	const script = `mount --bind store store && mount -o remount,ro,bind store && exec "$@"`
	readOnly := func(args ...string) result {
		return m.start("unshare", append([]string{"--mount", "sh", "-c", script, "sh", command}, args...)...)
	}
	for _, change := range [][]string{{"key", "create", "new", "--type", "p256"}, {"key", "delete", "web", "--yes"}, {"init", "--force", "--no-pin"}} {
		r := readOnly(change...)
		if r.code != failed {
			t.Errorf("%v: exit code %d\n%s", change, r.code, r.all())
		}
		for _, word := range []string{"the store cannot be written", "read-only file system", "mount it writable"} {
			if !strings.Contains(r.all(), word) {
				t.Errorf("%v does not say %q:\n%s", change, word, r.all())
			}
		}
		if strings.Contains(r.all(), "owner") {
			t.Errorf("%v sends its owner to the owner:\n%s", change, r.all())
		}
	}
	if r := readOnly("sign", "web", "--in", "in.txt", "--out", "signature"); r.code != 0 {
		t.Errorf("signing: exit code %d\n%s", r.code, r.all())
	}
	if r := readOnly("doctor"); r.code != 0 || !strings.Contains(r.stdout, "on a read-only filesystem - nothing to do if keys are only used; to change them mount it writable") {
		t.Errorf("doctor: exit code %d\n%s", r.code, r.all())
	}
}
