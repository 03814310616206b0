package secret

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// vmFlags are the flags that the kernel shows for the mapping a slice lies in.
func vmFlags(t *testing.T, b []byte) []string {
	t.Helper()
	var address uint64
	if _, err := fmt.Sscanf(fmt.Sprintf("%p", b), "0x%x", &address); err != nil {
		t.Fatal(err)
	}
	for range 100 { // it is passed over when it becomes one with its neighbour while the list is read
		if flags := flagsAt(t, address); flags != nil {
			return flags
		}
	}
	t.Fatalf("no mapping at %#x", address)
	return nil
}

// flagsAt reads the flags of an address's mapping; nil where the list has none.
func flagsAt(t *testing.T, address uint64) []string {
	t.Helper()
	var from, to uint64
	maps, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer maps.Close()
	inside := false
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x ", &from, &to); n == 2 {
			inside = from <= address && address < to
		}
		if flags, ok := strings.CutPrefix(lines.Text(), "VmFlags:"); ok && inside {
			return strings.Fields(flags)
		}
	}
	return nil
}

func TestSecretsAreLockedAndKeptOutOfDumpsAndChildren(t *testing.T) {
	t.Parallel()
	for _, n := range []int{16, 500, 5000} {
		s := New(n)
		flags := vmFlags(t, s.Bytes())
		for flag, meaning := range map[string]string{"lo": "locked", "dd": "kept out of core dumps", "wf": "wiped in a forked child"} {
			if !slices.Contains(flags, flag) {
				t.Errorf("a secret of %d bytes is not %s: %v", n, meaning, flags)
			}
		}
		s.Wipe()
	}
	if !Locked() {
		t.Error("Locked says that secrets are not locked")
	}
}

func TestSmallSecretsSharePages(t *testing.T) {
	t.Parallel()
	a := &allocator{free: map[int][][]byte{}}
	first, pages := a.take(32), map[string]bool{}
	page := uint64(os.Getpagesize())
	for range 50 {
		cell := a.take(32)
		if &cell[0] == &first[0] {
			t.Fatal("a cell was given out twice")
		}
		var address uint64
		if _, err := fmt.Sscanf(fmt.Sprintf("%p", cell), "0x%x", &address); err != nil {
			t.Fatal(err)
		}
		pages[fmt.Sprint(address/page)] = true
	}
	if len(pages) > 2 {
		t.Errorf("50 secrets of 32 bytes lie in %d pages", len(pages))
	}
}

// However secrets of all sizes come and go, they take few of the mappings that a process may have: whoever has a service keep and forget
// them would bring it to an end, for nothing else gets any memory then. Not parallel: those of all secrets are counted.
func TestSecretsThatGoLeaveNoHoles(t *testing.T) {
	mappings := func() (n int) {
		maps, err := os.ReadFile("/proc/self/smaps")
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(maps) {
			if bytes.HasPrefix(line, []byte("VmFlags:")) && bytes.Contains(line, []byte(" wf")) { // not a thread's, nor the heap's
				n++
			}
		}
		return n
	}
	before := mappings()
	var kept, gone []*Bytes
	for i := range 100 {
		for _, n := range []int{600, 5000, 1 << 16} {
			s := New(n)
			s.Bytes()[n-1] = 1
			if i%2 == 0 {
				gone = append(gone, s)
			} else {
				kept = append(kept, s)
			}
		}
	}
	for _, s := range gone {
		s.Wipe()
	}
	if n := mappings(); n == 0 || n-before > 30 {
		t.Errorf("%d secrets that were kept and %d that were forgotten make %d mappings of %d", len(kept), len(gone), n, before)
	}
	for range 100 {
		s := New(5000)
		if !bytes.Equal(s.Bytes(), make([]byte, 5000)) {
			t.Error("a new secret is not empty")
		}
		s.Wipe()
	}
	for _, s := range kept {
		s.Wipe()
	}
}

// Not parallel: the limit is the whole process's.
func TestSecretsAreKeptWhereTheSystemRefusesToLock(t *testing.T) {
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: 0, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &old); err != nil {
			t.Error(err)
		}
	}()
	defer withoutCapabilities(t)()

	a := &allocator{free: map[int][][]byte{}}
	cell := a.take(32)
	copy(cell, "1234")
	if !bytes.HasPrefix(cell, []byte("1234")) {
		t.Error("the secret is lost")
	}
	if slices.Contains(vmFlags(t, cell), "lo") {
		t.Fatal("the system locked it all the same: the test proves nothing")
	}
	if !a.unlocked.Load() {
		t.Error("Locked would not tell")
	}
	a.give(cell)
}

// What secrets had of the limit while they lived is there for others when they are gone; and a secret that comes while nothing more can be
// locked does not make those that come later unlocked. Not parallel: the limit is the whole process's.
func TestSecretsThatGoLeaveTheLimitToOthers(t *testing.T) {
	const large = 64 << 10
	defer withoutCapabilities(t)()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &old); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &old); err != nil {
			t.Error(err)
		}
	}()
	limited := func(more uint64) {
		t.Helper()
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Fatal(err)
		}
		_, after, _ := strings.Cut(string(status), "VmLck:")
		var kilobytes uint64
		if _, err := fmt.Sscanf(after, "%d kB", &kilobytes); err != nil {
			t.Fatal(err)
		}
		if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: kilobytes<<10 + more, Max: old.Max}); err != nil {
			t.Fatal(err)
		}
	}
	limited(large)

	a := &allocator{free: map[int][][]byte{}}
	isLocked := func(cell []byte) bool {
		t.Helper()
		return slices.Contains(vmFlags(t, cell), "lo")
	}
	a.give(a.take(large))
	pin := a.take(16)
	if !isLocked(pin) || a.unlocked.Load() {
		t.Error("a secret that is gone keeps a PIN from being locked")
	}
	object := a.take(large)
	if isLocked(object) || !a.unlocked.Load() {
		t.Fatal("the system locked it all the same: the test proves nothing")
	}
	a.give(object)
	limited(large)
	if object = a.take(large); !isLocked(object) {
		t.Error("memory that could not be locked once is never locked again")
	}
	a.give(object)
	for _, n := range []int{5000, large} {
		cell := a.take(n)
		if !isLocked(cell) {
			t.Errorf("a secret of %d bytes is not locked after one that is gone", n)
		}
		a.give(cell)
	}
}

// withoutCapabilities takes root's effective capabilities from this goroutine's
// thread, until the function it returns is called.
func withoutCapabilities(t *testing.T) (restore func()) {
	t.Helper()
	runtime.LockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var old [2]unix.CapUserData
	if err := unix.Capget(&header, &old[0]); err != nil {
		t.Fatal(err)
	}
	none := old
	none[0].Effective, none[1].Effective = 0, 0
	if err := unix.Capset(&header, &none[0]); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := unix.Capset(&header, &old[0]); err != nil {
			t.Error(err)
		}
		runtime.UnlockOSThread()
	}
}
