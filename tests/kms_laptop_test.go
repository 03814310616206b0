package tests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// serving starts an emulator and waits for its ready line, which is all that it prints.
const serving = `
trap 'kill $served' EXIT
serve() {
	mkfifo ready
	"$@" >ready & served="$served $!"
	head -n 1 ready
	rm ready
}
`

// What docs/kms.md has a laptop do runs as it is printed, and is refused where it says so.
func TestKMSOnALaptop(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/kms.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## On a laptop\n")
	section, _, ended := strings.Cut(section, "\n## ")
	if !found || !ended {
		t.Fatal("docs/kms.md has no section for laptops")
	}
	var script strings.Builder
	for line := range strings.Lines(section) {
		if code, is := strings.CutPrefix(line, "    "); is {
			script.WriteString(code)
		}
	}
	replace := func(s, pattern, with string) string {
		re := regexp.MustCompile("(?m)" + pattern)
		if !re.MatchString(s) {
			t.Fatalf("nothing in the section is like %s", pattern)
		}
		return re.ReplaceAllString(s, with)
	}
	commands := replace(script.String(), `^(nitro-sim .*) &`, "serve $1\n")
	commands = replace(commands, `^ *kms=\$!`, `kms=$!`)
	commands = replace(commands, `^(.*\S)\s*# refused$`, `if $1; then echo "not refused" >&2; exit 1; fi`)
	// An address that is no other test's.
	commands = replace(commands, `127\.0\.0\.1:`, fmt.Sprintf("127.79.%d.%d:", os.Getpid()>>8&0xff, os.Getpid()&0xff))

	dir, err := os.MkdirTemp("", "laptop") // paths of sockets are short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	sh := exec.CommandContext(t.Context(), "sh", "-euc", "served=\n"+serving+commands)
	sh.Dir = dir
	sh.Env = append(os.Environ(), "PATH="+filepath.Dir(command)+":"+os.Getenv("PATH"), "HOME="+dir, "LC_ALL=C", "no_proxy=*")
	output, err := sh.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	if n := strings.Count(string(output), "\nsecret\n"); n != 2 || strings.Count(string(output), "access denied by KMS") != 1 {
		t.Errorf("the secret came %d times:\n%s", n, output)
	}
}
