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

// settle is how old a change is that every later one can be told from.
const settle = time.Second

// NewFolders are files or folders (of which each *.json, *.toml and *.pcrsig counts). What is not there is passed over.
// broken is told of files that cannot be read; it may be nil.
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
	var names []string
	files := make(map[string]file)
	for _, name := range f.list() {
		if _, twice := files[name]; twice {
			continue
		}
		now, err := f.read(name)
		if err != nil {
			continue
		}
		files[name] = now
		names = append(names, name)
	}
	f.files = files
	slices.SortStableFunc(names, func(a, b string) int {
		return cmp.Or(files[b].modified.Compare(files[a].modified), strings.Compare(b, a))
	})
	var all []policy.Approved
	for _, name := range names {
		all = append(all, files[name].approved...)
	}
	return all, nil
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

// list are the files that there are.
func (f *Folders) list() []string {
	var names []string
	for _, path := range f.paths {
		entries, err := os.ReadDir(path)
		if err != nil {
			names = append(names, path) // a file, or nothing
			continue
		}
		for _, e := range entries {
			switch filepath.Ext(e.Name()) {
			case ".json", ".toml", ".pcrsig":
				names = append(names, filepath.Join(path, e.Name()))
			}
		}
	}
	return names
}

// read reads a file, unless it is as it was.
func (f *Folders) read(name string) (file, error) {
	info, err := os.Stat(name)
	if err != nil || !info.Mode().IsRegular() {
		return file{}, cmp.Or(err, fs.ErrInvalid)
	}
	have, known := f.files[name]
	if known && !have.fresh && have.modified.Equal(info.ModTime()) && have.size == info.Size() {
		return have, nil
	}
	now := file{modified: info.ModTime(), size: info.Size(), fresh: time.Since(info.ModTime()) < settle}
	text, err := trusted.Read(name, trusted.MaxText, trusted.Rules{})
	if err == nil {
		now.approved, err = ParseApproved(name, text)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		now.err = fmt.Errorf("approved policies: %w", err)
		if !(known && have.modified.Equal(now.modified)) {
			f.broken(now.err)
		}
	}
	return now, nil
}
