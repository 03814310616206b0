// Command fuzz runs every fuzz target of the module for a while, several at
// once. Inputs that fail are written to the package's testdata/fuzz, where `go
// test` finds them from then on; interesting ones are kept in build/fuzz.
//
//	make fuzz T=60s
//	go run ./tests/fuzz -time 10m -run 'kms|FuzzVerify'
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// target is one fuzz function.
type target struct {
	pkg, dir, name string
}

func main() {
	duration := flag.Duration("time", time.Minute, "how long each target runs")
	pattern := flag.String("run", "", "only targets whose package.Name matches this `regexp`")
	jobs := flag.Int("jobs", 2, "targets at a time, each on one core")
	dir := flag.String("dir", "build/fuzz", "folder for test binaries and interesting inputs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "fuzz: %q is no flag: -run %s narrows it to what is called so\n", flag.Arg(0), flag.Arg(0))
		os.Exit(2)
	}
	if err := run(ctx, *duration, *pattern, *jobs, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "fuzz:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, duration time.Duration, pattern string, jobs int, dir string) error {
	wanted, err := regexp.Compile(pattern)
	if err != nil {
		return err
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return err
	}
	all, err := targets(ctx)
	if err != nil {
		return err
	}
	if all, err = choose(all, wanted); err != nil {
		return err
	}
	// Building is the go command's to spread over cores; running is not.
	binaries := map[string]string{}
	for _, t := range all {
		if binaries[t.pkg] != "" {
			continue
		}
		binaries[t.pkg] = filepath.Join(dir, strings.ReplaceAll(t.pkg, "/", "-")+".test")
		build := exec.CommandContext(ctx, "go", "test", "-c", "-fuzz=.", "-o", binaries[t.pkg], t.pkg)
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", t.pkg, err, out)
		}
	}
	queue := make(chan target)
	var failed []error
	var lock sync.Mutex
	var workers sync.WaitGroup
	for range jobs {
		workers.Go(func() {
			for t := range queue {
				out, err := t.fuzz(ctx, duration, binaries[t.pkg], filepath.Join(dir, "corpus"))
				lock.Lock()
				fmt.Printf("%-70s %s\n", t.pkg+" "+t.name, summary(out))
				if err != nil && ctx.Err() == nil {
					_, _ = os.Stdout.Write(out)
					failed = append(failed, fmt.Errorf("%s %s: %w", t.pkg, t.name, err))
				}
				lock.Unlock()
			}
		})
	}
	for _, t := range all {
		queue <- t
	}
	close(queue)
	workers.Wait()
	return errors.Join(append(failed, ctx.Err())...)
}

// choose leaves the targets whose package.Name matches. Where there is none, the error lists those that there are.
func choose(all []target, wanted *regexp.Regexp) ([]target, error) {
	var chosen []target
	names := ""
	for _, t := range all {
		name := t.pkg + "." + t.name
		names += "\n  " + name
		if wanted.MatchString(name) {
			chosen = append(chosen, t)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no target matches %q: there is%s", wanted, names)
	}
	return chosen, nil
}

// fuzz runs a target from its package's folder, which is where tests look for their data. The end is an interrupt when its inputs have run for
// the duration: with -test.fuzztime the fuzzer at times takes its own end for a failure (go.dev/issue/75804).
func (t target) fuzz(ctx context.Context, duration time.Duration, binary, corpus string) ([]byte, error) {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	out := &output{begun: func() { time.AfterFunc(duration, func() { end(errTimeIsUp) }) }}
	cmd := exec.CommandContext(ctx, binary, "-test.run=^$", "-test.fuzz=^"+t.name+"$",
		"-test.fuzzcachedir="+filepath.Join(corpus, t.pkg), "-test.fuzzminimizetime=100ms", "-test.parallel=1")
	cmd.Dir, cmd.Stdout, cmd.Stderr = t.dir, out, out
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	err := cmd.Run()
	if errors.Is(err, context.Canceled) && context.Cause(ctx) == errTimeIsUp { // it was interrupted, and found nothing
		err = nil
	}
	return out.printed.Bytes(), err
}

var errTimeIsUp = errors.New("time is up")

// output keeps what a target prints, and tells when the first of it comes: an interrupt ends what fuzzes, but kills what has not begun to.
type output struct {
	printed bytes.Buffer
	begun   func()
}

func (o *output) Write(p []byte) (int, error) {
	if o.begun != nil && bytes.Contains(p, []byte("fuzz: elapsed")) {
		o.begun()
		o.begun = nil
	}
	return o.printed.Write(p)
}

var executions = regexp.MustCompile(`execs: (\d+).*?new interesting: (\d+) \(total: (\d+)\)`)

// summary is the last count that a target printed.
func summary(out []byte) string {
	all := executions.FindAllSubmatch(out, -1)
	if len(all) == 0 {
		return "only its corpus"
	}
	last := all[len(all)-1]
	return fmt.Sprintf("%s inputs, %s new of %s interesting", last[1], last[2], last[3])
}

var function = regexp.MustCompile(`(?m)^func (Fuzz\w+)\(`)

// targets finds the fuzz functions in the test files of the module that the working directory is in.
func targets(ctx context.Context) ([]target, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-json=ImportPath,Dir,TestGoFiles,XTestGoFiles", "./...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	var all []target
	for packages := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			ImportPath, Dir           string
			TestGoFiles, XTestGoFiles []string
		}
		if err := packages.Decode(&p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		for _, file := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
			text, err := os.ReadFile(filepath.Join(p.Dir, file))
			if err != nil {
				return nil, err
			}
			for _, f := range function.FindAllSubmatch(text, -1) {
				all = append(all, target{p.ImportPath, p.Dir, string(f[1])})
			}
		}
	}
}
