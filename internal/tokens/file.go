package tokens

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"syscall"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
)

// maxAuth is the longest authValue that a TPM takes, in bytes: the size of its largest hash.
const maxAuth = 64

// readOwnerAuth reads the owner hierarchy's authValue; a newline at the file's end is not part of it. It is nil for a file
// that this process may not read.
func readOwnerAuth(path string, log *slog.Logger) (*secret.Bytes, error) {
	text, info, err := readFile(path, maxAuth+2)
	defer clear(text)
	if errors.Is(err, fs.ErrPermission) {
		log.Debug("the owner's authorisation is not for this process to read", "file", path)
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("owner_auth_file: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("owner_auth_file %s is open to others (mode %04o): chmod 600 it", path, mode)
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; owner != 0 && owner != uint32(os.Geteuid()) {
		return nil, fmt.Errorf("owner_auth_file %s belongs to user %d: chown it to root or to whoever uses it", path, owner)
	}
	auth := bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
	if len(auth) > maxAuth {
		return nil, fmt.Errorf("owner_auth_file %s: longer than %d bytes", path, maxAuth)
	}
	return secret.From(auth), nil
}

// readFile reads a regular file of at most limit bytes.
func readFile(path string, limit int) ([]byte, fs.FileInfo, error) {
	// Without O_NONBLOCK a named pipe would make the host wait.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s is not a regular file", path)
	}
	// One buffer of the whole size: a secret leaves no copies in outgrown ones.
	text := make([]byte, limit+1)
	n, err := io.ReadFull(f, text)
	switch {
	case err == nil:
		clear(text)
		return nil, nil, fmt.Errorf("%s is longer than %d bytes", path, limit)
	case err != io.EOF && err != io.ErrUnexpectedEOF:
		clear(text)
		return nil, nil, err
	}
	return text[:n], info, nil
}
