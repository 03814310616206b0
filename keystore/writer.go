package keystore

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tpm2-p11/tpm2-p11/internal/stamp"
)

const (
	lockFile   = ".lock"
	tempPrefix = ".tmp-"
	// lockPatience is how long a writer waits for another one, which may be waiting for the TPM meanwhile.
	lockPatience = 2 * time.Minute
)

// writer is the one writer of a folder: it holds the lock until it is closed.
type writer struct {
	*dir
	lock int
}

// write waits for the folder's lock and sweeps away what a writer that died left half written. Errors are ErrReadOnly
// when the folder cannot be written, ErrLocked when the wait was too long.
func (f folder) write(ctx context.Context) (*writer, error) {
	d, err := f.open()
	if err != nil {
		return nil, err
	}
	w := &writer{dir: d, lock: -1}
	err = stamp.Uninterrupted(func() (err error) {
		w.lock, err = unix.Openat(d.fd, lockFile, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		d.close()
		return nil, writeError("opening the store's lock", &fs.PathError{Op: "open", Path: filepath.Join(d.path, lockFile), Err: err})
	}
	if err := w.acquire(ctx); err != nil {
		unix.Close(w.lock)
		d.close()
		return nil, err
	}
	if err := w.sweep(); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// acquire asks again and again instead of waiting in the kernel, so that the context counts.
func (w *writer) acquire(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		err := stamp.Uninterrupted(func() error { return unix.Flock(w.lock, unix.LOCK_EX|unix.LOCK_NB) })
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("locking %s: %w", w.path, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (%s): %w", ErrLocked, w.path, ctx.Err())
		case <-time.After(pause):
		}
	}
}

// close gives the lock back. It unlocks before it closes: a child that the process forked meanwhile has the file open too.
func (w *writer) close() {
	_ = stamp.Uninterrupted(func() error { return unix.Flock(w.lock, unix.LOCK_UN) })
	unix.Close(w.lock)
	w.dir.close()
}

func (w *writer) sweep() error {
	names, err := w.names()
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasPrefix(name, tempPrefix) {
			if err := w.unlink(name); err != nil {
				return writeError("removing a left-over file", err)
			}
		}
	}
	return nil
}

// replace puts a file in place, whole and on the disk, or leaves what was there. After an error of the last step, the sync
// of the folder, the new content may be there. What is too long to be read again is ErrInvalid.
func (w *writer) replace(name string, content []byte) error {
	if len(content) > maxFile {
		return fmt.Errorf("%w: %s would have %d bytes, and a store's file has %d at most: a shorter policy, or fewer certificates, fit", ErrInvalid, name, len(content), maxFile)
	}
	if err := w.put(name, content); err != nil {
		return writeError("writing "+filepath.Join(w.path, name), err)
	}
	return nil
}

func (w *writer) put(name string, content []byte) error {
	temp := tempPrefix + randomHex(8)
	var fd int
	err := stamp.Uninterrupted(func() (err error) {
		fd, err = unix.Openat(w.fd, temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	err = fill(fd, content)
	if closeErr := unix.Close(fd); err == nil && !errors.Is(closeErr, unix.EINTR) {
		err = closeErr
	}
	if err == nil {
		err = stamp.Uninterrupted(func() error { return unix.Renameat(w.fd, temp, w.fd, name) })
	}
	if err != nil {
		_ = w.unlink(temp)
		return err
	}
	return w.sync()
}

func fill(fd int, content []byte) error {
	for len(content) > 0 {
		var n int
		err := stamp.Uninterrupted(func() (err error) {
			n, err = unix.Write(fd, content)
			return err
		})
		if err != nil {
			return err
		}
		content = content[n:]
	}
	return stamp.Uninterrupted(func() error { return unix.Fsync(fd) })
}

// remove takes files away, in their order; one that is not there is no error.
func (w *writer) remove(names ...string) error {
	for _, name := range names {
		if err := w.unlink(name); err != nil {
			return writeError("removing "+filepath.Join(w.path, name), err)
		}
		// Each step on the disk before the next, so that a crash leaves a state that Recover knows.
		if err := w.sync(); err != nil {
			return writeError("removing "+filepath.Join(w.path, name), err)
		}
	}
	return nil
}

func (w *writer) unlink(name string) error {
	err := stamp.Uninterrupted(func() error { return unix.Unlinkat(w.fd, name, 0) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (w *writer) sync() error {
	return stamp.Uninterrupted(func() error { return unix.Fsync(w.fd) })
}

// writeError adds ErrReadOnly where that is what the system's error means.
func writeError(doing string, err error) error {
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
		return fmt.Errorf("%w: %s: %w", ErrReadOnly, doing, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

func randomHex(bytes int) string {
	b := make([]byte, bytes)
	rand.Read(b)
	return hex.EncodeToString(b)
}
