package secret

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// cellSizes are the sizes of the cells into which locked pages are cut, the
// last that of the longest secret that anything keeps. A larger one has a
// mapping of its own.
var cellSizes = []int{64, 128, 256, 512, 1 << 10, 2 << 10, 4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10}

// allocator hands out cells of locked pages, as many as there are secrets
// alive at once. They stay mapped when they are free: each hole that an
// unmapped one would leave splits a mapping, and a process has 65530 of them.
// They stay locked too until the system locks no more: unlocking splits a
// mapping as well, but then no more often than the limit has pages.
type allocator struct {
	mu       sync.Mutex
	free     map[int][][]byte // by size of cell
	strained bool             // the system refused to lock: since then a free cell may be unlocked, and is locked when it is taken
	unlocked atomic.Bool      // some memory could not be locked
}

// locked is where all secrets live.
var locked = &allocator{free: map[int][][]byte{}}

// Locked tells whether all memory for secrets so far could be locked. It is
// false after the system refused it (RLIMIT_MEMLOCK, "ulimit -l", is too low):
// secrets may be written to swap then. Before the first secret it tries.
func Locked() bool {
	New(1).Wipe()
	return !locked.unlocked.Load()
}

// take gives n zero bytes, in a cell at least as large.
func (a *allocator) take(n int) []byte {
	size, shared := cellSize(n)
	a.mu.Lock()
	defer a.mu.Unlock()
	if !shared {
		return a.pages(n)
	}
	if len(a.free[size]) == 0 {
		for cell := range slices.Chunk(a.pages(max(size, os.Getpagesize())), size) {
			a.free[size] = append(a.free[size], cell)
		}
	}
	last := len(a.free[size]) - 1
	cell := a.free[size][last]
	a.free[size] = a.free[size][:last]
	if a.strained {
		a.lock(cell)
	}
	return cell
}

// give wipes a cell and takes it back.
func (a *allocator) give(cell []byte) {
	clear(cell)
	size, shared := cellSize(len(cell))
	if !shared {
		if err := unix.Munmap(cell); err != nil {
			panic(fmt.Sprintf("secret: returning memory: %v", err))
		}
		return
	}
	if size >= os.Getpagesize() {
		// Best effort, since Linux 5.18: the memory itself is the system's again.
		_ = unix.Madvise(cell, unix.MADV_DONTNEED_LOCKED)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.strained {
		unlock(cell)
	}
	a.free[size] = append(a.free[size], cell)
}

// cellSize is the smallest cell for n bytes; false when n needs pages of its own.
func cellSize(n int) (size int, shared bool) {
	for _, s := range cellSizes {
		if n <= s {
			return s, true
		}
	}
	return 0, false
}

// pages maps whole pages for n bytes, and locks them.
func (a *allocator) pages(n int) []byte {
	page := os.Getpagesize()
	b, err := unix.Mmap(-1, 0, (n+page-1)/page*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		panic(fmt.Sprintf("secret: no memory: %v", err))
	}
	// Kernels before 4.14 have no MADV_WIPEONFORK; a secret there is as
	// inheritable as all other memory.
	_ = unix.Madvise(b, unix.MADV_DONTDUMP)
	_ = unix.Madvise(b, unix.MADV_WIPEONFORK)
	// Last, since it gives the pages their memory: before, they become one
	// mapping with neighbours of the same kind.
	a.lock(b)
	return b
}

// lock keeps memory from swap where the system allows it. What free cells have
// of its limit goes to those in use, the first time that it is reached and from
// then on.
func (a *allocator) lock(b []byte) {
	err := unix.Mlock(b)
	if err != nil && !a.strained {
		a.strained = true
		for _, cells := range a.free {
			for _, cell := range cells {
				unlock(cell)
			}
		}
		err = unix.Mlock(b)
	}
	if err != nil {
		a.unlocked.Store(true)
	}
}

// unlock gives back what a free cell has of the limit, if no other cell lies in its page.
func unlock(cell []byte) {
	if len(cell) >= os.Getpagesize() {
		_ = unix.Munlock(cell)
	}
}
