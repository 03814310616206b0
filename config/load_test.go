package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
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
	h := newHome(t)
	path := h.write(t, "x.conf")
	for _, c := range []struct {
		name   string
		secure bool
		euid   int
		owner  uint32
		mode   fs.FileMode
		want   string
	}{
		{"a user's own", false, 1000, 1000, 0o664, ""},
		{"another's, at a user's own risk", false, 1000, 1001, 0o666, ""},
		{"root's, for root", false, 0, 0, 0o644, ""},
		{"a user's, for root", false, 0, 1000, 0o644, "belongs to user 1000"},
		{"writable by a group, for root", false, 0, 0, 0o664, "chmod go-w"},
		{"root's, setuid", true, 1000, 0, 0o644, ""},
		{"the program's, setuid", true, 1000, 1000, 0o600, ""},
		{"another's, setuid", true, 1000, 1001, 0o600, "belongs to user 1001"},
		{"writable by all, setuid", true, 1000, 0, 0o646, "chmod go-w"},
		{"a folder", false, 1000, 1000, fs.ModeDir | 0o755, "not a regular file"},
		{"a pipe", false, 1000, 1000, fs.ModeNamedPipe | 0o600, "not a regular file"},
	} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		err = process{secure: c.secure, euid: c.euid}.trust(fileInfo{info, c.mode, c.owner})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// fileInfo is a file's with another mode and owner.
type fileInfo struct {
	fs.FileInfo
	mode  fs.FileMode
	owner uint32
}

func (f fileInfo) Mode() fs.FileMode { return f.mode }
func (f fileInfo) Sys() any          { return &syscall.Stat_t{Uid: f.owner} }

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
	if err := os.WriteFile(large, []byte(strings.Repeat("#", maxSize+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := h.load(link); err != nil {
		t.Errorf("a link in an ordinary process: %v", err)
	}
	for path, want := range map[string]string{pipe: "not a regular file", h.dir: "not a regular file", large: "larger than"} {
		if _, err := h.load(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
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
	if isSecure() {
		t.Fatal("an ordinary process counts as secure")
	}
	if c, err := Load(""); err != nil || c.Path != path || c.Log != "off" {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := Parse("x.conf", nil); err != nil || c.Log != "syslog" {
		t.Errorf("%+v, %v", c, err)
	}
}
