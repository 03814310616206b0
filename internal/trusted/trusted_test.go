package trusted

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
)

func TestRules(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	pin := Rules{Closed: NotPublic}
	conf := Rules{Closed: NotWritable, Owned: true}
	auth := Rules{Closed: Private, Owned: true}
	for _, c := range []struct {
		name  string
		rules Rules
		euid  int
		owner uint32
		mode  fs.FileMode
		want  error
		says  string
	}{
		{"any file", Rules{}, 1000, 1001, 0o666, nil, ""},
		{"a folder", Rules{}, 1000, 1000, fs.ModeDir | 0o755, nil, "not a regular file"},
		{"a pipe", Rules{}, 1000, 1000, fs.ModeNamedPipe | 0o600, nil, "not a regular file"},
		{"a shell's pipe", Rules{Pipes: true, Closed: NotPublic}, 1000, 1000, fs.ModeNamedPipe | 0o666, nil, ""},
		{"a folder for a pipe", Rules{Pipes: true}, 1000, 1000, fs.ModeDir | 0o755, nil, "not a regular file"},
		{"a PIN for its group", pin, 1000, 1001, 0o640, nil, ""},
		{"a PIN for all", pin, 1000, 1000, 0o604, ErrOpen, "mode 0604): chmod 600"},
		{"a PIN that a group writes", pin, 1000, 1000, 0o620, ErrOpen, "chmod 600"},
		{"a file where a pipe would do", Rules{Pipes: true, Closed: NotPublic}, 1000, 1000, 0o644, ErrOpen, "chmod 600"},
		{"root's configuration, for root", conf, 0, 0, 0o644, nil, ""},
		{"root's configuration, for a user", conf, 1000, 0, 0o644, nil, ""},
		{"a user's own configuration", conf, 1000, 1000, 0o600, nil, ""},
		{"a user's configuration, for root", conf, 0, 1000, 0o644, ErrForeign, "another user, 1000"},
		{"another's configuration", conf, 1000, 1001, 0o600, ErrForeign, "another user, 1001"},
		{"a configuration that a group writes", conf, 0, 0, 0o664, ErrOpen, "chmod go-w"},
		{"a configuration that all write", conf, 1000, 0, 0o646, ErrOpen, "chmod go-w"},
		{"an authorisation", auth, 1000, 0, 0o600, nil, ""},
		{"an authorisation for its group", auth, 1000, 1000, 0o640, ErrOpen, "chmod 600"},
	} {
		err := c.rules.check(fileInfo{info, c.mode, c.owner}, c.euid)
		if c.want == nil && c.says == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %v, %q", c.name, err, c.want, c.says)
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

func TestRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, link, pipe := filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "pipe")
	if err := os.WriteFile(file, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, link} {
		if text, err := Read(path, 5, Rules{}); err != nil || string(text) != "12345" {
			t.Errorf("%s: %q, %v", path, text, err)
		}
	}
	if _, err := Read(file, 4, Rules{}); !errors.Is(err, ErrSize) || !strings.Contains(err.Error(), file) {
		t.Errorf("a file that is too long: %v", err)
	}
	if _, err := Read(link, 5, Rules{NoFollow: true}); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("a link: %v", err)
	}
	if _, err := Read(dir+"/absent", 5, Rules{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, err := Read(pipe, 5, Rules{}); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a pipe: %v", err)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(file, 5, Rules{Closed: NotPublic}); !errors.Is(err, ErrOpen) {
		t.Errorf("a file for all: %v", err)
	}

	written := make(chan error, 1)
	go func() { written <- os.WriteFile(pipe, []byte("from a pipe\n"), 0) }()
	pin, err := ReadSecret(pipe, Rules{Pipes: true, Closed: NotPublic})
	if err != nil || string(pin.Bytes()) != "from a pipe" {
		t.Errorf("a pipe of the caller's: %v", err)
	}
	pin.Wipe()
	if err := <-written; err != nil {
		t.Error(err)
	}
}

func TestReadAllTakesAllUpToItsLimit(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, firstRead - 1, firstRead, firstRead + 1, 4 * firstRead, 20 * firstRead} {
		text := strings.Repeat("0123456789abcdef-", n/17+1)[:n]
		for _, limit := range []int{n, n + 1, 2 * n, 100 * firstRead} {
			got, err := ReadAll(iotest.OneByteReader(strings.NewReader(text)), limit)
			if err != nil || string(got) != text {
				t.Errorf("of %d bytes, at most %d: %d, %v", n, limit, len(got), err)
			}
		}
		if _, err := ReadAll(strings.NewReader(text+"x"), n); !errors.Is(err, ErrSize) {
			t.Errorf("%d bytes, at most %d: %v", n+1, n, err)
		}
		if _, err := ReadAll(io.MultiReader(strings.NewReader(text), iotest.ErrReader(fs.ErrPermission)), 100*firstRead); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("a disk that fails after %d bytes: %v", n, err)
		}
	}
}

func TestLine(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"1234 5": "1234 5", "1234 5\n": "1234 5", "1234 5\r\n": "1234 5"} {
		b := []byte(text)
		s, err := Line(b)
		if err != nil || string(s.Bytes()) != want {
			t.Errorf("%q: %v", text, err)
			continue
		}
		s.Wipe()
		if strings.Trim(string(b), "\x00") != "" {
			t.Errorf("%q was left in memory", text)
		}
	}
	for text, want := range map[string]string{
		"": "empty", "\n": "empty", "12345\n\n": "more than one line", "12345\nabc\n": "more than one line", "12\x00345": "a NUL byte", "\x00\x00\n": "a NUL byte",
	} {
		if _, err := Line([]byte(text)); !errors.Is(err, ErrContent) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "12") {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

// A new file that somebody removed before it was in place changes nothing; one that is there takes the place of the old.
func TestSettle(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := Replace(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		removed bool
		content string
	}{{true, "old"}, {false, "new"}} {
		f, err := os.CreateTemp(dir, "*.new")
		if err != nil {
			t.Fatal(err)
		}
		if c.removed {
			if err := os.Remove(f.Name()); err != nil {
				t.Fatal(err)
			}
		}
		if err := Settle(f, path, []byte("new"), 0o600); errors.Is(err, fs.ErrNotExist) != c.removed || !c.removed && err != nil {
			t.Errorf("removed %v: %v", c.removed, err)
		}
		if text, err := os.ReadFile(path); err != nil || string(text) != c.content {
			t.Errorf("removed %v: %q, %v", c.removed, text, err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
}
