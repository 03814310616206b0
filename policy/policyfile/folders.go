package policyfile

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tpm2-p11/tpm2-p11/internal/trusted"
	"github.com/tpm2-p11/tpm2-p11/policy"
)

// Folders are files and folders of files with approved policies. They may come, go and change at any time. Who can write
// them cannot approve anything, since a signature or an NV index does that. Safe for concurrent use.
type Folders struct {
	paths  []string
	broken func(error) // told of each file that cannot be read, once for each state of it

	mu    sync.Mutex
	files map[string]file
}

// file is what was read from one, and in which state it was.
type file struct {
	modified time.Time
	size     int64
	approved []policy.Approved
	err      error // why it has none
	fresh    bool  // so young when it was read that it may have changed again without another time
}

// What a folder may have, counted from its newest file on: whoever writes into it must not make each use of a key wait. What is
// beyond is passed over.
const (
	maxEntries  = 4096        // that are looked at, policy files or not, in the system's order
	maxFiles    = 256         // that are read
	maxText     = 256 << 10   // bytes of them together
	maxInFolder = MaxApproved // approved policies in them together
)

// settle is how old a change is that every later one can be told from.
const settle = time.Second

// NewFolders are files or folders (of which each *.json, *.toml and *.pcrsig counts, from the newest on until they are 256, have
// 256 KiB or hold MaxApproved approved policies). What is not there is passed over. broken is told of files that cannot be read, and
// of folders that hold too much; it may be nil.
func NewFolders(broken func(error), paths ...string) *Folders {
	if broken == nil {
		broken = func(error) {}
	}
	return &Folders{paths: paths, broken: broken, files: make(map[string]file)}
}

// Approved are the policies of all files, the newest file's first. A file that is broken does not keep the others away.
func (f *Folders) Approved() ([]policy.Approved, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	files := make(map[string]file)
	var counted []found
	for _, path := range f.paths {
		counted = append(counted, f.readPath(path, files)...)
	}
	f.files = files
	slices.SortStableFunc(counted, newestFirst)
	var all []policy.Approved
	for _, one := range counted {
		all = append(all, files[one.name].approved...)
	}
	return all, nil
}

// readPath reads the files of a path into files, and gives those that count.
func (f *Folders) readPath(path string, files map[string]file) (counted []found) {
	all, whole := list(path)
	slices.SortStableFunc(all, newestFirst)
	text, approved := 0, 0
	for _, one := range all {
		if _, twice := files[one.name]; twice {
			continue
		}
		if size := one.info.Size(); size <= MaxSize { // a longer one is refused unread
			text += int(size)
		}
		if len(counted) == maxFiles || text > maxText {
			whole = false
			break
		}
		now := f.read(one)
		files[one.name] = now
		if approved += len(now.approved); approved > maxInFolder {
			whole = false
			break
		}
		counted = append(counted, one)
	}
	if !whole {
		files[path] = file{err: fmt.Errorf("approved policies: %s holds more than %d files, %d KiB or %d approved policies: its oldest files are passed over",
			path, maxFiles, maxText>>10, maxInFolder)}
		if f.files[path].err == nil {
			f.broken(files[path].err)
		}
	}
	return counted
}

// Problems are why files that are there now are passed over, in the order of their names.
func (f *Folders) Problems() (problems []error) {
	_, _ = f.Approved() // reads them
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(f.files)) {
		if err := f.files[name].err; err != nil {
			problems = append(problems, err)
		}
	}
	return problems
}

// found is a file that there is.
type found struct {
	name string
	info fs.FileInfo
}

func newestFirst(a, b found) int {
	return cmp.Or(b.info.ModTime().Compare(a.info.ModTime()), strings.Compare(b.name, a.name))
}

// list are the regular files of a path, and whether these are all.
func list(path string) (files []found, whole bool) {
	names, whole := []string{path}, true // a file, or nothing
	if folder, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
		defer folder.Close()
		entries, _ := folder.ReadDir(maxEntries + 1) // as many as can be read
		whole = len(entries) <= maxEntries
		names = nil
		for _, e := range entries {
			switch filepath.Ext(e.Name()) {
			case ".json", ".toml", ".pcrsig":
				names = append(names, filepath.Join(path, e.Name()))
			}
		}
	}
	for _, name := range names {
		if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() {
			files = append(files, found{name, info})
		}
	}
	return files, whole
}

// read reads a file, unless it is as it was.
func (f *Folders) read(one found) file {
	have, known := f.files[one.name]
	modified, size := one.info.ModTime(), one.info.Size()
	if known && !have.fresh && have.modified.Equal(modified) && have.size == size {
		return have
	}
	now := file{modified: modified, size: size, fresh: time.Since(modified) < settle}
	text, err := trusted.Read(one.name, MaxSize, trusted.Rules{})
	if err == nil {
		now.approved, err = ParseApproved(one.name, text)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		now.err = fmt.Errorf("approved policies: %w", err)
		if !(known && have.modified.Equal(now.modified)) {
			f.broken(now.err)
		}
	}
	return now
}
