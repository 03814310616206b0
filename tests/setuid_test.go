package tests

import (
	"os"
	"strings"
	"testing"
)

// Who runs a program with more rights than their own does not choose its configuration: not by a variable, nor by their home.
func TestASetuidProgramsEnvironmentIsNotRead(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.tpm2p11("init", "--label", "theirs", "--no-pin")
	program := m.host("setuid")
	if out := m.run(program, module).stdout; !strings.Contains(out, "secure: 0") || !strings.Contains(out, "token: theirs") {
		t.Fatalf("as any program:\n%s", out)
	}

	m.show(m.dir)
	home := m.path("home")
	if err := os.MkdirAll(home+"/.config/tpm2-p11", 0o755); err != nil {
		t.Fatal(err)
	}
	conf := strings.Replace(string(m.read("tpm2-p11.conf")), `"stderr"`, `"file:`+m.path("log")+`"`, 1)
	for _, file := range []string{"tpm2-p11.conf", "home/.config/tpm2-p11/tpm2-p11.conf"} {
		if err := os.Chmod(m.write(file, conf), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(program, os.ModeSetuid|0o755); err != nil {
		t.Fatal(err)
	}
	for name, variable := range map[string]string{
		"a variable": "TPM2_P11_CONF=" + m.path("tpm2-p11.conf"), "their folder": "XDG_CONFIG_HOME=" + home + "/.config", "their home": "HOME=" + home,
	} {
		out := m.run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", "-i", variable, program, module).stdout
		if !strings.Contains(out, "secure: 1") {
			t.Fatalf("%s: the program has no more rights than who runs it: is %s mounted nosuid?\n%s", name, m.dir, out)
		}
		if strings.Contains(out, "token: theirs") {
			t.Errorf("%s is believed:\n%s", name, out)
		}
	}
	if _, err := os.Stat(m.path("log")); err == nil {
		t.Error("a log was opened where they wanted it")
	}
}
