// Command bench measures what a signature costs beside what the TPM itself
// takes for it: each door of the product, and others' modules where they are
// installed, as ratios to a raw loop of hand-framed commands on the same TPM in
// the same run. Rounds are interleaved, so that a machine whose speed drifts
// does not favour anybody.
//
//	make bench
//	make bench-tls
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

// plan is what a run measures.
type plan struct {
	build     string // folder of the built module and command
	emulator  string // "swtpm" or "nitro-sim"
	latency   string // of nitro-sim, added to every command
	rows      []string
	columns   []column
	rounds    int
	ops       int   // of a batch
	threads   []int // of a batch
	processes []int // batches at once
	markdown  string
	json      string
	history   string
}

func main() {
	if len(os.Args) > 1 {
		if worker, ok := workers[os.Args[1]]; ok {
			exit(worker(os.Args[2:]))
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) > 1 && os.Args[1] == "tls" {
		p, err := parseTLS(os.Args[2:])
		if err == nil {
			err = runTLS(ctx, p)
		}
		exit(err)
	}
	p, err := parse(os.Args[1:])
	if err == nil {
		err = p.run(ctx)
	}
	exit(err)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func parse(args []string) (plan, error) {
	var p plan
	f := flag.NewFlagSet("bench", flag.ExitOnError)
	f.StringVar(&p.build, "build", "build", "folder of the built module and command")
	f.StringVar(&p.emulator, "tpm", "swtpm", "swtpm, or nitro-sim, which serves several processes")
	f.StringVar(&p.latency, "latency", "0", "time that nitro-sim adds to every command")
	rows := f.String("rows", "", "only these rows, separated by commas")
	operations := f.String("operations", "pkcs1,pss,ecdsa,oaep", "only these operations")
	kinds := f.String("kinds", "plain,pin,pcr,pcr+pin,signed", "only these kinds of keys")
	f.IntVar(&p.rounds, "rounds", 7, "rounds")
	f.IntVar(&p.ops, "ops", 300, "operations of a batch; at least 25 for each thread")
	threads := f.String("threads", "1,4,16", "threads of a batch; more than one for plain keys only")
	processes := f.String("processes", "1", "processes at once, on nitro-sim")
	f.StringVar(&p.markdown, "markdown", "", "write the table to FILE too")
	f.StringVar(&p.json, "json", "", "write all figures to FILE")
	f.StringVar(&p.history, "history", "", "append this run's medians to FILE")
	if err := f.Parse(args); err != nil {
		return p, err
	}
	var err error
	if p.build, err = filepath.Abs(p.build); err != nil {
		return p, err
	}
	if *rows != "" {
		p.rows = strings.Split(*rows, ",")
	}
	for _, o := range strings.Split(*operations, ",") {
		if _, ok := operationsByName[o]; !ok {
			return p, fmt.Errorf("no operation %q", o)
		}
		for _, k := range strings.Split(*kinds, ",") {
			if _, ok := kindsByName[k]; !ok {
				return p, fmt.Errorf("no kind of key %q", k)
			}
			p.columns = append(p.columns, column{operationsByName[o], kindsByName[k]})
		}
	}
	if p.threads, err = numbers(*threads); err != nil {
		return p, err
	}
	p.processes, err = numbers(*processes)
	return p, err
}

func numbers(list string) (all []int, err error) {
	for _, s := range strings.Split(list, ",") {
		var n int
		if _, err := fmt.Sscan(s, &n); err != nil || n < 1 {
			return nil, fmt.Errorf("%q is no number of threads or processes", s)
		}
		all = append(all, n)
	}
	return all, nil
}
