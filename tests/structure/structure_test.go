package structure

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestImportsGoOneWay(t *testing.T) {
	all := list(t)
	if len(all) < 10 {
		t.Fatalf("go list found %d packages", len(all))
	}
	for _, v := range violations(all) {
		t.Error(v)
	}
}

// list asks the go command for every package of the module, as it is built with cgo.
func list(t *testing.T) []pkg {
	t.Helper()
	touchSources(t)
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports,Deps", "./...")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1", "GOOS=linux")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var all []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// touchSources looks at every source file, so that the go command, which does
// not see what a child process reads, runs this test again when one changed.
func touchSources(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir("../..", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && entry.Name() == ".git":
			return fs.SkipDir
		case filepath.Ext(path) == ".go":
			_, err = os.Stat(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The rules are tried on imports that break them.
func TestRulesCatch(t *testing.T) {
	for _, c := range []struct {
		says string
		pkg  pkg
	}{
		{"", pkg{ImportPath: module + "signer", Imports: []string{module + "keystore", "crypto"}}},
		{"", pkg{ImportPath: module + "signer", TestImports: []string{module + "internal/tpmtest", "testing"}}},
		{"", pkg{ImportPath: module + "cgo", Imports: []string{"C", "unsafe", module + "p11"}}},
		{"", pkg{ImportPath: module + "internal/boundary/gen", Imports: []string{module + "internal/boundary"}}},
		{"", pkg{ImportPath: module + "tests", TestImports: []string{"github.com/miekg/pkcs11", module + "signer"}}},
		{"provider imports keystore", pkg{ImportPath: module + "provider", Imports: []string{module + "keystore"}}},
		{"provider imports keystore", pkg{ImportPath: module + "provider", XTestImports: []string{module + "keystore"}}},
		{"config imports provider/transport", pkg{ImportPath: module + "config", Imports: []string{module + "provider/transport"}}},
		{"keystore imports signer", pkg{ImportPath: module + "keystore", Imports: []string{module + "signer"}}},
		{"cmd/tpm2-p11 imports cmd/nitro-sim", pkg{ImportPath: module + "cmd/tpm2-p11", Imports: []string{module + "cmd/nitro-sim"}}},
		{`p11 imports "unsafe"`, pkg{ImportPath: module + "p11", Imports: []string{"unsafe"}}},
		{`internal/secret imports "C"`, pkg{ImportPath: module + "internal/secret", Imports: []string{"C"}}},
		{"signer links github.com/aws/aws-sdk-go-v2/service/kms", pkg{ImportPath: module + "signer", Deps: []string{"github.com/aws/aws-sdk-go-v2/service/kms"}}},
		{"signer links " + module + "kms", pkg{ImportPath: module + "signer", Deps: []string{module + "kms"}}},
		{"cgo links github.com/miekg/pkcs11", pkg{ImportPath: module + "cgo", Deps: []string{"github.com/miekg/pkcs11"}}},
		{"cmd/tpm2-p11 links testing", pkg{ImportPath: module + "cmd/tpm2-p11", Deps: []string{"testing"}}},
		{"p11 links " + module + "internal/tpmtest", pkg{ImportPath: module + "p11", Deps: []string{module + "internal/tpmtest"}}},
		{"nowhere is in no layer", pkg{ImportPath: module + "nowhere"}},
	} {
		got := strings.Join(violations([]pkg{c.pkg}), "\n")
		if c.says == "" && got != "" {
			t.Errorf("%s: allowed, but %s", c.pkg.ImportPath, got)
		}
		if !strings.HasPrefix(got, c.says) {
			t.Errorf("got %q, want %q", got, c.says)
		}
	}
}
