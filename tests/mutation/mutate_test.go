package main

import (
	"slices"
	"strings"
	"testing"
)

// What refuses, or is needed, gets a switch; what merely decides does not.
func TestChecksAreFound(t *testing.T) {
	source := `package p

func f(a, b int) (int, error) {
	if a == 1 || (b == 2 && a == 3) {
		return 0, ErrBad
	}
	if b > 7 { // no refusal
		return 1, nil
	}
	switch {
	case a == 4, a == 5:
		return 0, fmt.Errorf("no")
	case b == 9:
		b++
	}
	if err := g(); err != nil {
		return 0, err
	}
	if err := g(); err != nil {
		return 0, err
	}
	return a, nil
}

func (s *state) good() bool { return s.a && s.b == 1 && (s.c || s.d) }

func (s *state) next() {
	if s.rest == nil {
		s.fail("too early")
		return
	}
	if s.rest > 1 {
		s.more()
	}
}
`
	changed, checks, err := mutate("p.go", []byte(source), 10)
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for i, c := range checks {
		keys = append(keys, strings.TrimPrefix(c.key(), "p.go "))
		if c.number != 10+i {
			t.Errorf("%v has number %d", c, c.number)
		}
	}
	want := []string{"f: a == 1", "f: b == 2 && a == 3", "f: a == 4", "f: a == 5", "f: err != nil", "f: err != nil #2",
		"state.good: s.a", "state.good: s.b == 1", "state.good: (s.c || s.d)", "state.next: s.rest == nil"}
	if !slices.Equal(keys, want) {
		t.Errorf("%q\nwant %q", keys, want)
	}
	for _, text := range []string{"if ((a == 1) && mutation != 10) || (((b == 2 && a == 3) && mutation != 11)) {", "((s.b == 1) || mutation == 17)"} {
		if !strings.Contains(string(changed), text) {
			t.Errorf("%s is not in\n%s", text, changed)
		}
	}
}

func TestReasonsAreRead(t *testing.T) {
	reasons, err := parseEquivalents("# a comment\n\na.go f: x\n  It cannot\n  be seen.\nb.go g: y #2\n  Nor this.\n")
	if err != nil || reasons["a.go f: x"] != "It cannot be seen. " || reasons["b.go g: y #2"] == "" {
		t.Errorf("%q, %v", reasons, err)
	}
	for _, bad := range []string{"a.go f: x\nb.go g: y\n  A reason.\n", "  a reason\n", "a.go f: x\n"} {
		if _, err := parseEquivalents(bad); err == nil {
			t.Errorf("%q: taken", bad)
		}
	}
	if _, err := parseEquivalents(equivalents); err != nil {
		t.Error(err)
	}
}
