package tokens

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tpm2-p11/tpm2-p11/config"
)

// newLogger is the log that a configuration's log and log_level ask for. No log is ever an error of the host's: what cannot
// be written is lost.
func newLogger(to string, debug bool) *slog.Logger {
	level := slog.LevelWarn
	if debug {
		level = slog.LevelDebug
	}
	options := &slog.HandlerOptions{Level: level}
	path, isFile := strings.CutPrefix(to, "file:")
	switch {
	case isFile:
		return slog.New(slog.NewTextHandler(appender(path), options)).With("pid", os.Getpid())
	case to == "stderr":
		return slog.New(slog.NewTextHandler(os.Stderr, options))
	case to == "syslog":
		return slog.New(newSyslogHandler("", "", level))
	}
	return slog.New(slog.DiscardHandler)
}

// LoggerOf is a configuration's log, also that of one that could not be read for another reason.
func LoggerOf(c config.Config) *slog.Logger { return newLogger(cmp.Or(c.Log, "syslog"), c.Debug) }

// DefaultLogger is the log before a configuration is read, and when it cannot be: the system's.
func DefaultLogger() *slog.Logger { return newLogger("syslog", false) }

// CheckLog tells why the lines of a configuration's log would be lost in this process, and what to do; nil when they would not. It
// writes nothing.
func CheckLog(c config.Config) error {
	path, isFile := strings.CutPrefix(c.Log, "file:")
	var err error
	switch {
	case isFile:
		if err = appendable(path); err != nil {
			return fmt.Errorf("the log %s cannot be written, and its lines are lost: %w; make its folder and file for this user, or name another `log`", path, err)
		}
	case c.Log == "syslog":
		if err = syslogAnswers(); err != nil {
			return fmt.Errorf("the system's log takes nothing here, and lines for it are lost: %w; in a container say `log = \"stderr\"`", err)
		}
	}
	return nil
}

// appendable tries to open a log's file, or whether it could be made: whoever writes first owns it.
func appendable(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		folder := filepath.Dir(path)
		return os.NewSyscallError("a file in "+folder, unix.Faccessat(unix.AT_FDCWD, folder, unix.W_OK|unix.X_OK, unix.AT_EACCESS))
	}
	if err != nil {
		return err
	}
	return f.Close()
}

// appender appends each write to a file of this name. It keeps no descriptor: hosts close those that they do not know, and
// the number is soon another file's; and log rotation needs no signal.
type appender string

func (a appender) Write(line []byte) (int, error) {
	f, err := os.OpenFile(string(a), os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return 0, err
	}
	n, err := f.Write(line)
	if failed := f.Close(); err == nil {
		err = failed
	}
	return n, err
}

// bySeverity hands each record to the handler of its level. The levels are slog's own four.
type bySeverity map[slog.Level]slog.Handler

func (b bySeverity) of(level slog.Level) slog.Handler {
	switch {
	case level >= slog.LevelError:
		return b[slog.LevelError]
	case level >= slog.LevelWarn:
		return b[slog.LevelWarn]
	case level >= slog.LevelInfo:
		return b[slog.LevelInfo]
	}
	return b[slog.LevelDebug]
}

func (b bySeverity) Enabled(ctx context.Context, level slog.Level) bool {
	return b.of(level).Enabled(ctx, level)
}

func (b bySeverity) Handle(ctx context.Context, r slog.Record) error {
	return b.of(r.Level).Handle(ctx, r)
}

func (b bySeverity) WithAttrs(attrs []slog.Attr) slog.Handler {
	return b.each(func(h slog.Handler) slog.Handler { return h.WithAttrs(attrs) })
}

func (b bySeverity) WithGroup(name string) slog.Handler {
	return b.each(func(h slog.Handler) slog.Handler { return h.WithGroup(name) })
}

func (b bySeverity) each(with func(slog.Handler) slog.Handler) slog.Handler {
	all := make(bySeverity, len(b))
	for level, h := range b {
		all[level] = with(h)
	}
	return all
}
