package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/internal/trusted"
)

// home is a machine of one user's, with folders of its own.
type home struct {
	process
	dir  string
	vars map[string]string
}

func newHome(t *testing.T) *home {
	t.Helper()
	dir := t.TempDir()
	h := &home{dir: dir, vars: map[string]string{"HOME": filepath.Join(dir, "home")}}
	h.process = process{
		euid:   1000,
		getenv: func(name string) string { return h.vars[name] },
		etc:    filepath.Join(dir, "etc"),
		state:  filepath.Join(dir, "var"),
	}
	return h
}

// write makes a file below the machine's folder whose log says where it was read from.
func (h *home) write(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(h.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("log = \"off\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoadLooksInTheStandardPlaces(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	expect := func(path, want string) {
		t.Helper()
		c, err := h.load(path)
		if err != nil || c.Path != want {
			t.Errorf("loaded %q, %v; want %q", c.Path, err, want)
		}
	}
	expect("", "")
	system := h.write(t, "etc/tpm2-p11/tpm2-p11.conf")
	expect("", system)
	user := h.write(t, "home/.config/tpm2-p11/tpm2-p11.conf")
	expect("", user)
	h.vars["XDG_CONFIG_HOME"] = "relative/does/not/count"
	expect("", user)
	h.vars["XDG_CONFIG_HOME"] = filepath.Join(h.dir, "xdg")
	expect("", system)
	xdg := h.write(t, "xdg/tpm2-p11/tpm2-p11.conf")
	expect("", xdg)
	h.vars["TPM2_P11_CONF"] = h.write(t, "named.conf")
	expect("", h.vars["TPM2_P11_CONF"])
	given := h.write(t, "given.conf")
	expect(given, given)

	h.vars["TPM2_P11_CONF"] = filepath.Join(h.dir, "absent.conf")
	if _, err := h.load(""); !errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(err.Error(), "$TPM2_P11_CONF: ") {
		t.Errorf("a named file that is absent: %v", err)
	}

	h.secure = true
	expect("", system)
}

func TestDefaultStore(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	expect := func(want string) {
		t.Helper()
		if got := h.defaults().Tokens[0].Store; got != filepath.Join(h.dir, want) {
			t.Errorf("%s, want %s", got, want)
		}
	}
	expect("home/.local/share/tpm2-p11")
	h.vars["XDG_DATA_HOME"] = filepath.Join(h.dir, "data")
	expect("data/tpm2-p11")
	h.secure = true
	expect("var/tpm2-p11")
	h.secure = false
	h.euid = 0
	expect("var/tpm2-p11")
	h.euid, h.vars = 1000, nil
	expect("var/tpm2-p11")
}

// A process with more rights than its caller, and root, take no file that others could have written.
func TestTrust(t *testing.T) {
	t.Parallel()
	own := trusted.Rules{Closed: trusted.NotWritable, Owned: true}
	secure := own
	secure.NoFollow = true
	for _, c := range []struct {
		name string
		process
		want trusted.Rules
	}{
		{"a user's, at a user's own risk", process{euid: 1000}, trusted.Rules{}},
		{"root's", process{}, own},
		{"a setuid process's", process{secure: true, euid: 1000}, secure},
		{"root's setuid process's", process{secure: true}, secure},
	} {
		if got := c.rules(); got != c.want {
			t.Errorf("%s file: %+v", c.name, got)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	file := h.write(t, "x.conf")
	link := filepath.Join(h.dir, "link.conf")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(h.dir, "pipe.conf")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	large := filepath.Join(h.dir, "large.conf")
	if err := os.WriteFile(large, []byte(strings.Repeat("#", trusted.MaxText+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := h.load(link); err != nil {
		t.Errorf("a link in an ordinary process: %v", err)
	}
	for path, want := range map[string]string{pipe: "not a regular file", h.dir: "not a regular file", large: "too long"} {
		if _, err := h.load(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
	if err := os.Chmod(file, 0o664); err != nil {
		t.Fatal(err)
	}
	h.euid = 0
	if _, err := h.load(file); !errors.Is(err, trusted.ErrOpen) || !strings.HasPrefix(err.Error(), file+": ") {
		t.Errorf("a file that a group writes, for root: %v", err)
	}
	h.secure = true
	h.euid = os.Geteuid()
	if _, err := h.load(link); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("a link in a secure process: %v", err)
	}
}

// The test itself is an ordinary process, and its own environment counts.
func TestThisProcess(t *testing.T) {
	path := newHome(t).write(t, "mine.conf")
	t.Setenv("TPM2_P11_CONF", path)
	if secure() {
		t.Fatal("an ordinary process counts as secure")
	}
	if c, err := Load(""); err != nil || c.Path != path || c.Log != "off" {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := Parse("x.conf", nil); err != nil || c.Log != "syslog" {
		t.Errorf("%+v, %v", c, err)
	}
}
