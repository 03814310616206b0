package trusted

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Replace puts a file in place as a whole, on the disk and with exactly this mode, or leaves what was there. After an error
// of the last step, the sync of the folder, the new content may be there.
func Replace(path string, content []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".tpm2-p11-*")
	var atTemp *fs.PathError
	if errors.As(err, &atTemp) {
		return &fs.PathError{Op: "create", Path: path, Err: atTemp.Err}
	}
	if err != nil {
		return err
	}
	return Settle(f, path, content, mode)
}

// Settle is Replace with a new file of the caller's in the same folder, which becomes the one in place. If somebody removed it
// meanwhile the error is fs.ErrNotExist, and nothing changes. It closes f.
func Settle(f *os.File, path string, content []byte, mode fs.FileMode) (err error) {
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil // a folder that may be written to and not read cannot be synced
	}
	defer folder.Close()
	return folder.Sync()
}
