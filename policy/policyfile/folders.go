package policyfile

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"

	"github.com/tpm2-p11/tpm2-p11/internal/stamp"
	"github.com/tpm2-p11/tpm2-p11/internal/trusted"
	"github.com/tpm2-p11/tpm2-p11/policy"
)

// Folders are files and folders of files with approved policies. They may come, go and change at any time. Who can write
// them cannot approve anything, since a signature or an NV index does that. Safe for concurrent use.
type Folders struct {
	paths  []string
	broken func(error) // told of each file that cannot be read, once for each state of it

	mu    sync.Mutex
	seen  []listing         // of the paths, when they were looked at last
	again bool              // a file could not be read then
	files map[string]file   // what was read,
	all   []policy.Approved // and what counts of it
}

// file is what was read from one, and in which state it was.
type file struct {
	stamp    stamp.Stamp
	approved []policy.Approved
	err      error // why it has none
}

// What a folder may have, counted from its newest file on: whoever writes into it must not make each use of a key wait. What is
// beyond is passed over.
const (
	maxEntries  = 4096        // that are looked at, policy files or not, in the system's order
	maxFiles    = 256         // that are read
	maxText     = 256 << 10   // bytes of them together
	maxInFolder = MaxApproved // approved policies in them together
)

// NewFolders are files or folders (of which each *.json, *.toml and *.pcrsig counts, from the newest on until they are 256, have
// 256 KiB or hold MaxApproved approved policies). What is not there is passed over. broken is told of files that cannot be read, and
// of folders that hold too much; it may be nil.
func NewFolders(broken func(error), paths ...string) *Folders {
	if broken == nil {
		broken = func(error) {}
	}
	return &Folders{paths: paths, broken: broken, files: make(map[string]file)}
}

// Approved are the policies of all files, the newest file's first. A file that is broken does not keep the others away. While nothing
// changes it is the same list, which nobody changes.
func (f *Folders) Approved() ([]policy.Approved, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.look() {
		return f.all, nil
	}
	f.again = false
	files := make(map[string]file)
	var counted []found
	for i, path := range f.paths {
		counted = append(counted, f.readPath(path, f.seen[i], files)...)
	}
	f.files = files
	slices.SortStableFunc(counted, newestFirst)
	f.all = nil
	for _, one := range counted {
		f.all = append(f.all, files[one.name].approved...)
	}
	return f.all, nil
}

// look tells whether all is as it was seen, and sees it.
func (f *Folders) look() (same bool) {
	same = f.seen != nil && !f.again
	if f.seen == nil {
		f.seen = make([]listing, len(f.paths))
	}
	for i, path := range f.paths {
		now := list(path, f.seen[i])
		same = same && now.same(f.seen[i])
		f.seen[i] = now
	}
	return same
}

// readPath reads the files of a path into files, and gives those that count.
func (f *Folders) readPath(path string, there listing, files map[string]file) (counted []found) {
	whole := there.whole
	all := slices.SortedStableFunc(slices.Values(there.files), newestFirst)
	text, approved := 0, 0
	for _, one := range all {
		if _, twice := files[one.name]; twice {
			continue
		}
		if one.stamp.Size <= MaxSize { // a longer one is refused unread
			text += int(one.stamp.Size)
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

// read reads a file, unless it is as it was.
func (f *Folders) read(one found) file {
	have, known := f.files[one.name]
	if known && have.stamp.Same(one.stamp) {
		return have
	}
	now := file{stamp: one.stamp}
	text, err := trusted.Read(one.name, MaxSize, trusted.Rules{})
	if err == nil {
		now.approved, err = ParseApproved(one.name, text)
	} else {
		now.stamp, f.again = now.stamp.Unsettled(), true // as it may be only now that it cannot be read
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		now.err = fmt.Errorf("approved policies: %w", err)
		if !(known && have.stamp.Modified == now.stamp.Modified) {
			f.broken(now.err)
		}
	}
	return now
}
