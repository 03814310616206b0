package tests

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The release of github.com/ThalesGroup/crypto11 whose tests run here, and its checksum as go.sum has it.
const (
	crypto11    = "github.com/ThalesGroup/crypto11@v1.6.2"
	crypto11Sum = "h1:X+JsrOlKanaIlHgwV/3MJ/cFivbEaQ8kpXRPoiC2T+c="
)

// What is changed in crypto11's tests: they would end at it and not come to the rest. docs/crypto11.md says why.
var crypto11Changes = []struct{ file, from, to string }{
	{"common_test.go", "\treturn result\n", "\treturn []byte(fmt.Sprintf(\"%x\", result[:16]))\n"},
	{"ecdsa_test.go", "\telliptic.P224(),\n", ""},
	{"thread_test.go", "signaturesPerThread = 256", "signaturesPerThread = 2"},
}

// What fails of crypto11's tests. docs/crypto11.md explains each; what begins with one of these is part of it.
var crypto11Failures = []string{
	"TestKeyDelete",
	"TestKeyPairDelete",
	"TestAccessSameLibraryTwice",
	"TestCertificateAttributes",
	"TestHardDSA",
	"TestHmac",
	"TestHmac/HMACSHA1",
	"TestHmac/HMACSHA1General",
	"TestHmac/HMACSHA256",
	"TestHardRSA/Encrypt/PKCS1v15",
}

// The hashes that crypto11 uses with PSS and OAEP and a TPM's key does not.
var crypto11Hashes = regexp.MustCompile(`/(PSSSHA1|PSSSHA224|OAEPSHA224|OAEPSHA224Label)$`)

// crypto11's own tests, on a token with a PIN and a second one beside it.
func TestCrypto11Suite(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	tokens := ""
	for _, label := range []string{"token1", "token2"} {
		tokens += fmt.Sprintf("[[token]]\nlabel = %q\ntpm = %q\nstore = %q\n", label, m.tpm.Address(), m.path(label))
	}
	m.write("tpm2-p11.conf", "log = \"stderr\"\n"+tokens)
	m.write("pin", "mypin1\n")
	m.write("so-pin", "so-pin\n")
	for _, label := range []string{"token1", "token2"} {
		m.tpm2p11("init", "--token", label, "--label", label, "--pin-file", "pin", "--so-pin-file", "so-pin")
	}
	m.crypto11()
	m.write("crypto11/config", fmt.Sprintf(`{"Path": %q, "TokenLabel": "token1", "Pin": "mypin1"}`, module))

	// A test that fails leaves its contexts open, and the next would use their login: each has a process of its own.
	var failed []string
	for test := range strings.FieldsSeq(m.run("env", "-C", "crypto11", "./crypto11.test", "-test.list", "^Test").stdout) {
		r := m.start("env", "-C", "crypto11", "./crypto11.test", "-test.v", "-test.run", "^"+test+"$")
		results := regexp.MustCompile(`(?m)^ *--- (\w+): (\S+) `).FindAllStringSubmatch(r.stdout, -1)
		if len(results) == 0 {
			t.Errorf("%s has no result:\n%s", test, last(r.all(), 2000))
		}
		for _, result := range results {
			if result[1] != "FAIL" {
				continue
			}
			failed = append(failed, result[2])
			if !expectedOfCrypto11(result[2], results) {
				t.Errorf("%s fails:\n%s", result[2], last(r.all(), 4000))
			}
		}
	}
	m.tpm.Restart(t) // sweeps up after the failed ones, which end by exit_group(2) and let nothing go
	for _, name := range crypto11Failures {
		if !slices.Contains(failed, name) {
			t.Errorf("%s passes now: docs/crypto11.md says that it does not", name)
		}
	}
}

// expectedOfCrypto11 tells a failure that is explained, or that is one of a test whose parts' failures all are.
func expectedOfCrypto11(name string, results [][]string) bool {
	if slices.Contains(crypto11Failures, name) || crypto11Hashes.MatchString(name) {
		return true
	}
	parts := false
	for _, r := range results {
		if r[1] == "FAIL" && strings.HasPrefix(r[2], name+"/") {
			parts = true
			if !expectedOfCrypto11(r[2], results) {
				return false
			}
		}
	}
	return parts
}

// crypto11 puts the module's source into the machine's folder, with the changes, and builds its tests.
func (m *machine) crypto11() {
	m.t.Helper()
	download := exec.Command("go", "mod", "download", "-json", crypto11)
	text, err := download.Output()
	var module struct{ Dir, Sum string }
	if err := json.Unmarshal(text, &module); err != nil || module.Sum != crypto11Sum {
		m.t.Fatalf("go mod download %s: %s %v", crypto11, text, err)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	m.run("cp", "-r", "--no-preserve=mode", module.Dir, m.path("crypto11"))
	for _, c := range crypto11Changes {
		file := filepath.Join("crypto11", c.file)
		before := string(m.read(file))
		if strings.Count(before, c.from) != 1 {
			m.t.Fatalf("%s does not say %q once", c.file, c.from)
		}
		m.write(file, strings.Replace(before, c.from, c.to, 1))
	}
	build := exec.Command("go", "test", "-c", "-o", "crypto11.test")
	build.Dir, build.Env = m.path("crypto11"), append(os.Environ(), "GOFLAGS=-mod=mod")
	if out, err := build.CombinedOutput(); err != nil {
		m.t.Fatalf("go test -c: %v\n%s", err, out)
	}
}
