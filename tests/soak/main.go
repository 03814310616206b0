// Command soak lets applications use keys in every way while the TPM's wire, the
// TPM and the service break, and then looks at what is left. It ends with one
// line: operations, faults, wrong answers and leaks, of which there must be none.
//
//	make soak T=10m
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 {
		if worker, ok := workers[os.Args[1]]; ok {
			exit(worker())
		}
	}
	duration := flag.Duration("time", 10*time.Minute, "how long")
	build := flag.String("build", "build", "folder of the built module, command and emulator")
	rate := flag.Float64("rate", 0.03, "the part of the TPM's commands that meet a fault")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "of the faults")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exit(run(ctx, *build, *duration, *rate, *seed))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// run is the whole of it. Wrong answers and leaks are told one a line before the last.
func run(ctx context.Context, build string, duration time.Duration, rate float64, seed uint64) error {
	fmt.Printf("soak: %v, seed %d\n", duration, seed)
	m, err := newMachine(ctx, build)
	if err != nil {
		return err
	}
	defer m.close()
	before, err := m.persistent(ctx)
	if err != nil {
		return err
	}
	total := report{}
	if err := m.soak(ctx, duration, newTrouble(rate, seed), &total); err != nil {
		return err
	}
	leaks, err := m.left(ctx, before)
	if err != nil {
		return err
	}
	total.Leaks = append(total.Leaks, leaks...)
	for _, w := range total.Wrong {
		fmt.Println("wrong:", w)
	}
	for _, l := range total.Leaks {
		fmt.Println("leak:", l)
	}
	fmt.Printf("soak: %d operations, %d of them refused; %d faults injected; %d wrong answers; %d leaks\n",
		total.Operations, total.Refused, total.Faults, len(total.Wrong), len(total.Leaks))
	if len(total.Wrong)+len(total.Leaks) > 0 {
		return errors.New("a promise was broken")
	}
	return nil
}
