package keystore

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tpm2-p11/tpm2-p11/internal/trusted"
	"github.com/tpm2-p11/tpm2-p11/policy"
)

// ApprovedFor gives the approved policies of the token's folders, newest first, and after them more that are known; each
// call looks at the folders. Nothing in the folders needs to be trusted: the signer of a key's policy, or an NV index, says
// which of them count.
func (t *Token) ApprovedFor(more []policy.Approved) func() ([]policy.Approved, error) {
	return func() ([]policy.Approved, error) {
		all, err := t.folders.Approved()
		if len(more) > 0 {
			all = slices.Concat(all, more)
		}
		return all, err
	}
}

// ApprovedProblems are why files of the token's folders of approved policies are passed over, for doctor.
func (t *Token) ApprovedProblems() []error { return t.folders.Problems() }

// DefaultPolicy is the policy of what is made without another one, zero for none.
func (t *Token) DefaultPolicy() policy.Policy { return t.policy }

// PolicyState is what the token's TPM and folders say now, for package policy.
func (t *Token) PolicyState(ctx context.Context) policy.State {
	now := t.tpm.PolicyState(ctx)
	now.File = ReadSigner
	now.Approved = t.ApprovedFor(nil)
	return now
}

// PolicyStateOf is PolicyState for a use of one key.
func (t *Token) PolicyStateOf(ctx context.Context, e Entry) policy.State {
	now := t.PolicyState(ctx)
	now.Approved = t.ApprovedFor(e.Approved)
	now.Hash = e.Object.Public.Area().NameAlg
	return now
}

// ReadSigner reads the public key of who approves policies: nobody else may be able to replace it before it is part of one.
func ReadSigner(path string) ([]byte, error) {
	return trusted.Read(path, trusted.MaxText, trusted.Rules{Closed: trusted.NotWritable, Owned: true})
}

// Approve puts a file with approved policies into the store's folder, under a name of letters, digits and ".-_" that ends in
// .json, .toml or .pcrsig. What others approved is never replaced: beside a file of that name with other content the new one has
// "-" and 16 digits of its SHA-256 in its name. The same text again is there once, and is the newest.
func (t *Token) Approve(ctx context.Context, name string, text []byte) (path string, err error) {
	if name != filepath.Base(name) || strings.HasPrefix(name, ".") || strings.ContainsFunc(name, func(r rune) bool {
		return r > 'z' || !(r >= 'a' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(".-_", r))
	}) {
		return "", fmt.Errorf("%w: the file name %q: it has letters, digits and .-_ alone", ErrInvalid, name)
	}
	w, err := t.change(ctx)
	if err != nil {
		return "", err
	}
	defer w.close()
	folder := filepath.Join(t.Dir(), ApprovedFolder)
	if err := makeFolder(folder); err != nil {
		return "", writeError("making the folder of approved policies", err)
	}
	path, free := approvedFile(folder, name, text)
	if path == "" && free == "" {
		return "", fmt.Errorf("writing the approved policy: %w: %s", ErrOtherApproval, filepath.Join(folder, name))
	}
	path = cmp.Or(path, free)
	if err := trusted.Replace(path, text, 0o644); err != nil {
		return "", writeError("writing the approved policy", err)
	}
	return path, nil
}

// Disapprove removes the file that Approve made of this name and text from the store's folder, and gives its path. A nil text is
// that of whatever has the name; one that the folder does not have is ErrOtherApproval if another file has the name. An approval
// that others kept works on: only an NV index revokes.
func (t *Token) Disapprove(ctx context.Context, name string, text []byte) (path string, err error) {
	w, err := t.change(ctx)
	if err != nil {
		return "", err
	}
	defer w.close()
	if name != filepath.Base(name) {
		return "", fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	folder := filepath.Join(t.Dir(), ApprovedFolder)
	path = filepath.Join(folder, name)
	if text != nil {
		there, free := approvedFile(folder, name, text)
		if there == "" && free != path {
			return "", fmt.Errorf("removing the approved policy: %w: %s", ErrOtherApproval, path)
		}
		path = cmp.Or(there, path)
	}
	if err := os.Remove(path); err != nil {
		return "", writeError("removing the approved policy", err)
	}
	return path, nil
}

// approvedFile is where the folder has a text that was approved by this name, or else the path that it can have; "" for neither.
func approvedFile(folder, name string, text []byte) (there, free string) {
	digest, ext := sha256.Sum256(text), filepath.Ext(name)
	for _, name := range []string{name, fmt.Sprintf("%s-%x%s", strings.TrimSuffix(name, ext), digest[:8], ext)} {
		path := filepath.Join(folder, name)
		have, err := trusted.Read(path, trusted.MaxText, trusted.Rules{})
		switch {
		case err == nil && bytes.Equal(have, text):
			return path, ""
		case errors.Is(err, fs.ErrNotExist):
			free = cmp.Or(free, path)
		}
	}
	return "", free
}
