package p11uri

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/internal/trusted"
)

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
	pin, err := trusted.ReadSecret(u.PINSource, trusted.Rules{Closed: trusted.NotPublic})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPINFile, err)
	}
	return pin, nil
}
