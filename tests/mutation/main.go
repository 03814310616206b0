// Command mutation takes the checks out of packages, one at a time, and runs
// the package's tests without it: each missing check must make a test fail.
// Checks are the conditions that lead to a refusal, alternative by alternative,
// and those that an acceptance needs. Where a check's absence cannot be seen,
// equivalent.txt says why; a line there that is not so is an error too.
//
//	make mutation
//	go run ./tests/mutation -v ./attest
package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// variable is what tells a test binary which check is out.
const variable = "MUTATION"

// dependants have tests of a package besides its own: its users, and which of their tests, by name.
var dependants = map[string]map[string]string{"policy": {"./policy/policyfile": "."}}

//go:embed equivalent.txt
var equivalents string

func main() {
	jobs := flag.Int("jobs", 2, "tests at a time")
	pattern := flag.String("run", "", "only checks whose line in the report matches this `regexp`")
	verbose := flag.Bool("v", false, "tell of each check")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	wanted, err := regexp.Compile(*pattern)
	if err == nil {
		err = run(ctx, flag.Args(), wanted, *jobs, *verbose)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutation:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, patterns []string, wanted *regexp.Regexp, jobs int, verbose bool) error {
	reasons, err := parseEquivalents(equivalents)
	if err != nil {
		return err
	}
	packages, err := list(ctx, patterns)
	if err != nil {
		return err
	}
	var complaints []error
	for _, p := range packages {
		started := time.Now()
		survivors, total, err := p.test(ctx, wanted, jobs, verbose)
		if err != nil {
			return fmt.Errorf("%s: %w", p.ImportPath, err)
		}
		excused := 0
		for _, c := range survivors {
			if reasons[c.key()] != "" {
				excused++
			} else {
				complaints = append(complaints, fmt.Errorf("no test fails without %v", c))
			}
		}
		fmt.Printf("%s: %d checks, of which tests notice %d and cannot notice %d (%s)\n", p.ImportPath, total, total-len(survivors), excused, time.Since(started).Round(time.Second))
		for key := range reasons {
			ours := path.Dir(strings.Fields(key)[0]) == p.relative
			if ours && wanted.String() == "" && !slices.ContainsFunc(survivors, func(c check) bool { return c.key() == key }) {
				complaints = append(complaints, fmt.Errorf("equivalent.txt has what a test notices, or what is not there: %s", key))
			}
		}
	}
	return errors.Join(complaints...)
}

// parseEquivalents reads lines of a check's key, and below each, indented, the reason.
func parseEquivalents(text string) (map[string]string, error) {
	reasons, key := map[string]string{}, ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case !strings.HasPrefix(line, " "):
			if key != "" && reasons[key] == "" {
				return nil, fmt.Errorf("equivalent.txt: no reason for %s", key)
			}
			key = line
		case key == "":
			return nil, fmt.Errorf("equivalent.txt: a reason for nothing: %s", line)
		default:
			reasons[key] += strings.TrimSpace(line) + " "
		}
	}
	if key != "" && reasons[key] == "" {
		return nil, fmt.Errorf("equivalent.txt: no reason for %s", key)
	}
	return reasons, nil
}

// pkg is what `go list -json` tells of a package.
type pkg struct {
	ImportPath, Dir, Name string
	GoFiles               []string
	Module                struct{ Dir string }
	relative              string // Dir, from the module's
}

func list(ctx context.Context, patterns []string) ([]pkg, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"list", "-json=ImportPath,Dir,Name,GoFiles,Module"}, patterns...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	var packages []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); d.More(); {
		var p pkg
		if err := d.Decode(&p); err != nil {
			return nil, err
		}
		if p.relative, err = filepath.Rel(p.Module.Dir, p.Dir); err != nil {
			return nil, err
		}
		packages = append(packages, p)
	}
	return packages, nil
}

// suite is a test binary and its tests in the order in which they are run without a check: the quick ones at once, then each of the
// others, so that most checks cost a moment.
type suite struct {
	binary, dir string
	rounds      []string
}

