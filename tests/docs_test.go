package tests

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/internal/imagetest"
)

// Pages whose commands a machine of the tests cannot run.
var pagesNotRun = map[string]string{
	"ARCHITECTURE.md": "it has no commands",
	"attestation.md":  "its commands ask a NitroTPM and take what others send",
	"haproxy.md":      "it has no commands",
	"kms.md":          "its commands ask AWS",
	"serve.md":        "its commands ask systemd",
}

// images are what a build gave, for pages that begin there.
func images(t *testing.T, m *machine) {
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

// Every block of commands in the README and the pages runs as it is printed, one after another. One that begins with init
// begins on a new machine.
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
			var m *machine
			if filepath.Base(page) == "prediction.md" {
				m = newMachine(t, "")
				m.env = append(m.env, "PATH="+filepath.Dir(command)+":"+os.Getenv("PATH"))
				images(t, m)
			}
			for _, block := range commandBlocks(string(text)) {
				if strings.HasPrefix(block, "tpm2-p11 init") {
					m = newMachine(t, "")
					m.env = append(m.env, "PATH="+filepath.Dir(command)+":"+os.Getenv("PATH"))
					for name, content := range map[string]string{"contract.txt": "we agree", "password.txt": "secret", "pin": "user-pin\n", "so-pin": "so-pin\n"} {
						m.write(name, content)
					}
				}
				if m == nil {
					t.Fatalf("before init there is:\n%s", block)
				}
				block = strings.ReplaceAll(block, "/usr/local/lib/pkcs11/tpm2-p11.so", module)
				m.run("sh", "-ec", regexp.MustCompile(`/etc/\w+/`).ReplaceAllLiteralString(block, ""))
			}
			if m == nil {
				t.Errorf("%s has no command: say so in pagesNotRun", page)
			}
		})
	}
}

// commandBlocks are the indented blocks of a page that begin with a command of ours or of a client of the module.
func commandBlocks(page string) []string {
	var blocks []string
	for _, m := range regexp.MustCompile(`(?m)(?:^    .*\n)+`).FindAllString(regexp.MustCompile("(?s)```.*?```").ReplaceAllString(page, ""), -1) {
		block := regexp.MustCompile(`(?m)^    `).ReplaceAllString(m, "")
		if regexp.MustCompile(`^(tpm2-p11|pkcs11-tool|p11tool|PKCS11_)`).MatchString(block) {
			blocks = append(blocks, block)
		}
	}
	return blocks
}
