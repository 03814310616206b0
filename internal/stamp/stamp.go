// Package stamp tells versions of files and folders apart by what the file system says of them, without reading them.
package stamp

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// Settle is how old a last change must be for its stamp to tell it from every later one: file systems stamp with a clock that ticks
// every few milliseconds, some with one of a second (ext4 with small inodes) or two (FAT), and they reuse inodes. Only tests set it,
// before they look at a file.
var Settle = 2*time.Second + 100*time.Millisecond

// Stamp tells versions of a file or a folder apart. The zero Stamp is that of nothing.
type Stamp struct {
	Size     int64 // in bytes
	Modified int64 // in nanoseconds since 1970

	seen     bool
	dev, ino uint64
	changed  int64 // what is written, renamed or given another time has changed
	settled  bool  // at the time of looking, the last change was old enough
}

// Of is the stamp of what was just looked at.
func Of(st *unix.Stat_t) Stamp {
	changed := time.Unix(st.Ctim.Unix())
	return Stamp{
		Size: st.Size, Modified: st.Mtim.Nano(),
		seen: true, dev: uint64(st.Dev), ino: st.Ino, changed: changed.UnixNano(), settled: time.Since(changed) > Settle,
	}
}

// At is the stamp of what is at a path, and its kind (unix.S_IFREG, …); both are zero where nothing is to be seen.
func At(path string) (Stamp, uint32) {
	var st unix.Stat_t
	if Uninterrupted(func() error { return unix.Stat(path, &st) }) != nil {
		return Stamp{}, 0
	}
	return Of(&st), st.Mode & unix.S_IFMT
}

// Exists tells whether there was something.
func (s Stamp) Exists() bool { return s.seen }

// Same tells whether what was read when it had stamp s is unchanged now that it has stamp now. It is not for as long as a later
// change could have left the same stamp.
func (s Stamp) Same(now Stamp) bool {
	if !s.Exists() || !now.Exists() {
		return s.Exists() == now.Exists()
	}
	return s.settled && s.Unsettled() == now.Unsettled()
}

// Unsettled is the stamp of a version that is to be read again, changed or not.
func (s Stamp) Unsettled() Stamp {
	s.settled = false
	return s
}

// Uninterrupted makes a system call until no signal interrupts it.
func Uninterrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
