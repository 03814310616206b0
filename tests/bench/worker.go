package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"
)

// workers are what this program is when it is one of its own rows.
var workers = map[string]func(args []string) error{"raw": rawWorker, "signer": signerWorker, "tls-server": tlsServerWorker}

// figures are what one batch gave. The C host prints the same.
type figures struct {
	Nanoseconds []int64 `json:"ns"`      // of each operation, those of a thread together
	Wall        int64   `json:"wall_ns"` // of all
	CPU         int64   `json:"cpu_ns"`  // user and system, of the whole batch
	Allocations int64   `json:"allocations,omitempty"`
	Before      int64   `json:"resident_before_kib,omitempty"` // the host's memory before the module was loaded
	Resident    int64   `json:"resident_kib,omitempty"`        // and when it was initialised
}

// batch does n operations in so many goroutines, after one that does not count, and prints the figures.
func batch(n, threads int, operate func() error) error {
	if err := operate(); err != nil {
		return err
	}
	var f figures
	var mu sync.Mutex
	var failed error
	var group sync.WaitGroup
	var before, after runtime.MemStats
	all := make([][]int64, threads)
	ready := make(chan struct{}) // all begin together
	for i := range threads {
		share := shareOf(n, threads, i)
		group.Go(func() {
			took := make([]int64, 0, share)
			<-ready
			for range share {
				start := time.Now()
				if err := operate(); err != nil {
					mu.Lock()
					failed = err
					mu.Unlock()
					return
				}
				took = append(took, time.Since(start).Nanoseconds())
			}
			all[i] = took
		})
	}
	runtime.ReadMemStats(&before)
	cpu, began := processTime(), time.Now()
	close(ready)
	group.Wait()
	f.Wall, f.CPU = time.Since(began).Nanoseconds(), processTime()-cpu
	f.Nanoseconds = slices.Concat(all...)
	runtime.ReadMemStats(&after)
	f.Allocations = int64(after.Mallocs - before.Mallocs)
	if failed != nil {
		return failed
	}
	return json.NewEncoder(os.Stdout).Encode(f)
}

// shareOf is how many of n operations the i-th thread does. The C host shares them out alike.
func shareOf(n, threads, i int) int {
	share := n / threads
	if i < n%threads {
		share++
	}
	return share
}

// unfairness is the mean time of an operation of the thread that waited longest, as a ratio to that of the one that waited least.
func (f figures) unfairness(threads int) float64 {
	var means []float64
	rest := f.Nanoseconds
	for i := range threads {
		n := min(shareOf(len(f.Nanoseconds), threads, i), len(rest))
		if n == 0 {
			return 0
		}
		sum := 0.0
		for _, ns := range rest[:n] {
			sum += float64(ns)
		}
		means, rest = append(means, sum/float64(n)), rest[n:]
	}
	return slices.Max(means) / slices.Min(means)
}

// processTime is the CPU time of this process so far.
func processTime() int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(fmt.Sprintf("getrusage: %v", err))
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
