package config

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files anew")

// root is root in a process of no special kind, a process somewhere else than this one.
func root() process {
	return process{getenv: func(string) string { return "" }, etc: "/etc", state: "/var/lib"}
}

// Each text in testdata, as if it were /etc/tpm2-p11/tpm2-p11.conf, gives what its golden file says: a configuration, or
// for bad-* an error.
func TestGolden(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.toml")
	if err != nil || len(files) == 0 {
		t.Fatal("no testdata", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		c, err := root().parse("/etc/tpm2-p11/tpm2-p11.conf", text)
		got := fmt.Sprintln(err)
		if bad := strings.HasPrefix(filepath.Base(file), "bad-"); bad != (err != nil) {
			t.Errorf("%s: %v", file, err)
			continue
		} else if !bad {
			b, err := json.MarshalIndent(c, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			got = string(b) + "\n"
		}
		golden := strings.TrimSuffix(file, ".toml") + ".golden"
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s\n got: %s\nwant: %s", file, got, want)
		}
	}
}

// A file that is wrong says where that is to be told all the same.
func TestTheLogOfAFileThatIsWrong(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"log = \"stderr\"\ncolour = 1":                  "stderr",
		"colour = 1\nlog = \"file:x.log\"":              "file:/etc/tpm2-p11/x.log",
		"log = \"off\"\n[[token]]\nstore = \"a\"":       "off",
		"log = \"nowhere\"":                             "syslog",
		"log = 1":                                       "syslog",
		"colour = 1":                                    "syslog",
		"log = \"stderr\"\nsocket = \"a\"\nlog = \"a\"": "",
		"log": "",
	} {
		c, err := root().parse("/etc/tpm2-p11/tpm2-p11.conf", []byte(text))
		if err == nil || c.Log != want || len(c.Tokens) > 0 {
			t.Errorf("%q: the log is %q, want %q; %v", text, c.Log, want, err)
		}
	}
}

// A file that would exhaust the decoder does not come to it: the decoder would say of this one that a bracket is missing.
func TestAFileThatWouldExhaustTheDecoder(t *testing.T) {
	t.Parallel()
	_, err := Parse("tpm2-p11.conf", []byte("log = \"off\"\nlabel = "+strings.Repeat("[", 1<<19)))
	if want := "tpm2-p11.conf:2: values nest deeper than 100"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// The sample that is installed says what holds without a file, and its examples are right.
func TestSampleIsTheDefault(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../tpm2-p11.conf")
	if err != nil {
		t.Fatal(err)
	}
	c, err := root().parse("/etc/tpm2-p11/tpm2-p11.conf", text)
	if err != nil {
		t.Fatal(err)
	}
	want := root().defaults()
	want.Path = c.Path
	if !reflect.DeepEqual(c, want) {
		t.Errorf("the sample says\n%+v, and the default is\n%+v", c, want)
	}

	examples := regexp.MustCompile(`(?m)^#(\S)`).ReplaceAllString(string(text), "$1")
	c, err = root().parse("/etc/tpm2-p11/tpm2-p11.conf", []byte(examples))
	if err != nil {
		t.Fatal(err)
	}
	if keys := c.Tokens[0].Keys; len(keys) != 2 || keys[0].Policy.String() != "sha256:0,1,2,7" || keys[1].Policy.String() != "sha256:0,7 + pin" {
		t.Errorf("the examples' keys are %+v", keys)
	}

	if c.Limits != defaultLimits() {
		t.Errorf("the example of [serve] is %+v", c.Limits)
	}

	if c.KMS.KeyID != "alias/fleet" || c.KMS.Context["purpose"] != "tls" || c.KMS.Timeout != 30*time.Second || c.KMS.Attempts != 4 || c.KMS.Extractable {
		t.Errorf("the example of [kms] is %+v", c.KMS)
	}

	_, tokens, found := strings.Cut(string(text), "For example:\n")
	if !found {
		t.Fatal("the sample has no example of several tokens")
	}
	c, err = root().parse("several.conf", []byte(strings.ReplaceAll(tokens, "#", "")))
	if err != nil || len(c.Tokens) != 2 {
		t.Errorf("the example of several tokens: %+v, %v", c.Tokens, err)
	}
}

func TestNearest(t *testing.T) {
	t.Parallel()
	known := []string{"handle", "kms", "label", "log", "store", "tpm", "type", "use", "verify_signatures"}
	for name, want := range map[string]string{
		"handel": "handle", "Label": "label", "verify-signature": "verify_signatures", "lgo": "log", "stores": "store", "tmp": "tpm",
		"x": "", "policy": "", "": "", "pkcs11": "",
	} {
		if got := nearest(name, known); got != want {
			t.Errorf("%q is near %q, want %q", name, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.toml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := root().parse("/etc/tpm2-p11/tpm2-p11.conf", text)
		last := strings.Count(string(text), "\n") + 1
		var where *Error
		if err != nil {
			if !errors.As(err, &where) || where.Line < 1 || where.Line > last {
				t.Fatalf("an error without its line: %v", err)
			}
			return
		}
		if len(c.Tokens) == 0 {
			t.Fatal("no token")
		}
		for _, token := range c.Tokens {
			if !filepath.IsAbs(token.Store) {
				t.Fatalf("store %q", token.Store)
			}
			for _, k := range token.Keys {
				if k.Line < 1 || k.Line > last || k.Label == "" || k.Handle < FirstHandle || k.Handle > LastHandle {
					t.Fatalf("key %+v", k)
				}
			}
		}
	})
}
