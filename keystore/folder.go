package keystore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tpm2-p11/tpm2-p11/internal/stamp"
)

// maxFile is the longest file of a store that is read, in bytes.
const maxFile = 256 << 10

// folder is a store's folder, by its path: it may come and go.
type folder string

// dir is a folder that is open for reading.
type dir struct {
	fd    int
	path  string
	stamp stamp.Stamp // of the folder when it was opened
}

// looksLast is for how long files that did not change count as unchanged while their folder does not change: to replace a file, as this
// package does, changes the folder, to write into one does not.
const looksLast = time.Second

// watch remembers that files were looked at. The zero watch remembers nothing. Safe for concurrent use.
type watch struct {
	mu     sync.Mutex
	folder stamp.Stamp
	looked time.Time
}

// sure tells whether the files need not be looked at again yet, their folder being so now.
func (w *watch) sure(now stamp.Stamp) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.folder.Exists() && time.Since(w.looked) <= looksLast && w.folder.Same(now)
}

// note takes down that the files are as they were, and their folder so.
func (w *watch) note(folder stamp.Stamp) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.folder, w.looked = folder, time.Now()
}

// now is the folder's stamp, the zero one where there is none to be seen.
func (f folder) now() stamp.Stamp {
	now, _ := stamp.At(string(f))
	return now
}

// open opens the folder and refuses one that somebody other than root and this user can change. fs.ErrNotExist when there
// is none.
func (f folder) open() (*dir, error) {
	var fd int
	err := stamp.Uninterrupted(func() (err error) {
		fd, err = unix.Open(string(f), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open store", Path: string(f), Err: err}
	}
	d := &dir{fd: fd, path: string(f)}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		d.close()
		return nil, &fs.PathError{Op: "stat store", Path: string(f), Err: err}
	}
	if err := checkOwn(&st, string(f), ""); err != nil {
		d.close()
		return nil, err
	}
	d.stamp = stamp.Of(&st)
	return d, nil
}

// checkOwn refuses what somebody other than root and this user can change: a folder, or a file of it.
func checkOwn(st *unix.Stat_t, folder, name string) error {
	if (st.Uid == 0 || int(st.Uid) == os.Geteuid()) && st.Mode&0o022 == 0 {
		return nil
	}
	path := filepath.Join(folder, name)
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%w: %s belongs to user %d: let root or user %d own it", ErrUnsafe, path, st.Uid, os.Geteuid())
	}
	return fmt.Errorf("%w: %s has mode %04o: chmod go-w %s", ErrUnsafe, path, st.Mode&0o7777, path)
}

// create makes the folder, for its owner alone, if it is not there.
func (f folder) create() error {
	if err := makeFolder(string(f)); err != nil {
		return writeError("making the store's folder", err)
	}
	return nil
}

// makeFolder makes a folder and those above it, each on the disk before anything is put into it.
func makeFolder(path string) error {
	err := os.Mkdir(path, 0o700)
	parent := filepath.Dir(path)
	if errors.Is(err, fs.ErrNotExist) && parent != path {
		if err := makeFolder(parent); err != nil {
			return err
		}
		err = os.Mkdir(path, 0o700)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	d, err := os.Open(parent)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// writable tells whether this process may write the folder, or make it.
func (f folder) writable() error {
	path := string(f)
	for {
		err := unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK|unix.X_OK, unix.AT_EACCESS)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, fs.ErrNotExist) || path == filepath.Dir(path):
			return fmt.Errorf("%w: %w", ErrReadOnly, &fs.PathError{Op: "writing to", Path: path, Err: err})
		}
		path = filepath.Dir(path)
	}
}

func (d *dir) close() { unix.Close(d.fd) }

// lists are buffers for some thousand names, since a list that is put together from several readings can miss a file that is
// being replaced in between.
var lists = sync.Pool{New: func() any { return new([256 << 10]byte) }}

// names lists the folder.
func (d *dir) names() ([]string, error) {
	if _, err := unix.Seek(d.fd, 0, unix.SEEK_SET); err != nil {
		return nil, &fs.PathError{Op: "list store", Path: d.path, Err: err}
	}
	var names []string
	list := lists.Get().(*[256 << 10]byte)
	defer lists.Put(list)
	buffer := list[:]
	for {
		var n int
		err := stamp.Uninterrupted(func() (err error) {
			n, err = unix.ReadDirent(d.fd, buffer)
			return err
		})
		if err != nil {
			return nil, &fs.PathError{Op: "list store", Path: d.path, Err: err}
		}
		if n <= 0 {
			return names, nil
		}
		_, _, names = unix.ParseDirent(buffer[:n], -1, names)
	}
}

// stat gives a file's stamp, the zero one when there is no such file.
func (d *dir) stat(name string) stamp.Stamp {
	var st unix.Stat_t
	err := stamp.Uninterrupted(func() error { return unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	if err != nil {
		return stamp.Stamp{}
	}
	return stamp.Of(&st)
}

// read reads a file with the stamp it had then, into the buffer where it fits. fs.ErrNotExist when there is none; symbolic links, whatever
// is not a regular file, and what others can change (ErrUnsafe) are refused.
func (d *dir) read(name string, buffer []byte) ([]byte, stamp.Stamp, error) {
	fail := func(op string, err error) ([]byte, stamp.Stamp, error) {
		return nil, stamp.Stamp{}, &fs.PathError{Op: op, Path: filepath.Join(d.path, name), Err: err}
	}
	var fd int
	err := stamp.Uninterrupted(func() (err error) {
		// O_NONBLOCK: a FIFO must not keep the reader waiting.
		fd, err = unix.Openat(d.fd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		return err
	})
	if errors.Is(err, unix.ELOOP) {
		return fail("open", fmt.Errorf("%w: it is a symbolic link", ErrCorrupt))
	}
	if err != nil {
		return fail("open", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fail("stat", err)
	}
	seen := stamp.Of(&st)
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fail("open", fmt.Errorf("%w: it is not a regular file", ErrCorrupt))
	}
	if err := checkOwn(&st, d.path, name); err != nil {
		return nil, stamp.Stamp{}, err
	}
	if st.Size > maxFile {
		return fail("read", fmt.Errorf("%w: it has %d bytes", ErrCorrupt, st.Size))
	}
	most := int(st.Size) + 1
	content := slices.Grow(buffer[:0], most)
	for len(content) < most {
		var n int
		err := stamp.Uninterrupted(func() (err error) {
			n, err = unix.Read(fd, content[len(content):most])
			return err
		})
		if err != nil {
			return fail("read", err)
		}
		content = content[:len(content)+n]
		if n == 0 || int64(len(content)) == st.Size { // there was room for more
			return content, seen, nil
		}
	}
	return fail("read", fmt.Errorf("%w: it grew while it was read", ErrCorrupt))
}
