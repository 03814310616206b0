package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// workers are what this program is when it is one of its own rows.
var workers = map[string]func(args []string) error{"raw": rawWorker, "signer": signerWorker}

// figures are what one batch gave. The C host prints the same.
type figures struct {
	Nanoseconds []int64 `json:"ns"`      // of each operation
	Wall        int64   `json:"wall_ns"` // of all
	CPU         int64   `json:"cpu_ns"`  // user and system, of the whole batch
	Allocations int64   `json:"allocations,omitempty"`
	Resident    int64   `json:"resident_kib,omitempty"` // that loading and initialising the module added
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
	runtime.ReadMemStats(&before)
	cpu, began := processTime(), time.Now()
	for i := range threads {
		share := n / threads
		if i < n%threads {
			share++
		}
		group.Go(func() {
			took := make([]int64, 0, share)
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
			mu.Lock()
			f.Nanoseconds = append(f.Nanoseconds, took...)
			mu.Unlock()
		})
	}
	group.Wait()
	f.Wall, f.CPU = time.Since(began).Nanoseconds(), processTime()-cpu
	runtime.ReadMemStats(&after)
	f.Allocations = int64(after.Mallocs - before.Mallocs)
	if failed != nil {
		return failed
	}
	return json.NewEncoder(os.Stdout).Encode(f)
}

// processTime is the CPU time of this process so far.
func processTime() int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(fmt.Sprintf("getrusage: %v", err))
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
