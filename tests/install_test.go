package tests

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A package builder's make install puts each file where distributions look, and make uninstall takes all away.
func TestInstallAndUninstall(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	root := m.path("root")
	top, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	m.run("make", "-C", top, "install", "DESTDIR="+root, "PREFIX=/usr")
	want := []string{
		"etc/tpm2-p11/tpm2-p11.conf",
		"usr/bin/tpm2-p11",
		"usr/lib/pkcs11/tpm2-p11.so",
		"usr/lib/pkgconfig/tpm2-p11.pc",
		"usr/lib/systemd/system/tpm2-p11.service",
		"usr/lib/systemd/system/tpm2-p11.socket",
		"usr/share/bash-completion/completions/tpm2-p11",
		"usr/share/fish/vendor_completions.d/tpm2-p11.fish",
		"usr/share/man/man1/tpm2-p11.1",
		"usr/share/p11-kit/modules/tpm2-p11.module",
		"usr/share/zsh/site-functions/_tpm2-p11",
	}
	if got := files(t, root); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("installed:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if module := string(m.read("root/usr/share/p11-kit/modules/tpm2-p11.module")); !strings.Contains(module, "module: /usr/lib/pkcs11/tpm2-p11.so") {
		t.Errorf("the p11-kit module file points elsewhere:\n%s", module)
	}
	m.env = append(m.env, "PKG_CONFIG_PATH="+root+"/usr/lib/pkgconfig")
	if path := m.run("pkg-config", "--variable=module", "tpm2-p11").stdout; strings.TrimSpace(path) != "/usr/lib/pkcs11/tpm2-p11.so" {
		t.Errorf("pkg-config says %q", path)
	}
	m.run(root+"/usr/bin/tpm2-p11", "version")

	m.run("make", "-C", top, "uninstall", "DESTDIR="+root, "PREFIX=/usr")
	if got := files(t, root); len(got) != 0 {
		t.Errorf("left behind: %s", strings.Join(got, " "))
	}
	for _, dir := range []string{"etc/tpm2-p11", "usr/lib/pkcs11", "usr/share/p11-kit", "usr/share/fish", "usr/share/man"} {
		if _, err := os.Stat(m.path("root/" + dir)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left, and empty: %v", dir, err)
		}
	}
}

// What an administrator changed or added stays, and is named.
func TestUninstallLeavesWhatIsNotItsOwn(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	root := m.path("root")
	top, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	m.run("make", "-C", top, "install", "DESTDIR="+root, "PREFIX=/usr")
	m.write("root/etc/tpm2-p11/owner.auth", "auth")
	m.run("make", "-C", top, "uninstall", "DESTDIR="+root, "PREFIX=/usr")
	if got := files(t, root); strings.Join(got, " ") != "etc/tpm2-p11/owner.auth" {
		t.Errorf("after uninstall: %s", strings.Join(got, " "))
	}
	m.run("make", "-C", top, "install", "DESTDIR="+root, "PREFIX=/usr")
	m.write("root/etc/tpm2-p11/tpm2-p11.conf", "# mine\n")
	said := m.run("make", "-C", top, "uninstall", "DESTDIR="+root, "PREFIX=/usr").stdout
	if want := "etc/tpm2-p11/tpm2-p11.conf was changed and stays"; !strings.Contains(said, want) {
		t.Errorf("it did not say that %s:\n%s", want, said)
	}
	if got := files(t, root); strings.Join(got, " ") != "etc/tpm2-p11/owner.auth etc/tpm2-p11/tpm2-p11.conf" {
		t.Errorf("after uninstall: %s", strings.Join(got, " "))
	}
}

// files lists the regular files below root, sorted, without root.
func files(t *testing.T, root string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			name, _ := filepath.Rel(root, path)
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
