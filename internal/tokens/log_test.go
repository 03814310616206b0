package tokens

import (
	"log/slog"
	"log/syslog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tpm2-p11/tpm2-p11/config"
)

func TestLogToAFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	quiet, loud := newLogger("file:"+path, false), newLogger("file:"+path, true)
	quiet.Debug("not this")
	quiet.Info("nor this")
	quiet.Warn("refused", "key", "web\nforged line")
	loud.Debug("detail")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := `^time=\S+ level=WARN msg=refused pid=\d+ key="web\\nforged line"\ntime=\S+ level=DEBUG msg=detail pid=\d+\n$`
	if !regexp.MustCompile(want).Match(text) {
		t.Errorf("the log is\n%s", text)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}
	// Rotation: the next line goes to a new file of that name.
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	quiet.Warn("after")
	if text, err := os.ReadFile(path); err != nil || !strings.Contains(string(text), "msg=after") {
		t.Errorf("after rotation: %s, %v", text, err)
	}
}

// A link at the log's place leads nowhere.
func TestLogFollowsNoLink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	target, link := filepath.Join(dir, "precious"), filepath.Join(dir, "log")
	if err := os.WriteFile(target, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	newLogger("file:"+link, true).Error("line")
	if text, err := os.ReadFile(target); err != nil || len(text) != 0 {
		t.Errorf("%q, %v", text, err)
	}
}

// A log whose lines would be lost is known beforehand, and nothing is made or written to find that out.
func TestLogThatCannotBeWrittenIsTold(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	there := filepath.Join(dir, "there")
	if err := os.WriteFile(there, []byte("line\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(there, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for log, want := range map[string]string{
		"file:" + there:                         "",
		"file:" + filepath.Join(dir, "new"):     "",
		"file:" + filepath.Join(dir, "no/such"): "no such file or directory",
		"file:" + filepath.Join(dir, "link"):    "symbolic links",
		"file:" + dir:                           "is a directory",
		"stderr":                                "",
		"off":                                   "",
	} {
		err := CheckLog(config.Config{Log: log})
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", log, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "name another `log`")):
			t.Errorf("%s: %v, want %s and what to do", log, err, want)
		}
	}
	_, dialled := syslog.New(syslog.LOG_DAEMON, "test")
	if err := CheckLog(config.Config{Log: "syslog"}); (err == nil) != (dialled == nil) {
		t.Errorf("the system's log: %v, while %v", err, dialled)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("the folder holds %v, %v", entries, err)
	}
	if text, err := os.ReadFile(there); err != nil || string(text) != "line\n" {
		t.Errorf("the file holds %q, %v", text, err)
	}
}

func TestLogToSyslog(t *testing.T) {
	t.Parallel()
	// A short path of its own: a test's folder can be too long for a socket.
	dir, err := os.MkdirTemp("", "log")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	address := filepath.Join(dir, "s")
	listener, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	log := slog.New(newSyslogHandler("unixgram", address, slog.LevelDebug))
	for _, c := range []struct {
		level    slog.Level
		severity string
	}{{slog.LevelError, "27"}, {slog.LevelWarn, "28"}, {slog.LevelInfo, "30"}, {slog.LevelDebug, "31"}, {slog.LevelDebug - 4, ""}} {
		log.With("slot", 1).WithGroup("g").Log(t.Context(), c.level, "key refused", "level", "x")
		if c.severity == "" {
			continue
		}
		listener.SetReadDeadline(time.Now().Add(time.Minute))
		message := make([]byte, 1024)
		n, err := listener.Read(message)
		if err != nil {
			t.Fatal(err)
		}
		got := string(message[:n])
		if !strings.HasPrefix(got, "<"+c.severity+">") || !strings.HasSuffix(got, "]: msg=\"key refused\" slot=1 g.level=x\n") || !strings.Contains(got, " tpm2-p11[") {
			t.Errorf("%v is sent as %q", c.level, got)
		}
	}
	listener.Close()
	os.Remove(address)
	log.Error("nobody hears this, and nothing happens")
}

// Nothing that the log does is an error in the host.
func TestLogThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	for _, to := range []string{"file:/nowhere/log", "file:" + t.TempDir(), "off"} {
		newLogger(to, true).Error("line")
	}
}