// test builds the tests once, with a switch for every check, and runs them without each.
func (p pkg) test(ctx context.Context, wanted *regexp.Regexp, jobs int, verbose bool) (survivors []check, total int, err error) {
	dir, err := os.MkdirTemp("", "mutation")
	if err != nil {
		return nil, 0, err
	}
	defer os.RemoveAll(dir)
	checks, overlay, err := p.change(dir)
	if err != nil {
		return nil, 0, err
	}
	suites, err := p.suites(ctx, dir, overlay)
	if err != nil {
		return nil, 0, err
	}
	checks = slices.DeleteFunc(checks, func(c check) bool { return !wanted.MatchString(c.String()) })
	var lock sync.Mutex
	var next atomic.Int64
	var workers sync.WaitGroup
	for range jobs {
		workers.Go(func() {
			for i := next.Add(1) - 1; int(i) < len(checks) && ctx.Err() == nil; i = next.Add(1) - 1 {
				err := without(ctx, suites, checks[i].number)
				lock.Lock()
				if err == nil {
					survivors = append(survivors, checks[i])
				}
				if verbose {
					fmt.Printf("%-8s %v\n", map[bool]string{true: "missed", false: "noticed"}[err == nil], checks[i])
				}
				lock.Unlock()
			}
		})
	}
	workers.Wait()
	slices.SortFunc(survivors, func(a, b check) int { return a.number - b.number })
	return survivors, len(checks), ctx.Err()
}

// change writes the changed sources into dir, and a list by which the go command takes them in place of its own.
func (p pkg) change(dir string) (checks []check, overlay string, err error) {
	replace := map[string]string{}
	put := func(name string, source []byte) error {
		replace[filepath.Join(p.Dir, name)] = filepath.Join(dir, name)
		return os.WriteFile(filepath.Join(dir, name), source, 0o600)
	}
	for _, name := range p.GoFiles {
		source, err := os.ReadFile(filepath.Join(p.Dir, name))
		if err != nil {
			return nil, "", err
		}
		changed, found, err := mutate(filepath.Join(p.relative, name), source, len(checks)+1)
		if err != nil {
			return nil, "", err
		}
		checks = append(checks, found...)
		if err := put(name, changed); err != nil {
			return nil, "", err
		}
	}
	if err := put("mutation_switch.go", fmt.Appendf(nil, "package %s\n\nimport (\n\t\"os\"\n\t\"strconv\"\n)\n\nvar mutation, _ = strconv.Atoi(os.Getenv(%q))\n", p.Name, variable)); err != nil {
		return nil, "", err
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return nil, "", err
	}
	overlay = filepath.Join(dir, "overlay.json")
	return checks, overlay, os.WriteFile(overlay, list, 0o600)
}

// suites builds the package's tests and its dependants'.
func (p pkg) suites(ctx context.Context, dir, overlay string) ([]suite, error) {
	own, err := newSuite(ctx, overlay, p.ImportPath, ".", p.Dir, filepath.Join(dir, "tests"))
	if err != nil {
		return nil, err
	}
	suites := []suite{own}
	for _, name := range slices.Sorted(maps.Keys(dependants[p.relative])) {
		folder := filepath.Join(p.Module.Dir, name)
		s, err := newSuite(ctx, overlay, folder, dependants[p.relative][name], folder, filepath.Join(dir, fmt.Sprint("tests", len(suites))))
		if err != nil {
			return nil, err
		}
		suites = append(suites, s)
	}
	return suites, nil
}

// quick is how long a test takes at most that is run together with others.
const quick = 300 * time.Millisecond

var passed = regexp.MustCompile(`(?m)^--- PASS: (\w+) \((\d+\.\d+)s\)`)

// newSuite builds the tests of a package and runs those whose names match as they are.
func newSuite(ctx context.Context, overlay, name, match, dir, binary string) (suite, error) {
	s := suite{binary: binary, dir: dir}
	out, err := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-overlay", overlay, "-o", binary, name).CombinedOutput()
	if err != nil {
		return s, fmt.Errorf("building the tests of %s: %w\n%s", name, err, out)
	}
	if out, err = s.command(ctx, 0, "-test.v", "-test.parallel=1", "-test.run="+match).CombinedOutput(); err != nil {
		return s, fmt.Errorf("the tests of %s fail as they are: %w\n%s", name, err, out)
	}
	slow := map[time.Duration][]string{}
	var together []string
	for _, m := range passed.FindAllStringSubmatch(string(out), -1) {
		if took, err := time.ParseDuration(m[2] + "s"); err == nil && took > quick {
			slow[took] = append(slow[took], m[1])
		} else {
			together = append(together, m[1])
		}
	}
	s.rounds = []string{strings.Join(together, "|")}
	for _, took := range slices.Sorted(maps.Keys(slow)) {
		s.rounds = append(s.rounds, slow[took]...)
	}
	return s, nil
}

func (s suite) command(ctx context.Context, out int, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.binary, append(args, "-test.timeout=2m")...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", variable, out))
	return cmd
}

// without runs the tests without one check until one fails. Endless ones fail too.
func without(ctx context.Context, suites []suite, out int) error {
	for _, s := range suites {
		for _, round := range s.rounds {
			if err := s.command(ctx, out, "-test.failfast", "-test.run=^("+round+")$").Run(); err != nil {
				return err
			}
		}
	}
	return nil
}
