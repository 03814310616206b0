package main_test

import (
	"context"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tpm2-p11/tpm2-p11/internal/boundary"
)

// run runs a command to its end and returns what it said; any failure ends the test.
func run(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// compile builds a C program from sources and returns its path.
func compile(t *testing.T, flags []string, sources ...string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "program")
	args := append([]string{"-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", "-pthread", "-o", program}, flags...)
	run(t, nil, "gcc", append(args, sources...)...)
	return program
}

func buildModule(t *testing.T) string {
	t.Helper()
	exports, err := filepath.Abs("exports.map")
	if err != nil {
		t.Fatal(err)
	}
	module := filepath.Join(t.TempDir(), "tpm2-p11.so")
	run(t, nil, "go", "build", "-buildmode=c-shared", "-ldflags", "-extldflags=-Wl,--version-script="+exports, "-o", module, ".")
	return module
}

func TestMarshallingIsExactAndSurvivesAnyAnswer(t *testing.T) {
	t.Parallel()
	sources, err := filepath.Glob("*.c")
	if err != nil || len(sources) == 0 {
		t.Fatalf("no C files: %v", err)
	}
	program := compile(t, []string{"-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-Wl,--wrap=free"}, append(sources, "testdata/marshal.c")...)
	run(t, nil, program)
}

func TestCallsAnsweredElsewhere(t *testing.T) {
	t.Parallel()
	sources, err := filepath.Glob("*.c")
	if err != nil || len(sources) == 0 {
		t.Fatalf("no C files: %v", err)
	}
	for _, sanitizers := range []string{"address,undefined", "thread"} {
		t.Run(sanitizers, func(t *testing.T) {
			t.Parallel()
			// Shorter than a host's, and longer than a busy machine leaves the thread that answers without a turn.
			patience := []string{"-DCONNECT_PATIENCE=5000", "-DSTREAM_SILENCE=3000"}
			program := compile(t, append(patience, "-fsanitize="+sanitizers, "-fno-sanitize-recover=all"), append(sources, "testdata/remote.c")...)
			run(t, nil, program, filepath.Join(t.TempDir(), "s"))
		})
	}
}

func TestHelperOfAHost(t *testing.T) {
	t.Parallel()
	sources, err := filepath.Glob("*.c")
	if err != nil || len(sources) == 0 {
		t.Fatalf("no C files: %v", err)
	}
	// Its child that gives up root's rights writes into this folder.
	dir, err := os.MkdirTemp("", "helper")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	program := compile(t, []string{"-fsanitize=address,undefined", "-fno-sanitize-recover=all"}, append(sources, "testdata/helper.c")...)
	run(t, nil, program, filepath.Join(dir, "log"))
}

func TestModule(t *testing.T) {
	t.Parallel()
	module := buildModule(t)
	dir := t.TempDir()

	t.Run("exports Cryptoki's functions and nothing else", func(t *testing.T) {
		var want []string
		for _, f := range boundary.Functions {
			want = append(want, f.Name)
		}
		slices.Sort(want)
		if got := exported(t, module); !slices.Equal(got, want) {
			t.Errorf("exported are\n%v\nnot\n%v", got, want)
		}
	})
	t.Run("is bound at load and read-only after it, with no path of its own", func(t *testing.T) {
		checkHardening(t, module)
	})
	t.Run("lives through initialisation, fork and unloading, and says nothing", func(t *testing.T) {
		conf := filepath.Join(dir, "tpm2-p11.conf")
		text := fmt.Sprintf("log = \"off\"\ntpm = \"swtpm:path=%s/no-tpm\"\nstore = \"%[1]s/store\"\n", dir)
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if said := run(t, []string{"TPM2_P11_CONF=" + conf}, compile(t, nil, "testdata/module.c", "-ldl"), module); said != "" {
			t.Errorf("it said %q", said)
		}
	})
}

func exported(t *testing.T, module string) []string {
	t.Helper()
	f, err := elf.Open(module)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	symbols, err := f.DynamicSymbols()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range symbols {
		if s.Section != elf.SHN_UNDEF && elf.ST_BIND(s.Info) != elf.STB_LOCAL {
			names = append(names, s.Name)
		}
	}
	slices.Sort(names)
	return names
}

func checkHardening(t *testing.T, module string) {
	t.Helper()
	f, err := elf.Open(module)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if !slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_GNU_RELRO }) {
		t.Error("no RELRO segment")
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_GNU_STACK && p.Flags&elf.PF_X != 0 {
			t.Error("the stack is executable")
		}
	}
	flags, err := f.DynValue(elf.DT_FLAGS)
	if err != nil || len(flags) == 0 || elf.DynFlag(flags[0])&elf.DF_BIND_NOW == 0 {
		t.Errorf("not bound at load: DT_FLAGS %v, %v", flags, err)
	}
	for _, tag := range []elf.DynTag{elf.DT_RPATH, elf.DT_RUNPATH} {
		if paths, err := f.DynString(tag); err != nil || len(paths) > 0 {
			t.Errorf("%v is %q, %v", tag, paths, err)
		}
	}
}
