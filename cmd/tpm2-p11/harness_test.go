package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/internal/tpmtest"
)

// machine is a computer with a TPM and a person at the command line.
type machine struct {
	t       *testing.T
	tpm     *tpmtest.TPM // nil: a machine without a TPM
	dir     string       // where files named in arguments are
	config  string
	stdin   string
	answers []string // of a person at the terminal, in order; nil: there is no terminal
}

type result struct {
	code           int
	stdout, stderr string
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := offline(t)
	m.tpm = tpmtest.Start(t)
	m.configure("")
	return m
}

// offline is a machine without a TPM.
func offline(t *testing.T) *machine {
	t.Helper()
	m := &machine{t: t, dir: t.TempDir()}
	m.config = m.path("tpm2-p11.conf")
	m.configure("")
	return m
}

// configure writes the configuration: the machine's TPM and store, then more.
func (m *machine) configure(more string) {
	m.t.Helper()
	address := "device:" + m.path("no-such-device")
	if m.tpm != nil {
		address = m.tpm.Address()
	}
	m.write("tpm2-p11.conf", "tpm = \""+address+"\"\nstore = \""+m.path("store")+"\"\n"+more)
}

func (m *machine) path(name string) string { return filepath.Join(m.dir, name) }

func (m *machine) write(name, content string) string {
	m.t.Helper()
	if err := os.WriteFile(m.path(name), []byte(content), 0o600); err != nil {
		m.t.Fatal(err)
	}
	return m.path(name)
}

func (m *machine) read(name string) []byte {
	m.t.Helper()
	b, err := os.ReadFile(m.path(name))
	if err != nil {
		m.t.Fatal(err)
	}
	return b
}

// try runs the command. A word that begins with @ is a file of the machine's.
func (m *machine) try(args ...string) result {
	m.t.Helper()
	full := []string{}
	for _, word := range args {
		if name, ok := strings.CutPrefix(word, "@"); ok {
			word = m.path(name)
		}
		full = append(full, word)
	}
	if !slices.Contains(full, "--config") {
		full = append(full, "--config", m.config)
	}
	var out, errs bytes.Buffer
	a := &app{in: strings.NewReader(m.stdin), out: &out, err: &errs, ask: m.ask}
	code := a.run(context.Background(), full)
	// The flag is the harness's, which the tests do not speak of.
	own := func(text string) string { return strings.ReplaceAll(text, " --config "+m.config, "") }
	return result{code, own(out.String()), own(errs.String())}
}

// run is try for what must succeed; it gives standard output.
func (m *machine) run(args ...string) string {
	m.t.Helper()
	r := m.try(args...)
	if r.code != exitOK {
		m.t.Fatalf("tpm2-p11 %s: exit code %d: %s", strings.Join(args, " "), r.code, r.stderr)
	}
	return r.stdout
}

// refused is try for what must fail with a message and a hint that hold these texts, and print nothing.
func (m *machine) refused(code int, message, hint string, args ...string) {
	m.t.Helper()
	r := m.try(args...)
	command := "tpm2-p11 " + strings.Join(args, " ")
	if r.code != code {
		m.t.Errorf("%s: exit code %d, want %d: %s", command, r.code, code, r.stderr)
		return
	}
	first, second, _ := strings.Cut(r.stderr, "\n")
	if !strings.HasPrefix(first, "tpm2-p11: ") || !strings.Contains(first, message) {
		m.t.Errorf("%s: message %q, want %q", command, first, message)
	}
	if !strings.Contains(second, hint) || strings.Count(second, "\n") > 1 {
		m.t.Errorf("%s: hint %q, want %q", command, second, hint)
	}
	if r.stdout != "" {
		m.t.Errorf("%s: printed %q though it failed", command, r.stdout)
	}
}

// json is run with --json, decoded.
func (m *machine) json(args ...string) map[string]any {
	m.t.Helper()
	return decodeJSON(m.t, m.run(append(args, "--json")...))
}

func decodeJSON(t *testing.T, text string) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("not one JSON object: %v: %s", err, text)
	}
	return v
}

// tool runs another program in the machine's folder, talking to the machine's TPM.
func (m *machine) tool(name string, args ...string) string {
	m.t.Helper()
	out, err := m.tryTool(name, args...)
	if err != nil {
		m.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func (m *machine) tryTool(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = m.dir
	if m.tpm != nil {
		cmd.Env = append(os.Environ(), "TPM2TOOLS_TCTI="+m.tpm.Address())
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// ask is the terminal of the machine's person.
func (m *machine) ask() (terminal, error) {
	if m.answers == nil {
		return nil, errors.New("no terminal")
	}
	return person{m}, nil
}

type person struct{ m *machine }

func (p person) Secret(ctx context.Context, prompt string) (*secret.Bytes, error) {
	line, err := p.Line(ctx, prompt)
	return secret.From([]byte(line)), err
}

func (p person) Line(_ context.Context, prompt string) (string, error) {
	if len(p.m.answers) == 0 {
		return "", errors.New("asked once more than expected: " + prompt)
	}
	answer := p.m.answers[0]
	p.m.answers = p.m.answers[1:]
	return answer, nil
}

func (p person) Close() error { return nil }

func contains(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%s does not hold %q:\n%s", what, part, text)
		}
	}
}
