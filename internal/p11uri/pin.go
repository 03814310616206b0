package p11uri

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
)

// maxPINFile is the most that a PIN file may hold, in bytes: no PIN is longer than 64.
const maxPINFile = 256

// ErrPINFile is wrapped by every error of ReadPIN.
var ErrPINFile = errors.New("the PIN file cannot be used")

// pinPath takes the file's path out of a pin-source: "/path", "file:/path" or "file:///path".
func pinPath(source string) (string, error) {
	if strings.HasPrefix(source, "|") {
		return "", errors.New("pin-source names a command, and only files are read: pin-source=/path")
	}
	path := source
	if len(path) >= 5 && strings.EqualFold(path[:5], "file:") {
		path = path[5:]
		if strings.HasPrefix(path, "///") {
			path = path[2:]
		}
	}
	if !filepath.IsAbs(path) || strings.HasPrefix(path, "//") || strings.ContainsRune(path, 0) {
		return "", errors.New("pin-source is not the absolute path of a file: pin-source=/path or pin-source=file:/path")
	}
	return path, nil
}

// ReadPIN reads the file that PINSource names: the PIN and at most one line end
// after it. The file must be a regular one that others can neither read nor write,
// nor the group write. The caller wipes the PIN.
func (u URI) ReadPIN() (*secret.Bytes, error) {
	// O_NONBLOCK: a FIFO must not hang the open; it is refused just after.
	f, err := os.OpenFile(u.PINSource, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPINFile, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPINFile, err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s is not a regular file", ErrPINFile, u.PINSource)
	}
	if mode := info.Mode().Perm(); mode&0o026 != 0 {
		return nil, fmt.Errorf("%w: %s has mode %04o, open to others: make it 0600 or 0640", ErrPINFile, u.PINSource, mode)
	}

	buf := make([]byte, maxPINFile+1)
	defer clear(buf)
	n, err := io.ReadFull(f, buf)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: %w", ErrPINFile, err)
	}
	if n > maxPINFile {
		return nil, fmt.Errorf("%w: %s holds more than %d bytes", ErrPINFile, u.PINSource, maxPINFile)
	}
	pin := bytes.TrimSuffix(bytes.TrimSuffix(buf[:n], []byte("\n")), []byte("\r"))
	if len(pin) == 0 {
		return nil, fmt.Errorf("%w: %s is empty", ErrPINFile, u.PINSource)
	}
	if bytes.ContainsAny(pin, "\r\n\x00") {
		return nil, fmt.Errorf("%w: %s holds more than one line", ErrPINFile, u.PINSource)
	}
	return secret.From(pin), nil
}
