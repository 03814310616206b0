package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestMain lets the test's program be the command.
func TestMain(m *testing.M) {
	if os.Getenv("BE_FUZZ") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestTargetsAreChosenByTheirNames(t *testing.T) {
	all := []target{{pkg: "here/kms", name: "FuzzOpen"}, {pkg: "here/policy", name: "FuzzVerify"}}
	for pattern, want := range map[string]int{"": 2, "kms": 1, "FuzzVerify": 1, "kms|FuzzVerify": 2} {
		if chosen, err := choose(all, regexp.MustCompile(pattern)); err != nil || len(chosen) != want {
			t.Errorf("%q: %v, %v", pattern, chosen, err)
		}
	}
	_, err := choose(all, regexp.MustCompile("nosuch"))
	if err == nil || !strings.Contains(err.Error(), "\"nosuch\": there is\n  here/kms.FuzzOpen\n  here/policy.FuzzVerify") {
		t.Errorf("a name that nothing has: %v", err)
	}
}

// A word without its flag would be passed over, and everything fuzzed for hours.
func TestAWordWithoutItsFlagIsRefused(t *testing.T) {
	c := exec.Command(os.Args[0], "-time", "1s", "bogus")
	c.Env = append(os.Environ(), "BE_FUZZ=1")
	out, err := c.CombinedOutput()
	if c.ProcessState.ExitCode() != 2 || !strings.Contains(string(out), "-run bogus narrows it") {
		t.Errorf("%v: %s", err, out)
	}
}

// Time that is up is no failure, however busy the machine; an input that fails is one.
func TestWhatFailsIsTold(t *testing.T) {
	t.Chdir(t.TempDir())
	for name, text := range map[string]string{
		"go.mod": "module here\n",
		"here_test.go": `package here

import "testing"

func FuzzGood(f *testing.F) { f.Fuzz(func(*testing.T, []byte) {}) }

func FuzzBad(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 2 {
			t.Error("three bytes")
		}
	})
}
`,
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := run(t.Context(), 100*time.Millisecond, "FuzzGood", 1, "build"); err != nil {
		t.Errorf("nothing fails: %v", err)
	}
	if err := run(t.Context(), time.Minute, "FuzzBad", 1, "build"); err == nil || !strings.Contains(err.Error(), "here FuzzBad: ") {
		t.Errorf("three bytes fail: %v", err)
	}
	if found, _ := filepath.Glob("testdata/fuzz/FuzzBad/*"); len(found) != 1 {
		t.Errorf("what fails is kept: %v", found)
	}
}
