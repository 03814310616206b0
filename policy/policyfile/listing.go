package policyfile

import (
	"cmp"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tpm2-p11/tpm2-p11/internal/stamp"
)

// listing are the regular files of a path.
type listing struct {
	folder stamp.Stamp // of the path, if it is one
	names  []string    // of its files
	whole  bool        // these are all
	files  []found
}

// found is a file that there is.
type found struct {
	name  string
	stamp stamp.Stamp
}

func newestFirst(a, b found) int {
	return cmp.Or(cmp.Compare(b.stamp.Modified, a.stamp.Modified), strings.Compare(b.name, a.name))
}

// list looks at a path. The names in a folder that is as it was are known.
func list(path string, was listing) (now listing) {
	s, kind := stamp.At(path)
	if kind == unix.S_IFREG {
		return listing{whole: true, files: []found{{path, s}}}
	}
	now.whole = true
	if kind != unix.S_IFDIR {
		return now
	}
	if now.folder = s; was.folder.Same(s) {
		now.names, now.whole = was.names, was.whole
	} else {
		now.readNames(path)
	}
	for _, name := range now.names {
		if s, kind := stamp.At(name); kind == unix.S_IFREG {
			now.files = append(now.files, found{name, s})
		}
	}
	return now
}

// readNames reads which files a folder has that may have approved policies, or as many as can be read.
func (l *listing) readNames(path string) {
	var entries []fs.DirEntry
	folder, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		defer folder.Close()
		entries, err = folder.ReadDir(maxEntries + 1)
	}
	if err != nil && err != io.EOF {
		l.folder = l.folder.Unsettled() // these may not be all the names
	}
	for _, e := range entries {
		switch filepath.Ext(e.Name()) {
		case ".json", ".toml", ".pcrsig":
			l.names = append(l.names, filepath.Join(path, e.Name()))
		}
	}
	l.whole = len(entries) <= maxEntries
}

// same tells whether nothing changed since another listing.
func (l listing) same(was listing) bool {
	return l.whole == was.whole && slices.EqualFunc(was.files, l.files, func(a, b found) bool { return a.name == b.name && a.stamp.Same(b.stamp) })
}
