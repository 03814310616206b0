package tests

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// The service manager hears that the service is ready, that it lives, and that it stops; what was begun then ends in peace.
func TestServersServiceTellsItsManager(t *testing.T) {
	t.Parallel()
	s := newService(t, "", "--type", "p256")
	s.kill()
	s.begin("WATCHDOG_USEC=20000")
	s.tells("WATCHDOG=1")
	s.tells("WATCHDOG=1")
	s.pkcs11Tool("--list-objects")
	if err := s.process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for told := ""; told != "STOPPING=1"; {
		b := make([]byte, 100)
		n, err := s.told.Read(b)
		if err != nil {
			t.Fatalf("the service manager was told %q at last, %v", told, err)
		}
		told = string(b[:n])
	}
	if err := s.process.Wait(); err != nil {
		t.Errorf("the service ends with %v", err)
	}
	s.process = nil
	for _, left := range []string{"socket", "metrics"} {
		if _, err := os.Lstat(s.path(left)); err == nil {
			t.Errorf("%s is left", left)
		}
	}
}

// systemd holds the socket: the first client starts the service, and the socket stays when it ends.
func TestServersServiceOfASocket(t *testing.T) {
	t.Parallel()
	s := newService(t, "", "--type", "p256")
	s.kill()
	_ = os.Remove(s.path("socket"))
	s.process = exec.Command("systemd-socket-activate", "--listen="+s.path("socket"), command, "--config", s.path("server.conf"), "serve", "--socket", "/nowhere/socket")
	s.log = new(journal)
	s.process.Stderr = s.log
	if err := s.process.Start(); err != nil {
		t.Fatal(err)
	}
	s.eventually("systemd listens", func() bool { _, err := os.Lstat(s.path("socket")); return err == nil })
	if list := s.pkcs11Tool("--list-objects").stdout; !strings.Contains(list, "web") {
		t.Errorf("no key is served:\n%s", list)
	}
	if err := s.process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := s.process.Wait(); err != nil {
		t.Errorf("the service ends with %v", err)
	}
	s.process = nil
	if _, err := os.Lstat(s.path("socket")); err != nil {
		t.Errorf("the service takes systemd's socket away: %v", err)
	}
}

// SIGHUP reads the configuration again. It holds for clients that are connected; one that is wrong is told, and the one before stays.
func TestServersServiceReadsItsConfigurationAgain(t *testing.T) {
	t.Parallel()
	const access = "[[access]]\nusers = [%q]\npurposes = [\"sign\"]\n"
	s := newService(t, "log_level = \"debug\"\n"+fmt.Sprintf(access, "www-data"), "--type", "p256")
	conf := strings.Split(string(s.read("server.conf")), "[[access]]")[0]
	hangup := func(text, says string) {
		t.Helper()
		s.write("server.conf", text)
		before := strings.Count(s.log.String(), says)
		if err := s.process.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		s.eventually("the log says "+says, func() bool { return strings.Count(s.log.String(), says) > before })
	}
	sees := func(user string, want bool) {
		t.Helper()
		if r := s.as(user, "--list-objects"); strings.Contains(r.all(), "label:      web") != want {
			t.Errorf("%s sees\n%s", user, r.all())
		}
	}
	sees("www-data", true)
	sees("mail", false)
	s.write("public.auth", "everybody's")
	if err := os.Chmod(s.path("public.auth"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []string{"socket = 7\n", fmt.Sprintf("owner_auth_file = %q\n", s.path("public.auth"))} {
		hangup(conf+wrong, "cannot be read")
		sees("www-data", true)
	}
	hangup(conf+fmt.Sprintf(access, "mail"), "was read again")
	sees("www-data", false)
	sees("mail", true)
	s.run(command, "--config", s.path("server.conf"), "key", "create", "late", "--type", "p256")
	if r := s.as("mail", "--list-objects"); !strings.Contains(r.all(), "label:      late") {
		t.Errorf("a key that was made later is not seen:\n%s", r.all())
	}
	// With the last table the socket closes to others, and with the first it opens.
	hangup(conf, "was read again")
	sees("mail", false)
	hangup(conf+fmt.Sprintf(access, "mail"), "was read again")
	sees("mail", true)
}

// The numbers are at a socket that the service's user alone can read.
func TestServersServiceCounts(t *testing.T) {
	t.Parallel()
	s := newService(t, "", "--type", "p256")
	s.write("in.txt", "the contract")
	s.pkcs11Tool("--sign", "--mechanism", "ECDSA-SHA256", "--label", "web", "--input-file", "in.txt", "--output-file", "in.sig")
	numbers := s.run("curl", "--silent", "--fail", "--unix-socket", s.path("metrics"), "http://localhost/metrics").stdout
	for _, want := range []string{`tpm2_p11_calls_total{function="C_Sign",rv="CKR_OK"}`, `tpm2_p11_tpm_commands_total{command="TPM2_Sign",code="0x000"}`} {
		if !strings.Contains(numbers, want) {
			t.Errorf("%s is not in\n%s", want, numbers)
		}
	}
	if info, err := os.Stat(s.path("metrics")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the numbers' socket: %v, %v", info, err)
	}
	s.refused([]string{"of this machine alone"}, command, "--config", s.path("server.conf"), "serve", "--socket", s.path("other"), "--metrics", "0.0.0.0:9090")
	s.refused([]string{"--metrics goes with --socket"}, command, "serve", "--fd", "3", "--metrics", "127.0.0.1:9090")
}

// Whoever may manage a token makes and deletes keys in it through the socket.
func TestServersServiceForManagers(t *testing.T) {
	t.Parallel()
	s := newService(t, "[[access]]\nusers = [\"www-data\"]\npurposes = [\"sign\", \"manage\"]\n[[access]]\nusers = [\"mail\"]\npurposes = [\"sign\"]\n", "--type", "p256")
	for user, want := range map[string]int{"www-data": 0, "mail": 1} {
		if r := s.as(user, "--keypairgen", "--key-type", "EC:prime256v1", "--label", user); r.code != want {
			t.Errorf("%s makes a key with exit code %d\n%s", user, r.code, r.all())
		}
	}
	if r := s.as("www-data", "--delete-object", "--type", "privkey", "--label", "www-data"); r.code != 0 {
		t.Errorf("it does not delete it:\n%s", r.all())
	}
}
