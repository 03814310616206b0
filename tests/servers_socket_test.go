package tests

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
)

// service is a running `tpm2-p11 serve --socket` on a machine whose applications know its socket and no TPM.
type service struct {
	*machine
	process *exec.Cmd
	log     *journal
	told    *net.UnixConn // what it tells the service manager
}

// journal is what a running process writes.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(line []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(line)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// newService makes two keys, "web" and, as asked for, "mail", and serves them with more lines of configuration.
func newService(t *testing.T, config string, mail ...string) *service {
	t.Helper()
	m := newMachine(t, config)
	m.show(m.dir)
	// Other users may not be able to look into the folder that the checkout lies in.
	m.run("install", "-m", "755", module, m.path("module.so"))
	oneKey(m)
	m.tpm2p11(append([]string{"key", "create", "mail"}, mail...)...)
	s := &service{machine: m}
	if err := os.Rename(m.path("tpm2-p11.conf"), m.path("server.conf")); err != nil {
		t.Fatal(err)
	}
	m.write("tpm2-p11.conf", fmt.Sprintf("socket = %q\nlog = \"stderr\"\n", m.path("socket")))
	if err := os.Chmod(m.path("tpm2-p11.conf"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.begin()
	t.Cleanup(func() {
		s.end()
		if t.Failed() {
			t.Logf("the service's log:\n%s", last(s.log.String(), 3000))
		}
	})
	return s
}

// end stops the service in peace, so that it leaves nothing in the TPM.
func (s *service) end() {
	if s.process == nil {
		return
	}
	_ = s.process.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(time.Minute, func() { _ = s.process.Process.Kill() })
	_ = s.process.Wait()
	kill.Stop()
	s.process = nil
}

// begin starts the service, with more of an environment, and waits until it is ready, as a service manager does, which hears all that
// it is told later.
func (s *service) begin(env ...string) {
	s.t.Helper()
	manager := s.manage()
	s.process = exec.Command(command, "--config", s.path("server.conf"), "serve", "--socket", s.path("socket"), "--metrics", "unix:"+s.path("metrics"))
	s.log = new(journal)
	s.process.Env = append(append(s.env, "NOTIFY_SOCKET="+s.path("notify")), env...)
	s.process.Stderr = s.log
	if err := s.process.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.told = manager
	s.tells("READY=1")
}

// manage is a service manager's ear.
func (s *service) manage() *net.UnixConn {
	s.t.Helper()
	_ = os.Remove(s.path("notify"))
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: s.path("notify"), Net: "unixgram"})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { manager.Close() })
	return manager
}

// tells demands what the service tells its manager next.
func (s *service) tells(want string) {
	s.t.Helper()
	if err := s.told.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		s.t.Fatal(err)
	}
	told := make([]byte, 100)
	n, err := s.told.Read(told)
	if err != nil || string(told[:n]) != want {
		s.t.Fatalf("the service manager was told %q, not %q: %v\n%s", told[:n], want, err, s.log)
	}
}

// kill ends the service as it stands.
func (s *service) kill() {
	s.t.Helper()
	_ = s.process.Process.Kill()
	_ = s.process.Wait()
}

// as runs pkcs11-tool as another user.
func (s *service) as(user string, args ...string) result {
	s.t.Helper()
	return s.start("setpriv", append([]string{"--reuid=" + user, "--clear-groups", "--regid=nogroup", "pkcs11-tool", "--module", s.path("module.so")}, args...)...)
}

