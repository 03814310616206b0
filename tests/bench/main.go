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
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// plan is what a run measures.
type plan struct {
	build     string        // folder of the built module and command
	emulator  string        // "swtpm" or "nitro-sim"
	latency   time.Duration // of nitro-sim, added to every command
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
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func parse(args []string) (plan, error) {
	var p plan
	f := p.flags("bench", 7, "rounds")
	only := f.String("rows", "", "only these rows, separated by commas, of: "+rowNames())
	operations := f.String("operations", "pkcs1,pss,ecdsa,oaep", "only these operations")
	kinds := f.String("kinds", "plain,pin,pcr,pcr+pin,signed", "only these kinds of keys")
	f.IntVar(&p.ops, "ops", 300, fmt.Sprintf("operations of a batch, from %d; a batch has no fewer than that for each thread", leastOps))
	threads := f.String("threads", "1,4,16", "threads of a batch; more than one for plain keys only")
	processes := f.String("processes", "1", "processes at once, on nitro-sim")
	f.StringVar(&p.json, "json", "", "write all figures to FILE")
	f.StringVar(&p.history, "history", "", "append this run's medians to FILE")
	if err := p.take(f, args); err != nil {
		return p, err
	}
	if p.ops < leastOps {
		return p, fmt.Errorf("-ops %d: a batch has %d operations or more", p.ops, leastOps)
	}
	if *only != "" {
		p.rows = strings.Split(*only, ",")
	}
	for _, name := range p.rows {
		if !slices.ContainsFunc(rows, func(r row) bool { return r.name == name }) {
			return p, fmt.Errorf("no row %q; there are: %s", name, rowNames())
		}
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
	var err error
	if p.threads, err = numbers(*threads); err != nil {
		return p, err
	}
	if p.processes, err = numbers(*processes); err != nil {
		return p, err
	}
	if p.emulator != "nitro-sim" && slices.Max(p.processes) > 1 {
		return p, errors.New("-processes: swtpm serves one process at a time; add -tpm nitro-sim")
	}
	return p, nil
}

// leastOps is how many operations of each thread are enough for it to meet all others.
const leastOps = 25

// flags are those that both benches have.
func (p *plan) flags(name string, rounds int, usage string) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.StringVar(&p.build, "build", "build", "folder of the built module and command")
	f.StringVar(&p.emulator, "tpm", "swtpm", "swtpm, or nitro-sim, which serves several processes")
	f.Func("latency", "`time` that nitro-sim adds to every command, as 10ms", func(text string) (err error) {
		p.latency, err = time.ParseDuration(text) // which says what is amiss, as DurationVar does not
		return err
	})
	f.IntVar(&p.rounds, "rounds", rounds, usage)
	f.StringVar(&p.markdown, "markdown", "", "write the table to FILE too")
	return f
}

// take parses the arguments and refuses what no run can be made of.
func (p *plan) take(f *flag.FlagSet, args []string) (err error) {
	if err := f.Parse(args); err != nil {
		return err
	}
	switch {
	case f.NArg() > 0:
		return fmt.Errorf("%q is no flag; lists are separated by commas alone, and a row's name with a space is quoted", f.Arg(0))
	case p.emulator != "swtpm" && p.emulator != "nitro-sim":
		return fmt.Errorf("no TPM %q; there are swtpm and nitro-sim", p.emulator)
	case p.latency < 0:
		return fmt.Errorf("-latency %s is negative", p.latency)
	case p.latency > 0 && p.emulator != "nitro-sim":
		return errors.New("-latency: only nitro-sim takes it; add -tpm nitro-sim")
	case p.rounds < 1:
		return fmt.Errorf("-rounds %d: at least one", p.rounds)
	}
	p.build, err = filepath.Abs(p.build)
	return err
}

func rowNames() string {
	var names []string
	for _, r := range rows {
		names = append(names, r.name)
	}
	return strings.Join(names, ", ")
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
