package tests

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
)

// sshServer lets an sshd take logins of the user that runs the test, by the keys in login.pub, and makes ssh call it server.example.com.
func sshServer(m *machine) {
	m.t.Helper()
	if os.Geteuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // as the package's unit does
			m.t.Fatal(err)
		}
	}
	me, err := user.Current()
	if err != nil {
		m.t.Fatal(err)
	}
	port := freePort(m.t)
	m.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "host_key")
	m.write("known_hosts", fmt.Sprintf("[127.0.0.1]:%s %s", port, m.read("host_key.pub")))
	m.write("sshd_config", fmt.Sprintf("ListenAddress 127.0.0.1\nPort %s\nHostKey %s\nAuthorizedKeysFile %s\nPidFile none\nStrictModes no\nUsePAM no\n"+
		"PasswordAuthentication no\nKbdInteractiveAuthentication no\n", port, m.path("host_key"), m.path("login.pub")))
	m.write("ssh_config", fmt.Sprintf("Host server.example.com\nHostName 127.0.0.1\nPort %s\nUser %s\nUserKnownHostsFile %s\nIdentityFile none\nBatchMode yes\n",
		port, me.Username, m.path("known_hosts")))
	for program, text := range map[string]string{
		"ssh":       "#!/bin/sh\nexec /usr/bin/ssh -F " + m.path("ssh_config") + ` "$@"`,
		"ssh-agent": "#!/bin/sh\nexec /usr/bin/ssh-agent -P '" + filepath.Dir(module) + `/*' "$@"`, // the module is not installed
	} {
		if err := os.WriteFile(m.path("bin/"+program), []byte(text), 0o755); err != nil {
			m.t.Fatal(err)
		}
	}
	sshd := exec.Command("/usr/sbin/sshd", "-D", "-E", m.path("sshd.log"), "-f", m.path("sshd_config"))
	if err := sshd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		_ = sshd.Process.Kill()
		_ = sshd.Wait()
		if m.t.Failed() {
			log, _ := os.ReadFile(m.path("sshd.log"))
			m.t.Logf("sshd: %s", log)
		}
	})
	m.eventually("sshd listens", func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// A login with a key behind a PIN: the agent asks for the PIN once, and refuses a wrong one. When the PCRs change, the server has no visitor.
func TestSSHLogin(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.prepare("ssh.md")
	m.tpm2p11("init", "--label", "ssh", "--pin-file", "pin", "--so-pin-file", "so-pin")
	for _, kind := range []string{"rsa2048", "p256"} {
		m.tpm2p11("key", "create", kind, "--type", kind, "--pcr", "sha256:7", "--pin-file", "pin")
	}
	m.write("login.pub", m.run("ssh-keygen", "-D", module).stdout)
	if err := os.WriteFile(m.path("bin/askpass"), []byte("#!/bin/sh\ncat "+m.path("answer")), 0o755); err != nil {
		t.Fatal(err)
	}
	m.env = append(m.env, "SSH_ASKPASS="+m.path("bin/askpass"), "SSH_ASKPASS_REQUIRE=force")
	agent := func(does string) (string, []string) {
		// An agent that ends with a card in it lets its process go as it is, with a session in a TPM without resource manager.
		return "env", []string{"ssh-agent", "sh", "-c", "ssh-add -s " + module + " || exit 1\n" + does + "\nstatus=$?\nssh-add -e " + module + "\nexit $status"}
	}
	login := "ssh -v -i login.pub server.example.com echo welcome"

	before := m.lockoutCounter()
	m.write("answer", "wrong-pin\n")
	program, args := agent("true")
	m.refused([]string{"Could not add card"}, program, args...)
	if after := m.lockoutCounter(); after != before+1 {
		t.Errorf("one wrong PIN moved the TPM's counter from %d to %d", before, after)
	}
	m.write("answer", "user-pin\n")
	keys := strings.SplitAfter(string(m.read("login.pub")), "\n")
	for _, key := range keys[:2] {
		m.write("login.pub", key)
		program, args = agent(login + " && " + login)
		if r := m.run(program, args...); strings.Count(r.stdout, "welcome\n") != 2 {
			t.Errorf("%s: %s", key, r.all())
		}
	}
	m.tpm.Extend(t, "sha256", 7, []byte("another loader"))
	m.refused([]string{"Permission denied (publickey)"}, program, args...)
}
