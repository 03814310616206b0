package tests

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// tlsServer is a server whose key is in the machine's TPM, bound to PCRs.
type tlsServer struct {
	*machine
	address string
	roots   *x509.CertPool
	before  tally // of the TPM, before the server began
	master  int   // its first process
	files   int   // that this had open when it began to serve

	underway sync.RWMutex // held, not alone, by each handshake of a load
	over     atomic.Int64 // of those
}

// newTLSServer makes the key and its certificate, web.crt, in a machine whose log is a file. Nothing listens yet.
func newTLSServer(t *testing.T, kind string) *tlsServer {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("a server's workers give up root's rights: run this test as root")
	}
	m := newMachine(t, "")
	// The servers' processes must find what they may read, and their folder is their test's.
	m.show(m.dir)
	m.write("tpm2-p11.conf", fmt.Sprintf("tpm = %q\nstore = %q\nlog = \"file:%s\"\n", m.tpm.Address(), m.path("store"), m.path("tpm2-p11.log")))
	m.tpm2p11("init", "--label", "web", "--no-pin")
	m.tpm2p11("key", "create", "web", "--type", kind, "--pcr", "sha256:0,1,2,7")
	m.tpm2p11("key", "self-sign", "web", "--subject", "CN=localhost", "--dns", "localhost", "--out", "web.crt")
	s := &tlsServer{machine: m, roots: x509.NewCertPool(), address: "127.0.0.1:" + freePort(t)}
	if !s.roots.AppendCertsFromPEM(m.read("web.crt")) {
		t.Fatal("web.crt holds no certificate")
	}
	if err := os.Chmod(m.path("web.crt"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.before = s.tally()
	t.Cleanup(func() {
		if t.Failed() {
			for _, log := range []string{"tpm2-p11.log", "error.log", "output.log"} {
				text, _ := os.ReadFile(m.path(log))
				t.Logf("%s:\n%s", log, last(string(text), 3000))
			}
		}
	})
	return s
}

// documented is the n-th block of a kind in a page of docs, with the page's places put where the test's are.
func (s *tlsServer) documented(page, kind string, n int, places ...string) string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join("../docs", page))
	if err != nil {
		s.t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)\n```"+kind+"\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(blocks) <= n {
		s.t.Fatalf("%s has %d blocks of %s", page, len(blocks), kind)
	}
	block := blocks[n][1]
	for i := 0; i < len(places); i += 2 {
		if !strings.Contains(block, places[i]) {
			s.t.Fatalf("%s does not speak of %s:\n%s", page, places[i], block)
		}
		block = strings.ReplaceAll(block, places[i], places[i+1])
	}
	return block
}

// command runs a program that leaves others running behind it; its output goes to a file, which these may keep open.
func (s *tlsServer) command(program string, args ...string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	output, err := os.OpenFile(s.path("output.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		s.t.Fatal(err)
	}
	defer output.Close()
	c := exec.CommandContext(ctx, program, args...)
	c.Dir, c.Env, c.Stdout, c.Stderr = s.dir, s.env, output, output
	if err := c.Run(); err != nil {
		s.t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, s.read("output.log"))
	}
}

// pid reads a file that a server wrote.
func (s *tlsServer) pid(file string) int {
	s.t.Helper()
	var pid int
	s.eventually(file+" has the server's process", func() bool {
		text, err := os.ReadFile(s.path(file))
		if err != nil {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
		return err == nil
	})
	return pid
}

// serves waits until the server does, whose first process this is. That is stopped at the test's end, and whatever it left.
func (s *tlsServer) serves(master int) {
	s.t.Helper()
	s.endsWith(master)
	s.answers()
	s.master = master
	s.files = s.descriptors()
}

// descriptors are how many files the master has open.
func (s *tlsServer) descriptors() int {
	s.t.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.master))
	if err != nil {
		s.t.Fatal(err)
	}
	return len(open)
}

// endsWith stops the server's master at the test's end, and whatever it left.
func (s *tlsServer) endsWith(master int) {
	s.t.Cleanup(func() {
		workers := s.children(master)
		_ = syscall.Kill(master, syscall.SIGTERM)
		for deadline := time.Now().Add(time.Minute); runs(master) && time.Now().Before(deadline); {
			time.Sleep(10 * time.Millisecond)
		}
		for _, pid := range append(workers, master) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
}

// runs tells whether a process does; one that nobody waited for has no command line any more.
func runs(pid int) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && len(line) > 0
}

// children are a process's.
func (s *tlsServer) children(parent int) (pids []int) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", parent))
	if err != nil {
		return nil
	}
	for field := range strings.FieldsSeq(string(text)) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// handshake connects once, in the version of TLS that its number chooses, and asks for a page if the server has one.
func (s *tlsServer) handshake(n int64) error {
	versions := [...]uint16{tls.VersionTLS12, tls.VersionTLS13}
	version := versions[n%2]
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	dialer := tls.Dialer{Config: &tls.Config{RootCAs: s.roots, ServerName: "localhost", MinVersion: version, MaxVersion: version}}
	conn, err := dialer.DialContext(ctx, "tcp", s.address)
	if err != nil {
		return fmt.Errorf("handshake %d: %w", n, err)
	}
	defer conn.Close()
	return nil
}

// answers waits until the server does.
func (s *tlsServer) answers() {
	s.t.Helper()
	var err error
	deadline := time.Now().Add(time.Minute)
	for n := int64(0); ; n++ {
		if err = s.handshake(n); err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("the server does not answer: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// handshakes makes n one after another, by several clients at once. Not one may fail.
func (s *tlsServer) handshakes(n int64, clients int) {
	s.t.Helper()
	if failed := s.load(clients, func() bool { return false }, n, nil); len(failed) > 0 {
		s.t.Errorf("%d of %d handshakes failed: %v", len(failed), n, errors.Join(failed[:min(5, len(failed))]...))
	}
}

// during makes handshakes while something happens, and gives what failed, without what tolerated accepts.
func (s *tlsServer) during(happens func(), tolerated func(error) bool) {
	s.t.Helper()
	var ended atomic.Bool
	result := make(chan []error, 1)
	go func() { result <- s.load(4, ended.Load, 0, tolerated) }()
	func() {
		defer ended.Store(true)
		happens()
	}()
	if failed := <-result; len(failed) > 0 {
		s.t.Errorf("%d handshakes failed: %v", len(failed), errors.Join(failed[:min(5, len(failed))]...))
	}
}

// load makes handshakes until it is over, or until there were most (if that is not 0).
func (s *tlsServer) load(clients int, over func() bool, most int64, tolerated func(error) bool) (failed []error) {
	var (
		begun atomic.Int64
		mu    sync.Mutex
		wait  sync.WaitGroup
	)
	for range clients {
		wait.Go(func() {
			for !over() {
				n := begun.Add(1)
				if most > 0 && n > most {
					return
				}
				s.underway.RLock()
				err := s.handshake(n)
				s.underway.RUnlock()
				s.over.Add(1)
				if err != nil && (tolerated == nil || !tolerated(err)) {
					mu.Lock()
					failed = append(failed, err)
					mu.Unlock()
				}
			}
		})
	}
	wait.Wait()
	return failed
}

// goesOn waits until the handshakes that have begun are over, and so are some that begin after them.
func (s *tlsServer) goesOn() {
	s.t.Helper()
	s.underway.Lock()
	before := s.over.Load()
	s.underway.Unlock()
	s.eventually("handshakes go on", func() bool { return s.over.Load() >= before+8 })
}

// cutOff tells a connection whose worker was killed.
func cutOff(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// unprivileged demands that a process has given up root's rights and cannot open the TPM.
func (s *tlsServer) unprivileged(pid int, user string) {
	s.t.Helper()
	uid := strings.TrimSpace(s.run("id", "-u", user).stdout)
	s.eventually(fmt.Sprintf("process %d is %s", pid, user), func() bool { // a worker begins as its master
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			s.t.Fatal(err)
		}
		return strings.Contains(string(status), fmt.Sprintf("\nUid:\t%s\t%[1]s\t%[1]s\t%[1]s\n", uid))
	})
	s.refused(nil, "setpriv", "--reuid="+user, "--clear-groups", "test", "-r", s.tpm.Socket())
}

// refusesOtherPCRs changes what was measured: no handshake is possible any more, and the log says why.
func (s *tlsServer) refusesOtherPCRs() {
	s.t.Helper()
	s.tpm.Extend(s.t, "sha256", 7, []byte("another loader"))
	for n := range int64(2) {
		if err := s.handshake(n); err == nil {
			s.t.Errorf("handshake %d is possible although PCR 7 changed", n)
		}
	}
	if log := string(s.read("tpm2-p11.log")); !strings.Contains(log, "PCR7") && !strings.Contains(log, "PCR 7") {
		s.t.Errorf("the log does not say why:\n%s", last(log, 2000))
	}
}

// killsHelpers kills the helper under load: nobody notices. A request is sent twice at most, so that none may lose two helpers. A killed
// process leaves its policy session in a TPM without a resource manager, which has room for three.
func (s *tlsServer) killsHelpers() {
	s.t.Helper()
	s.during(func() {
		for range 2 {
			if s.killHelpers(false) == 0 {
				s.t.Error("there was no helper")
			}
			s.goesOn()
		}
	}, nil)
}

// undisturbed demands that the master has no more files open than when it began to serve, and no zombie.
func (s *tlsServer) undisturbed() {
	s.t.Helper()
	s.eventually("the master has its files alone, and no zombie", func() bool {
		return s.descriptors() <= s.files && len(s.zombies(s.master)) == 0
	})
}

// ends demands that a stopped server leaves no helper and the TPM as it was, and sweeps up what the killed ones left in that.
func (s *tlsServer) ends() {
	s.t.Helper()
	s.helpersEnd()
	s.machine.undisturbed(s.before, true)
	s.tpm.Restart(s.t)
}
