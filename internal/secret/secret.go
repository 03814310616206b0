// Package secret holds secrets in memory that is locked, kept out of core
// dumps, and wiped.
//
// The memory lies outside Go's heap, so that the garbage collector neither
// copies nor keeps it; it is locked against swapping (mlock), left out of core
// dumps (MADV_DONTDUMP), and reads as zeros in a forked child
// (MADV_WIPEONFORK). Small secrets share locked pages, since a process may
// often lock as little as 64 KiB. Where the system refuses to lock, secrets are
// kept all the same, and Locked tells.
//
// It never prints what it holds: every formatting verb, JSON and slog show
// "***".
//
// What it cannot reach: copies that others made. A slice from which a secret
// was appended, converted to a string, or handed to a library that keeps it
// (a hash's block, a cipher's key schedule) stays in Go's heap until it is
// overwritten, and so do registers and stacks. Use the slice of Bytes in place,
// and wipe what has to be copied. Nothing protects against who may read this
// process's memory, as root and a debugger may.
package secret

import (
	"crypto/subtle"
	"runtime"
)

// Bytes is a secret of fixed length in locked memory. The zero value and nil
// are empty secrets. It is safe for concurrent reading; Wipe must not run
// while another goroutine reads. A secret that is forgotten is wiped when the
// garbage collector finds it, so keep the *Bytes alive (runtime.KeepAlive)
// while only its slice is in use. It must not be copied.
type Bytes struct {
	_       noCopy
	memory  *cell // nil when empty or wiped
	cleanup runtime.Cleanup
}

// cell is the memory of one secret. With it two pointers lie between a Bytes
// and the secret: fmt follows one in fields that it cannot call methods on.
type cell struct {
	whole *[]byte // as the allocator gave it
	n     int     // the secret's length, at the front
}

// wipe overwrites the secret and gives its memory back.
func (c *cell) wipe() { locked.give(*c.whole) }

// New returns a secret of n zero bytes. It panics when n is negative or the
// system has no memory, as make does.
func New(n int) *Bytes {
	if n < 0 {
		panic("secret: negative length")
	}
	b := &Bytes{}
	if n > 0 {
		whole := locked.take(n)
		b.memory = &cell{&whole, n}
		b.cleanup = runtime.AddCleanup(b, (*cell).wipe, b.memory)
	}
	return b
}

// From moves b into locked memory and wipes b, up to its length.
func From(b []byte) *Bytes {
	s := New(len(b))
	copy(s.Bytes(), b)
	clear(b)
	return s
}

// Bytes gives the secret itself, nil for an empty one. The slice is valid until
// Wipe, and must not be appended to.
func (b *Bytes) Bytes() []byte {
	if b == nil || b.memory == nil {
		return nil
	}
	return (*b.memory.whole)[:b.memory.n:b.memory.n]
}

// Len is the length in bytes; 0 after Wipe.
func (b *Bytes) Len() int { return len(b.Bytes()) }

// Clone returns an independent copy.
func (b *Bytes) Clone() *Bytes {
	c := New(b.Len())
	copy(c.Bytes(), b.Bytes())
	runtime.KeepAlive(b)
	return c
}

// Equal compares two secrets in a time that depends on their lengths only. All
// empty secrets are equal.
func (b *Bytes) Equal(other *Bytes) bool {
	equal := subtle.ConstantTimeCompare(b.Bytes(), other.Bytes()) == 1
	runtime.KeepAlive(b)
	runtime.KeepAlive(other)
	return equal
}

// Wipe overwrites the secret and gives its memory back. It may be called more
// than once. The secret is an empty one from then on.
func (b *Bytes) Wipe() {
	if b == nil || b.memory == nil {
		return
	}
	b.cleanup.Stop()
	b.memory.wipe()
	b.memory = nil
	runtime.KeepAlive(b)
}

// noCopy makes go vet's copylocks find copies of a secret.
type noCopy struct{}

func (*noCopy) Lock()   {}
func (*noCopy) Unlock() {}