// Who may use a key, and for what, is decided by the user that connects; it sees no other key, and changes none.
func TestServersSocketKnowsItsClients(t *testing.T) {
	t.Parallel()
	s := newService(t, "[[access]]\nusers = [\"www-data\"]\nkeys = [\"web\"]\npurposes = [\"sign\"]\n"+
		"[[access]]\nusers = [\"mail\"]\nkeys = [\"mail\"]\npurposes = [\"decrypt\"]\n"+
		"[[access]]\ngroups = [\"games\"]\nkeys = [\"mail\"]\ntoken = \"tpm2-p11\"\npurposes = [\"sign\"]\n", "--type", "p256", "--use", "sign,derive")
	s.write("in.txt", "the contract")
	for _, file := range []string{"in.txt"} {
		if err := os.Chmod(s.path(file), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	list := s.as("www-data", "--list-objects")
	if list.code != 0 || !strings.Contains(list.all(), "label:      web") || strings.Contains(list.all(), "label:      mail") {
		t.Errorf("www-data sees\n%s", list.all())
	}
	signed := s.as("www-data", "--sign", "--mechanism", "ECDSA-SHA256", "--label", "web", "--input-file", "in.txt")
	if signed.code != 0 {
		t.Fatalf("www-data cannot sign: %s", signed.all())
	}
	made := s.as("www-data", "--keypairgen", "--key-type", "EC:prime256v1", "--label", "new")
	if made.code == 0 || !strings.Contains(made.all(), "CKR_TOKEN_WRITE_PROTECTED") {
		t.Errorf("www-data makes a key:\n%s", made.all())
	}
	// A key that is this user's for decryption alone does not sign.
	refused := s.as("mail", "--sign", "--mechanism", "ECDSA-SHA256", "--label", "mail", "--input-file", "in.txt")
	if refused.code == 0 || !strings.Contains(refused.all(), "CKR_KEY_FUNCTION_NOT_PERMITTED") {
		t.Errorf("mail signs:\n%s", refused.all())
	}
	if nobody := s.as("nobody", "--list-objects"); nobody.code == 0 || strings.Contains(nobody.all(), "label:") {
		t.Errorf("nobody sees\n%s", nobody.all())
	}
	byGroup := s.start("setpriv", "--reuid=nobody", "--clear-groups", "--regid=games", "pkcs11-tool", "--module", s.path("module.so"), "--list-objects")
	if byGroup.code != 0 || strings.Contains(byGroup.all(), "label:      web") || !strings.Contains(byGroup.all(), "label:      mail") {
		t.Errorf("a member of games sees\n%s", byGroup.all())
	}
	// Root may use all, and the TPM agrees with what the service does.
	s.pkcs11Tool("--sign", "--mechanism", "ECDSA-SHA256", "--label", "mail", "--signature-format", "openssl", "--input-file", "in.txt", "--output-file", "in.sig")
	s.run(command, "--config", s.path("server.conf"), "key", "public", "mail", "--out", "mail.pub")
	s.opensslVerify("mail.pub", "in.sig")

	if err := s.process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := s.process.Wait(); err != nil {
		t.Errorf("the service ends with %v", err)
	}
	s.process = nil
	log := s.log.String()
	if !strings.Contains(log, "a client was refused") || !strings.Contains(log, "user=65534") {
		t.Errorf("the log does not tell of nobody:\n%s", log)
	}
	if !regexp.MustCompile(`"C_SignInit failed" client=\d+ user=8 `).MatchString(log) {
		t.Errorf("the log does not tell who was refused a signature:\n%s", log)
	}
}

// Over the socket, applications and their forked children work as they do with the TPM, and outlive the service.
func TestServersSocketServesHosts(t *testing.T) {
	t.Parallel()
	s := newService(t, "", "--use", "decrypt")
	s.run(s.host("buffers"), module)
	for _, scenario := range []string{"workers", "daemon", "amid", "closing", "threaded"} {
		s.forkedHost(scenario, func(string) {})
	}
	s.forkedHost("helper dies", func(string) {
		s.kill()
		s.begin()
	})
	begun := make(chan struct{})
	s.forkedHost("service restarts", func(string) {
		s.kill()
		time.AfterFunc(250*time.Millisecond, func() { // a restart takes its time, and a busy machine adds to it
			s.begin()
			close(begun)
		})
	})
	<-begun
	if n := len(s.helpers()); n != 0 {
		t.Errorf("%d helpers run beside the service", n)
	}
}

// A server in Go that may not use the TPM serves with a key of the service's, also after that was restarted. Who is in no [[access]]
// table is told so at once.
func TestServersSocketServesGo(t *testing.T) {
	t.Parallel()
	s := newService(t, "[[access]]\nusers = [\"www-data\"]\nkeys = [\"web\"]\npurposes = [\"sign\"]\n", "--type", "p256")
	s.run(command, "--config", s.path("server.conf"), "key", "self-sign", "web", "--subject", "CN=www.example.com", "--dns", "www.example.com", "--out", "web.crt")
	server := s.tlsServer()
	as := func(user string) []string {
		return []string{"setpriv", "--reuid=" + user, "--regid=nogroup", "--clear-groups", server}
	}
	port, stop := s.serve("web", as("www-data")...)
	for range 2 {
		for _, version := range [][]string{{"--tlsv1.2", "--tls-max", "1.2"}, {"--tlsv1.3"}} {
			s.run("curl", append(version, "--silent", "--show-error", "--max-time", "60", "--cacert", "web.crt",
				"--resolve", "www.example.com:"+port+":127.0.0.1", "https://www.example.com:"+port+"/")...)
		}
		s.kill()
		s.begin()
	}
	stop()
	s.refused([]string{"lets this user use no key"}, as("nobody")[0], append(as("nobody")[1:], "-listen", "127.0.0.1:0", "web")...)
	s.refused([]string{"that the server lets this user use"}, as("www-data")[0], append(as("www-data")[1:], "-listen", "127.0.0.1:0", "mail")...)
}

// A socket where others could put another one is not served, nor one that is served already.
func TestServersSocketPlace(t *testing.T) {
	t.Parallel()
	s := newService(t, "", "--type", "p256")
	serve := []string{"--config", s.path("server.conf"), "serve", "--socket"}
	s.refused([]string{"served already"}, command, append(serve, s.path("socket"))...)
	s.refused([]string{"is no socket"}, command, append(serve, s.path("server.conf"))...)
	s.refused([]string{"--fd 0 is no control socket"}, command, "serve", "--fd", "0")
	if err := os.Mkdir(s.path("open"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(s.path("open"), 0o777); err != nil {
		t.Fatal(err)
	}
	s.refused([]string{"can be written by others"}, command, append(serve, s.path("open/socket"))...)
	if err := os.Mkdir(s.path("open/inner"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.refused([]string{"can be written by others", s.path("open")}, command, append(serve, s.path("open/inner/socket"))...)
	if err := os.Symlink(s.path("open/inner"), s.path("link")); err != nil {
		t.Fatal(err)
	}
	s.refused([]string{"can be written by others", s.path("open")}, command, append(serve, s.path("link/socket"))...)
	if err := os.Chown(s.path("open"), 33, 33); err != nil {
		t.Fatal(err)
	}
	s.refused([]string{"belongs to user 33"}, command, append(serve, s.path("open/socket"))...)
}

// systemd understands the units, and finds their sandbox strict.
func TestServersUnits(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, unit := range []string{"tpm2-p11.socket", "tpm2-p11.service.in"} {
		text, err := os.ReadFile(filepath.Join("../packaging", unit))
		if err != nil {
			t.Fatal(err)
		}
		text = bytes.ReplaceAll(text, []byte("@BINDIR@/tpm2-p11"), []byte(command))
		if err := os.WriteFile(filepath.Join(dir, strings.TrimSuffix(unit, ".in")), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	service := filepath.Join(dir, "tpm2-p11.service")
	page, err := os.ReadFile("../docs/serve.md")
	if err != nil {
		t.Fatal(err)
	}
	_, dropIn, found := strings.Cut(string(page), "```ini\n")
	dropIn, _, _ = strings.Cut(dropIn, "```")
	if err := os.Mkdir(service+".d", 0o755); err != nil || !found {
		t.Fatal(err, found)
	}
	if err := os.WriteFile(filepath.Join(service+".d", "metrics.conf"), []byte(strings.ReplaceAll(dropIn, "/usr/local/bin/tpm2-p11", command)), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("systemd-analyze", "verify", "--man=no", service, filepath.Join(dir, "tpm2-p11.socket")).CombinedOutput()
	if err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
	out, err = exec.Command("systemd-analyze", "security", "--offline=true", "--threshold=20", service).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, last(string(out), 1500))
	}
}

// systemd understands what the servers' pages add to their units.
func TestServersDropIns(t *testing.T) {
	t.Parallel()
	for _, page := range []string{"nginx", "apache", "stunnel", "haproxy"} {
		text, err := os.ReadFile("../docs/" + page + ".md")
		if err != nil {
			t.Fatal(err)
		}
		_, dropIn, found := strings.Cut(string(text), "```ini\n[Service]\n")
		dropIn, _, _ = strings.Cut(dropIn, "```")
		unit := filepath.Join(t.TempDir(), page+".service")
		if err := os.Mkdir(unit+".d", 0o755); err != nil || !found {
			t.Fatal(page, err, found)
		}
		for file, content := range map[string]string{unit: "[Service]\nExecStart=/bin/true\n", unit + ".d/tpm2-p11.conf": "[Service]\n" + dropIn} {
			if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		out, err := exec.Command("systemd-analyze", "verify", "--man=no", unit).CombinedOutput()
		if err != nil || len(bytes.TrimSpace(out)) > 0 {
			t.Errorf("%s: %v\n%s", page, err, out)
		}
	}
}

// Clients of one service have nothing of each other's: no session object, no operation, no session.
func TestServersSocketKeepsClientsApart(t *testing.T) {
	story{
		ways: []transport{through("sign", "decrypt", "manage")},
		before: func(m *machine) {
			oneKey(m)
			m.write("in.txt", "the contract")
		},
		events: map[string]func(m *machine) string{
			// Somebody else lists, signs, and takes leave: pkcs11-tool ends with C_Finalize.
			"a neighbour": func(m *machine) string {
				neighbour := func(args ...string) string {
					return m.run("env", append([]string{"TPM2_P11_CONF=" + m.path("client.conf"), "pkcs11-tool", "--module", module}, args...)...).all()
				}
				neighbour("--sign", "--mechanism", "ECDSA-SHA256", "--label", "web", "--input-file", "in.txt", "--output-file", "sig")
				return strings.ReplaceAll(neighbour("--list-objects"), "\n", " ")
			},
		},
		app: func(a *application) {
			_, err := a.p11().GenerateKey(a.session, []*pkcs11.Mechanism{mechanism(pkcs11.CKM_AES_KEY_GEN)}, []*pkcs11.Attribute{
				pkcs11.NewAttribute(pkcs11.CKA_LABEL, "of mine alone"), pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
			})
			a.ok("C_GenerateKey", err)
			a.object(pkcs11.CKO_SECRET_KEY, "of mine alone")
			a.ok("C_SignInit", a.p11().SignInit(a.session, []*pkcs11.Mechanism{ecdsaSHA256()}, a.private("web")))
			if seen := a.happen("a neighbour"); !strings.Contains(seen, "web") || strings.Contains(seen, "of mine alone") {
				a.t.Errorf("a neighbour sees %s", seen)
			}
			signature, err := a.p11().Sign(a.session, message)
			a.ok("C_Sign", err)
			a.ok("C_Verify", a.verify(a.session, ecdsaSHA256(), a.public("web"), message, signature))
			a.object(pkcs11.CKO_SECRET_KEY, "of mine alone")
		},
	}.tell(t)
}
