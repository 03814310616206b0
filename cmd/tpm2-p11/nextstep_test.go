package main

import (
	"os"
	"strings"
	"testing"
)

// Whoever names the wrong file reads what the right one is.
func TestWrongFilesAreAnsweredWithTheRightOnes(t *testing.T) {
	t.Parallel()
	m := offline(t)
	m.configure("log = \"off\"\n") // serve says so where there is no syslog
	m.buildKey("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
	m.write("contract.txt", "we agree")
	m.write("wrong.conf", "tpm = \"nowhere:x\"\nlog = \"off\"\n")
	for _, c := range []struct{ args, message, hint string }{
		{"policy show @ci.pem", "ci.pem: it is PEM, and no policy: a policy names a signer's public key", ""},
		{"unseal @contract.txt", "there is no PEM block", "name a file that `tpm2-p11 seal` wrote"},
		{"verify --public @ci.pub --in @contract.txt --signature @contract.txt", "neither a plain signature of this key nor a TPMT_SIGNATURE: it is cut, or something else", "`tpm2-p11 sign` wrote"},
		{"serve --socket @s --config @wrong.conf", "unknown kind \"nowhere\"; accepted are \"device:/dev/tpmrm0\"", ""},
		{"serve --socket @absent/s", "no such file or directory: make it, as root's", ""},
		{"key list --store @contract.txt", "open store " + m.path("contract.txt") + ": not a directory", "a store is a folder: name one with --store FOLDER"},
	} {
		m.refused(exitFailed, c.message, c.hint, strings.Fields(c.args)...)
	}
}

func TestAPolicyThatNobodySignedIsNotApproved(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.write("c.toml", "pin = true\n")
	m.run("init", "--no-pin")
	m.refused(exitFailed, "c.toml: there is no [[approved]] in it", "sign it with `tpm2-p11 policy sign "+m.path("c.toml")+" --key KEY --out FILE.json`", "policy", "approve", "@c.toml")
}

// The variable is the process's: the test has no others beside it.
func TestAConfigurationThatTheEnvironmentNames(t *testing.T) {
	m := offline(t)
	t.Setenv("TPM2_P11_CONF", m.path("absent.conf"))
	var errs strings.Builder
	a := &app{in: strings.NewReader(""), out: &errs, err: &errs, ask: m.ask}
	if code := a.run(t.Context(), []string{"key", "list"}); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	contains(t, "the refusal", errs.String(), "$TPM2_P11_CONF: open "+m.path("absent.conf"), "set TPM2_P11_CONF to another file, or unset it")
	if _, err := os.Stat(m.path("store")); err == nil {
		t.Error("a store was made")
	}
}
