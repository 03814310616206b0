package provider_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"reflect"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/sys/unix"

	"github.com/tpm2-p11/tpm2-p11/internal/faulttpm"
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// What travels encrypted is not left on the heap, where a wrapped key stays loaded and the command may be sent a second time either.
func TestWhatTravelsEncryptedIsNotLeftOnTheHeap(t *testing.T) {
	b := newStore(t)
	key := b.key(t, signKey, "")
	// The test itself knows the secret by its complement alone.
	value := onlyOnHeap(32)
	rand.Read(value)
	complement := make([]byte, len(value))
	for i := range value {
		value[i] |= 1 // neither trailing zeros nor what empty memory has
		complement[i] = ^value[i]
	}
	if !onHeap(t, complement) {
		t.Fatal("a value on the heap was not found")
	}
	s := secret.From(value)
	defer s.Wipe()
	if err := b.trySign(t.Context(), key, provider.Auth{}); err != nil { // and the key stays loaded
		t.Fatal(err)
	}
	b.wire.Inject(faulttpm.Once(tpm2.TPMCCCreate).Do(faulttpm.Answer(0x902)))
	if _, err := b.CreateKey(t.Context(), signKey, s); err != nil {
		t.Fatal(err)
	}
	if n := b.wire.Count(ccFlush); n == 0 {
		t.Error("nothing made room")
	}
	if onHeap(t, complement) {
		t.Error("the new key's authValue is still on the heap")
	}
}

// onlyOnHeap gives memory that is not on the test's stack, of which there are copies when it grew.
//
//go:noinline
func onlyOnHeap(n int) []byte { return make([]byte, n) }

// onHeap looks for a value on this process's heap, whether in use or not.
func onHeap(t *testing.T, complement []byte) bool {
	t.Helper()
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	defer maps.Close()
	memory, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	window, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON) // which does not make the heap larger
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(window)
	here := uint64(reflect.ValueOf(complement).Pointer())
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var from, to uint64
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x", &from, &to); err != nil {
			t.Fatal(err)
		}
		if here < from || here >= to {
			continue
		}
		for at := from; at < to; at += uint64(len(window) - len(complement) + 1) {
			part := window[:min(uint64(len(window)), to-at)]
			if _, err := memory.ReadAt(part, int64(at)); err != nil {
				t.Fatal(err)
			}
			if holds(part, complement) {
				return true
			}
		}
		return false
	}
	t.Fatal("there is no heap")
	return false
}

// holds tells whether a value of which the complement is given is somewhere in memory.
func holds(memory, complement []byte) bool {
	for rest := memory; ; rest = rest[1:] {
		i := bytes.IndexByte(rest, ^complement[0])
		if i < 0 || len(rest)-i < len(complement) {
			return false
		}
		rest = rest[i:]
		n := 0
		for n < len(complement) && rest[n] == ^complement[n] {
			n++
		}
		if n == len(complement) {
			return true
		}
	}
}
