package policyfile

import (
	"cmp"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// listing are the regular files of a path.
type listing struct {
	folder stamp    // of the path, if it is one
	names  []string // of its files
	whole  bool     // these are all
	files  []found
}

// found is a file that there is.
type found struct {
	name  string
	stamp stamp
}

// stamp tells states of a file or a folder apart. The zero stamp is that of nothing.
type stamp struct {
	dev, ino          uint64
	size              int64
	modified, changed int64 // in nanoseconds; what is written, renamed or given another time has changed
	settled           bool  // changed so long ago when it was looked at that each later change has another time
}

// settle is how old a change is that every later one can be told from.
const settle = time.Second

// same tells whether what was in state s when it was read is so now.
func (s stamp) same(now stamp) bool { return s.settled && s == now }

func newestFirst(a, b found) int {
	return cmp.Or(cmp.Compare(b.stamp.modified, a.stamp.modified), strings.Compare(b.name, a.name))
}

// look gives the stamp of what is at a path.
func look(path string) (s stamp, mode uint32) {
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	for err == unix.EINTR {
		err = unix.Stat(path, &st)
	}
	if err != nil {
		return stamp{}, 0
	}
	changed := time.Unix(st.Ctim.Unix())
	return stamp{uint64(st.Dev), st.Ino, st.Size, st.Mtim.Nano(), changed.UnixNano(), time.Since(changed) > settle}, st.Mode & unix.S_IFMT
}

// list looks at a path. The names in a folder that is as it was are known.
func list(path string, was listing) (now listing) {
	s, kind := look(path)
	if kind == unix.S_IFREG {
		return listing{whole: true, files: []found{{path, s}}}
	}
	now.whole = true
	if kind != unix.S_IFDIR {
		return now
	}
	if now.folder = s; was.folder.same(s) {
		now.names, now.whole = was.names, was.whole
	} else {
		now.readNames(path)
	}
	for _, name := range now.names {
		if s, kind := look(name); kind == unix.S_IFREG {
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
		l.folder.settled = false // these may not be all the names
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
	return l.whole == was.whole && slices.EqualFunc(was.files, l.files, func(a, b found) bool { return a.name == b.name && a.stamp.same(b.stamp) })
}
