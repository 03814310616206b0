package tests

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tpm2-p11/tpm2-p11/internal/freeport"
	"github.com/tpm2-p11/tpm2-p11/internal/imagetest"
)

// Pages whose commands a machine of the tests cannot run.
var pagesNotRun = map[string]string{
	"ARCHITECTURE.md": "it has no commands",
	"backup.md":       "its commands are for what is lost: TestWhatABackupIsWorth loses it",
	"attestation.md":  "its commands ask a NitroTPM and take what others send",
	"RELIABILITY.md":  "it has no commands",
	"SECURITY.md":     "it has no commands",
	"containers.md":   "its commands ask docker: TestAContainerHasKeysByASocket is one without it",
	"crypto11.md":     "TestCrypto11Suite runs what it tells of",
	"haproxy.md":      "it has no commands",
	"performance.md":  "its commands measure for minutes: TestServersOfTheTLSBenchServe runs the longest one short",
	"kms.md":          "its commands ask KMS: TestKMSDocs runs them",
	"pkcs11.md":       "it has no commands: TestMechanismsAreThoseOfThePage goes by its table",
	"secrets.md":      "it has no commands",
	"serve.md":        "its commands ask systemd",
}

// What pages begin with beyond what all do.
var pagesPrepared = map[string]func(m *machine){
	"policies.md":   approvals,
	"prediction.md": images,
	"ssh.md":        sshServer,
}

// approvals is a machine with a token, whose image is what a build said it would be, and an HSM with a key of who builds.
func approvals(m *machine) {
	m.t.Helper()
	m.hsm("user-pin", [2]string{"signer", "EC:prime256v1"})
	m.tpm2p11("init", "--no-pin")
	m.write("ami-2026-11-20.toml", m.pcrPolicy(7))
}

// images are what a build gave, for pages that begin there.
func images(m *machine) {
	t := m.t
	t.Helper()
	owner := imagetest.NewAuthority(t, "owner", nil)
	for _, month := range []string{"november", "december"} {
		image := imagetest.UKI(t, imagetest.Parts(t, "month="+month)...)
		m.write(month+".efi", string(image))
		m.write(month+"-signed.efi", string(owner.Sign(t, image)))
	}
	database := string(imagetest.Read(t, imagetest.Database(t, owner)))
	for _, name := range []string{"PK.esl", "KEK.esl", "db.esl"} {
		m.write(name, database)
	}
	m.write("boot.log", string(imagetest.Read(t, "../policy/eventlog/testdata/plain.log")))
}

// What the README and the pages have somebody type runs as it is printed, one block after another in one terminal. A block that
// makes a token begins on a new machine.
func TestDocsShowCommandsThatWork(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range append(pages, "../README.md") {
		if _, skipped := pagesNotRun[filepath.Base(page)]; skipped {
			continue
		}
		t.Run(filepath.Base(page), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(page)
			if err != nil {
				t.Fatal(err)
			}
			scripts := terminals(string(text))
			if len(scripts) == 0 {
				t.Errorf("%s has no command: say so in pagesNotRun", page)
			}
			for _, script := range scripts {
				m := newMachine(t, "")
				m.prepare(filepath.Base(page))
				m.terminal(script)
			}
		})
	}
}

// prepare puts into a machine's folder what the pages take for granted.
func (m *machine) prepare(page string) {
	m.t.Helper()
	m.env = append(m.env, "PATH="+m.path("bin")+":"+filepath.Dir(command)+":"+os.Getenv("PATH"))
	for name, content := range map[string]string{"contract.txt": "we agree", "password.txt": "secret", "pin": "user-pin\n", "so-pin": "so-pin\n"} {
		m.write(name, content)
	}
	examples, err := filepath.Abs("../examples")
	if err != nil {
		m.t.Fatal(err)
	}
	if err := errors.Join(os.Symlink(examples, m.path("examples")), os.Mkdir(m.path("bin"), 0o755)); err != nil {
		m.t.Fatal(err)
	}
	if prepare := pagesPrepared[page]; prepare != nil {
		prepare(m)
	}
}

// terminal runs what a page has somebody type. What still runs then, ends.
func (m *machine) terminal(script string) {
	m.t.Helper()
	script = strings.ReplaceAll(script, "/usr/local/lib/pkcs11/tpm2-p11.so", module)
	script = regexp.MustCompile(`/etc/\w+/`).ReplaceAllLiteralString(script, "")
	script = strings.ReplaceAll(script, "8443", freePort(m.t))
	output, err := os.Create(m.path("terminal.log"))
	if err != nil {
		m.t.Fatal(err)
	}
	defer output.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "sh", "-exc", script)
	c.Dir, c.Env, c.Stdout, c.Stderr = m.dir, m.env, output, output
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = c.Run()
	_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
	if err != nil {
		m.t.Errorf("%v\n%s", err, last(string(m.read("terminal.log")), 4000))
	}
}

// freePort is a port that nobody else takes until somebody listens at it.
func freePort(t *testing.T) string {
	t.Helper()
	port, err := freeport.Next()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// terminals are a page's blocks of commands, together up to the next one that makes a new token.
func terminals(page string) (scripts []string) {
	for _, block := range commandBlocks(page) {
		if len(scripts) == 0 || regexp.MustCompile(`(?m)^tpm2-p11 init|--init-token`).MatchString(block) {
			scripts = append(scripts, "")
		}
		scripts[len(scripts)-1] += block
	}
	return scripts
}

// commandBlocks are the indented blocks of a page that begin with a command of ours or of a client of the module.
func commandBlocks(page string) []string {
	var blocks []string
	for _, m := range regexp.MustCompile(`(?m)(?:^    .*\n)+`).FindAllString(regexp.MustCompile("(?s)```.*?```").ReplaceAllString(page, ""), -1) {
		block := regexp.MustCompile(`(?m)^    `).ReplaceAllString(m, "")
		if regexp.MustCompile(`^(tpm2-p11|pkcs11-tool|p11tool|certtool|p11-kit|openssl|ssh|java|keytool|modutil|certutil|cmsutil|export|cat|PKCS11_)`).MatchString(block) {
			blocks = append(blocks, block)
		}
	}
	return blocks
}
