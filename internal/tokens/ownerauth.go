package tokens

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/internal/trusted"
)

// maxAuth is the longest authValue that a TPM takes, in bytes: the size of its largest hash.
const maxAuth = 64

// readHierarchyAuth reads the authValue of a hierarchy, "owner" or "endorsement"; a newline at the file's end is not part of it. It is
// nil for a file that this process may not read.
func readHierarchyAuth(hierarchy, path string, log *slog.Logger) (*secret.Bytes, error) {
	text, err := trusted.Read(path, trusted.MaxSecret, trusted.Rules{Closed: trusted.Private, Owned: true})
	if errors.Is(err, fs.ErrPermission) {
		log.Debug("the "+hierarchy+" hierarchy's authorisation is not for this process to read", "file", path)
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s_auth_file: %w", hierarchy, err)
	}
	defer clear(text)
	auth := trusted.TrimLineEnd(text)
	if len(auth) > maxAuth {
		return nil, fmt.Errorf("%s_auth_file %s: %w: more than %d bytes", hierarchy, path, trusted.ErrSize, maxAuth)
	}
	return secret.From(auth), nil
}
