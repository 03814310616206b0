package stamp_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tpm2-p11/tpm2-p11/internal/stamp"
)

// aged is what a file system says of a file that changed so long ago.
func aged(by time.Duration) *unix.Stat_t {
	return &unix.Stat_t{Dev: 1, Ino: 2, Size: 3, Mtim: unix.Timespec{Sec: 4}, Ctim: unix.NsecToTimespec(time.Now().Add(-by).UnixNano())}
}

// FAT stamps with two seconds: a change just after a look may leave the same stamp.
func TestAFileThatJustChangedIsReadAgain(t *testing.T) {
	t.Parallel()
	if stamp.Settle <= 2*time.Second {
		t.Errorf("stamps count after %v", stamp.Settle)
	}
	st := aged(0)
	if s := stamp.Of(st); s.Same(s) {
		t.Error("a file that changed a moment ago counts as unchanged")
	}
	st = aged(stamp.Settle + time.Second)
	seen := stamp.Of(st)
	if !seen.Same(stamp.Of(st)) {
		t.Error("a file that changed long ago counts as changed")
	}
	if seen.Unsettled().Same(seen) {
		t.Error("what is to be read again counts as unchanged")
	}
	for name, change := range map[string]func(*unix.Stat_t){
		"another device": func(st *unix.Stat_t) { st.Dev++ },
		"another inode":  func(st *unix.Stat_t) { st.Ino++ },
		"another length": func(st *unix.Stat_t) { st.Size++ },
		"another time":   func(st *unix.Stat_t) { st.Mtim.Nsec++ },
		"another change": func(st *unix.Stat_t) { st.Ctim = unix.NsecToTimespec(time.Now().UnixNano()) },
	} {
		now := *st
		change(&now)
		if seen.Same(stamp.Of(&now)) {
			t.Errorf("%s: it counts as unchanged", name)
		}
	}
}

func TestWhatComesAndGoesIsNoticed(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	before, kind := stamp.At(path)
	if again, _ := stamp.At(path); before.Exists() || kind != 0 || !before.Same(again) {
		t.Errorf("something is where nothing is: %v, %o", before, kind)
	}
	if err := os.WriteFile(path, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	now, kind := stamp.At(path)
	if !now.Exists() || kind != unix.S_IFREG || now.Size != 4 || before.Same(now) || now.Same(before) {
		t.Errorf("a file that came is %v, %o", now, kind)
	}
}
