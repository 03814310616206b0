// Package tests drives the built module and command from outside, as their
// users do, each test on a TPM of its own.
package tests

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tpm2-p11/tpm2-p11/internal/promises"
	"github.com/tpm2-p11/tpm2-p11/internal/tpmtest"
)

// The built artefacts, absolute.
var command, module string

// Clients from Debian's packages that the tests drive.
var clients = []string{"swtpm", "openssl", "pkcs11-tool", "p11tool", "curl", "tpm2_createprimary", "softhsm2-util", "p11-kit"}

func TestMain(m *testing.M) {
	build, err := filepath.Abs("../build")
	if err != nil {
		panic(err)
	}
	command, module = filepath.Join(build, "tpm2-p11"), filepath.Join(build, "tpm2-p11.so")
	for _, file := range []string{command, module} {
		if _, err := os.Stat(file); err != nil {
			fmt.Fprintf(os.Stderr, "%s is missing: run make build first\n", file)
			os.Exit(1)
		}
	}
	for _, client := range clients {
		if _, err := exec.LookPath(client); err != nil {
			fmt.Fprintf(os.Stderr, "%s is missing: run packaging/install-packages test\n", client)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// machine is one TPM, one configuration and one working folder.
type machine struct {
	t   *testing.T
	tpm *tpmtest.TPM
	dir string
	env []string

	broken   *promises.Machine // where its wire has faults
	instance *instance         // that it is, where it is an attestable one
}

// newMachine starts a TPM whose PCRs were extended as a firmware would, and
// writes a configuration for it; extra is appended to that.
func newMachine(t *testing.T, extra string) *machine {
	t.Helper()
	m := &machine{t: t, tpm: tpmtest.Start(t), dir: t.TempDir()}
	for _, pcr := range []uint{0, 1, 2, 7} {
		m.tpm.Extend(t, "sha256", pcr, []byte("measured boot"))
	}
	m.write("tpm2-p11.conf", fmt.Sprintf("tpm = %q\nstore = %q\nlog = \"stderr\"\n%s", m.tpm.Address(), m.path("store"), extra))
	m.env = append(os.Environ(),
		"TPM2_P11_CONF="+m.path("tpm2-p11.conf"),
		"TPM2TOOLS_TCTI="+m.tpm.Address(),
		"PKCS11_MODULE_PATH="+module,
		"HOME="+m.dir, "LC_ALL=C", "NO_COLOR=1")
	return m
}

func (m *machine) path(name string) string { return filepath.Join(m.dir, name) }

// source is the path of a file in testdata.
func (m *machine) source(name string) string {
	m.t.Helper()
	path, err := filepath.Abs(filepath.Join("testdata", name))
	if err != nil {
		m.t.Fatal(err)
	}
	return path
}

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

// show lets other users find their way to a folder of the test's.
func (m *machine) show(folder string) {
	m.t.Helper()
	for dir := folder; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			m.t.Fatal(err)
		}
	}
}

// result of a finished program.
type result struct {
	stdout, stderr string
	code           int
}

// all is everything that was printed.
func (r result) all() string { return r.stdout + r.stderr }

// start runs a program in the machine's folder; one that hangs fails the test.
func (m *machine) start(program string, args ...string) result {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, program, args...)
	var stdout, stderr bytes.Buffer
	c.Dir, c.Env, c.Stdout, c.Stderr = m.dir, m.env, &stdout, &stderr
	err := c.Run()
	r := result{stdout.String(), stderr.String(), c.ProcessState.ExitCode()}
	var exit *exec.ExitError
	if ctx.Err() != nil || (err != nil && !errors.As(err, &exit)) {
		m.t.Fatalf("%s %s: %v (%v)\n%s", program, strings.Join(args, " "), err, ctx.Err(), r.all())
	}
	return r
}

// run runs a program that must succeed.
func (m *machine) run(program string, args ...string) result {
	m.t.Helper()
	r := m.start(program, args...)
	if r.code != 0 {
		m.t.Fatalf("%s %s: exit code %d\n%s", program, strings.Join(args, " "), r.code, r.all())
	}
	return r
}

// refused runs a program that must fail and say each of the words.
func (m *machine) refused(words []string, program string, args ...string) result {
	m.t.Helper()
	r := m.start(program, args...)
	if r.code == 0 {
		m.t.Fatalf("%s %s was not refused\n%s", program, strings.Join(args, " "), r.all())
	}
	for _, w := range words {
		if !strings.Contains(r.all(), w) {
			m.t.Errorf("%s %s was refused without saying %q:\n%s", program, strings.Join(args, " "), w, r.all())
		}
	}
	return r
}

// tpm2p11 runs the command, which must succeed.
func (m *machine) tpm2p11(args ...string) result { m.t.Helper(); return m.run(command, args...) }

// pkcs11Tool runs pkcs11-tool on the module, which must succeed.
func (m *machine) pkcs11Tool(args ...string) result {
	m.t.Helper()
	return m.run("pkcs11-tool", append([]string{"--module", module}, args...)...)
}

// opensslVerify checks a signature over in.txt with plain openssl and the public key in key.pub.
func (m *machine) opensslVerify(publicKey, signature string, options ...string) {
	m.t.Helper()
	args := append([]string{"dgst", "-sha256"}, options...)
	m.run("openssl", append(args, "-verify", publicKey, "-signature", signature, "in.txt")...)
}

// Options of opensslVerify for RSASSA-PSS with a salt as long as the hash.
var pss = []string{"-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"}
