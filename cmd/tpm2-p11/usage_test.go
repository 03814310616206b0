package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func verbs(c *cobra.Command, visit func(*cobra.Command)) {
	for _, child := range c.Commands() {
		if child.HasSubCommands() {
			verbs(child, visit)
		} else {
			visit(child)
		}
	}
}

func TestEveryVerbHasAnExampleOfItself(t *testing.T) {
	t.Parallel()
	n := 0
	verbs(rootCommand(&app{}), func(c *cobra.Command) {
		n++
		if c.Short == "" || !strings.Contains(c.Example, c.CommandPath()) {
			t.Errorf("%s has no description or no example of its own", c.CommandPath())
		}
	})
	if n < 25 {
		t.Errorf("only %d verbs were looked at", n)
	}
}

func TestNoVerbTakesASecretAsArgument(t *testing.T) {
	t.Parallel()
	verbs(rootCommand(&app{}), func(c *cobra.Command) {
		c.Flags().VisitAll(func(f *pflag.Flag) {
			secret := strings.Contains(f.Name, "pin") || strings.Contains(f.Name, "auth") || strings.Contains(f.Name, "password")
			if secret && f.Value.Type() != "bool" && !strings.HasSuffix(f.Name, "-file") {
				t.Errorf("%s --%s takes a secret on the command line", c.CommandPath(), f.Name)
			}
		})
	})
}

func TestMistakesInUsageExitWith2AndPointToHelp(t *testing.T) {
	t.Parallel()
	m := offline(t)
	for _, c := range []struct{ args, message, hint string }{
		{"frobnicate", `"frobnicate" is no verb: there is`, "`tpm2-p11 --help` shows how"},
		{"key", "the verb is missing: there is attest, certificate, create", "`tpm2-p11 key --help` shows how"},
		{"key frobnicate", `"frobnicate" is no verb`, "`tpm2-p11 key --help` shows how"},
		{"pin change --pin-file x", `"change" is no verb: there is reset, set`, "`tpm2-p11 pin --help` shows how"},
		{"frobnicate --pin-file x", `"frobnicate" is no verb`, "`tpm2-p11 --help` shows how"},
		{"pin --pin-file x", "unknown flag: --pin-file", "`tpm2-p11 pin --help` shows how"},
		{"--frobnicate", "unknown flag: --frobnicate", "`tpm2-p11 --help` shows how"},
		{"key show", "KEY is missing", "`tpm2-p11 key show --help` shows how"},
		{"key show a b", `argument "b" is one too many`, "--help"},
		{"init", "with a PIN or without? There is no terminal to ask", "add --no-pin, or --pin-file FILE and --so-pin-file FILE"},
		{"init --no-pin --pin-file x", "--no-pin and a PIN file exclude each other", "--help"},
		{"key create web --type dsa", "dsa", "--help"},
		{"key create web --use frobnicate", "use \"frobnicate\": there are sign, decrypt (RSA keys), derive (elliptic-curve keys)", "--help"},
		{"key create web --handle 0x80000001", "0x80000001 is not a persistent handle", "--help"},
		{"key create web --handle web", `"web" is not a handle: write it as 0x81000100`, "--help"},
		{"key create web --handle 0x81000100 --wrapped", "--handle and --wrapped exclude each other", "--help"},
		{"key create web --id 123", "--id 123: not hex digits in pairs", "--help"},
		{"key create web --pcr 7", "7", "--help"},
		{"key create web --pcr sha256:99", "99", "--help"},
		{"key create web --no-pin --own-pin-file x", "exclude each other", "--help"},
		{"key import", "the label is missing", "name the key with --label LABEL"},
		{"key import --label web", "import takes one FILE, or --public and --private", "--help"},
		{"key link 0x81000005", "the label is missing", "name the key with --label LABEL"},
		{"key export web --format pem", "--format pem: there is tss2 and tpm2-tools", "--help"},
		{"key export web --format tpm2-tools", "writes two files: name them with --out NAME", "--help"},
		{"key csr web", "--subject is missing", "--help"},
		{"key csr web --subject www", `--subject www: "www" is not TYPE=VALUE`, "--help"},
		{"key self-sign web --subject CN=a --days 0", "--days 0: from 1 to 36500", "--help"},
		{"key certificate web", "certificate takes KEY and FILE, or KEY and --remove", "--help"},
		{"key show pkcs11:object=web?pin-value=1234", "pin-value", "--help"},
		{"sign web --hash md5", "--hash md5: there is sha256, sha384 and sha512", "--help"},
		{"sign web --format der", "--format der: there is plain and tss", "--help"},
		{"verify web", "--signature is missing", "--help"},
		{"verify --signature x", "verify takes a KEY, or --public FILE", "--help"},
		{"decrypt web --oaep-hash md5", "--oaep-hash md5", "--help"},
		{"unseal", "unseal takes one FILE or HANDLE, or --public and --private", "--help"},
	} {
		m.refused(exitUsage, c.message, c.hint, strings.Fields(c.args)...)
	}
}

func TestMistakesAreJSONWhenAskedFor(t *testing.T) {
	t.Parallel()
	m := offline(t)
	for _, args := range []string{"key show --json", "--frobnicate --json", "key list --json"} {
		r := m.try(strings.Fields(args)...)
		if r.code == exitOK || r.stdout != "" || strings.Count(r.stderr, "\n") != 1 {
			t.Errorf("%s: exit code %d, %q, %q", args, r.code, r.stdout, r.stderr)
		}
		failure, _ := decodeJSON(t, r.stderr)["error"].(map[string]any)
		if failure["message"] == "" || failure["hint"] == "" {
			t.Errorf("%s: %s", args, r.stderr)
		}
	}
}

func TestHelpAndVersionNeedNothing(t *testing.T) {
	t.Parallel()
	m := offline(t)
	contains(t, "help", m.run("--help"), "private keys", "doctor", "Usage:")
	contains(t, "help of a verb", m.run("key", "create", "--help"), "Examples:", "--pcr")
	v := m.json("version")
	if v["version"] == "" || v["go"] == "" {
		t.Errorf("version --json: %v", v)
	}
	contains(t, "version", m.run("version"), "tpm2-p11 ")
	if flag := m.run("--version"); flag != m.run("version") {
		t.Errorf("--version: %q", flag)
	}
	if flag := m.json("--version"); flag["version"] != v["version"] {
		t.Errorf("--version --json: %v", flag)
	}
}

func TestCompletionScripts(t *testing.T) {
	t.Parallel()
	m := offline(t)
	for _, shell := range []string{"bash", "zsh", "fish"} {
		contains(t, shell, m.run("completion", shell), "tpm2-p11")
	}
}
