package faulttpm

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// parsers are the faults that have a name, and what each makes of what follows its "=".
var parsers = map[string]func(string) (Fault, error){
	"answer": func(s string) (Fault, error) {
		rc, err := strconv.ParseUint(s, 0, 32)
		return Answer(uint32(rc)), err
	},
	"drop":     plain(Drop),
	"lose":     plain(Lose),
	"stall":    plain(Stall),
	"flip":     sized(Flip),
	"truncate": sized(Truncate),
	"shorten":  sized(Shorten),
	"oversize": sized(func(n int) Fault { return Oversize(n, true) }),
	"followed": sized(func(n int) Fault { return Oversize(n, false) }),
	"random":   sized(func(n int) Fault { return Random(uint64(n)) }),
	"delay": func(s string) (Fault, error) {
		d, err := time.ParseDuration(s)
		return Delay(d), err
	},
}

func plain(f Fault) func(string) (Fault, error) {
	return func(s string) (Fault, error) {
		if s != "" {
			return nil, fmt.Errorf("nothing follows it, and %q does", s)
		}
		return f, nil
	}
}

func sized(f func(int) Fault) func(string) (Fault, error) {
	return func(s string) (Fault, error) {
		n, err := strconv.ParseUint(s, 0, 16)
		return f(int(n)), err
	}
}

// ParseFault reads a fault: drop, lose or stall; answer=RC; delay=DURATION; flip, truncate, shorten, oversize or followed (by bytes of
// which the size says nothing) with a number of bytes; random=SEED.
func ParseFault(text string) (Fault, error) {
	name, rest, _ := strings.Cut(text, "=")
	parse, ok := parsers[name]
	if !ok {
		var names []string
		for n := range parsers {
			names = append(names, n)
		}
		slices.Sort(names)
		return nil, fmt.Errorf("no fault is called %q: there are %s", name, strings.Join(names, ", "))
	}
	f, err := parse(rest)
	if err != nil {
		return nil, fmt.Errorf("fault %q: %w", text, err)
	}
	return f, nil
}
