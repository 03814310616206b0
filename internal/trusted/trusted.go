// Package trusted reads, and replaces, small files that a process goes by: its configuration, PINs, authorisations, certificates. A file
// that somebody else could have written, or read, is refused, and none makes its reader wait or fills its memory.
package trusted

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
)

// The most bytes that are read.
const (
	MaxText   = 1 << 20 // of configurations and certificate chains
	MaxSecret = 256     // of PINs and authorisations, of which none is longer than 64
)

// Rules say which files are good enough. The zero value takes every regular file.
type Rules struct {
	Closed   fs.FileMode // permissions that must not be given
	Owned    bool        // it must belong to root or the effective user
	NoFollow bool        // it must not be a symbolic link
	Pipes    bool        // a pipe, such as a shell's <(…), is as good as a file of the caller's own
}

// What is asked of files besides being regular.
const (
	NotWritable fs.FileMode = 0o022 // by group or others
	NotPublic   fs.FileMode = 0o026 // neither readable nor writable by others, nor writable by the group
	Private     fs.FileMode = 0o077 // the owner's alone
)

// Errors that callers tell apart with errors.Is.
var (
	ErrOpen    = errors.New("it is open to others")
	ErrForeign = errors.New("it belongs to another user")
	ErrSize    = errors.New("it is too long")
	ErrContent = errors.New("it does not hold one secret in one line")
)

// Read reads a file of at most limit bytes.
func Read(path string, limit int, r Rules) ([]byte, error) {
	flags := os.O_RDONLY | unix.O_CLOEXEC
	if r.NoFollow {
		flags |= unix.O_NOFOLLOW
	}
	if !r.Pipes {
		flags |= unix.O_NONBLOCK // without it a named pipe would make the host wait
	}
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := r.check(info, os.Geteuid()); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	text, err := ReadAll(f, limit)
	if errors.Is(err, ErrSize) {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return text, err
}

// check judges a file that is open.
func (r Rules) check(info fs.FileInfo, euid int) error {
	mode := info.Mode()
	switch {
	case mode.IsRegular():
	case r.Pipes && mode&(fs.ModeNamedPipe|fs.ModeCharDevice|fs.ModeSocket) != 0:
		return nil
	default:
		return errors.New("it is not a regular file")
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; r.Owned && owner != 0 && owner != uint32(euid) {
		return fmt.Errorf("%w, %d: chown it to root or to whoever uses it", ErrForeign, owner)
	}
	if mode.Perm()&r.Closed != 0 {
		mend := "600"
		if r.Closed == NotWritable {
			mend = "go-w"
		}
		return fmt.Errorf("%w (mode %04o): chmod %s it", ErrOpen, mode.Perm(), mend)
	}
	return nil
}

// firstRead is how much of a file there is room for at first, in bytes.
const firstRead = 4 << 10

// ReadAll reads all of r, which must be at most limit bytes. It leaves no copy of what may be a secret in outgrown buffers.
func ReadAll(r io.Reader, limit int) ([]byte, error) {
	text, n := make([]byte, min(firstRead, limit+1)), 0
	for {
		read, err := io.ReadFull(r, text[n:])
		n += read
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			return text[:n], nil
		case err == nil && n > limit:
			err = fmt.Errorf("%w: more than %d bytes", ErrSize, limit)
		}
		if err != nil {
			clear(text)
			return nil, err
		}
		grown := make([]byte, min(4*n, limit+1))
		copy(grown, text)
		clear(text)
		text = grown
	}
}

// ReadSecret reads a file with a secret in one line, such as a PIN.
func ReadSecret(path string, r Rules) (*secret.Bytes, error) {
	text, err := Read(path, MaxSecret, r)
	if err != nil {
		return nil, err
	}
	s, err := Line(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// Line takes the secret out of a file's text, which it wipes. One line end after it is not part of it.
func Line(text []byte) (*secret.Bytes, error) {
	defer clear(text)
	line := TrimLineEnd(text)
	switch {
	case len(line) == 0:
		return nil, fmt.Errorf("%w: it is empty", ErrContent)
	case bytes.IndexByte(line, 0) >= 0:
		return nil, fmt.Errorf("%w: it holds a NUL byte, and is a line of text", ErrContent)
	case bytes.ContainsAny(line, "\r\n"):
		return nil, fmt.Errorf("%w: it holds more than one line", ErrContent)
	}
	return secret.From(line), nil
}

// TrimLineEnd takes one line end off a text.
func TrimLineEnd(text []byte) []byte {
	return bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
}
