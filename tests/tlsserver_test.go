package tests

import (
	"bufio"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// A Go server whose certificate's key is in the TPM answers curl with either version of TLS, and refuses when the key's policy does.
func TestTLSServer(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.tpm2p11("init", "--no-pin")
	server := m.tlsServer()
	for _, kind := range []string{"rsa2048", "p256"} {
		m.tpm2p11("key", "create", kind, "--type", kind, "--pcr", "sha256:7")
		m.tpm2p11("key", "self-sign", kind, "--subject", "CN=www.example.com", "--dns", "www.example.com", "--out", kind+".crt")
	}
	versions := map[string][]string{"TLSv1.2": {"--tlsv1.2", "--tls-max", "1.2"}, "TLSv1.3": {"--tlsv1.3"}}
	fetch := func(kind, port string, options ...string) []string {
		return append(options, "--verbose", "--silent", "--show-error", "--max-time", "60", "--cacert", kind+".crt",
			"--resolve", "www.example.com:"+port+":127.0.0.1", "https://www.example.com:"+port+"/")
	}
	for _, kind := range []string{"rsa2048", "p256"} {
		port, stop := m.serve(kind, server)
		for version, options := range versions {
			r := m.run("curl", fetch(kind, port, options...)...)
			if want := fmt.Sprintf("hello from %q", kind); !strings.Contains(r.stdout, want) || !strings.Contains(r.stderr, "SSL connection using "+version) {
				t.Errorf("%s with %s: %s", kind, version, r.all())
			}
		}
		m.tpm.Count(t) // waits until the server has let the TPM go
		stop()
	}

	port, stop := m.serve("p256", server)
	m.tpm.Extend(t, "sha256", 7, []byte("another loader"))
	for version, options := range versions {
		if r := m.start("curl", fetch("p256", port, options...)...); r.code == 0 {
			t.Errorf("a bound key serves %s after PCR 7 changed: %s", version, r.all())
		}
	}
	m.tpm.Count(t)
	if log := stop(); !strings.Contains(log, "PCR7") {
		t.Errorf("the server's log does not say why:\n%s", log)
	}
}

// tlsServer builds the server of the examples.
func (m *machine) tlsServer() string {
	m.t.Helper()
	server := m.path("tls-server")
	build := exec.Command("go", "build", "-o", server, "../examples/tls-server")
	if out, err := build.CombinedOutput(); err != nil {
		m.t.Fatalf("go build: %v\n%s", err, out)
	}
	return server
}

// serve starts the server, a program and what it is given first, with a key and waits until it listens. stop ends it and gives what it said.
func (m *machine) serve(label string, server ...string) (port string, stop func() (log string)) {
	m.t.Helper()
	port = freePort(m.t)
	address := net.JoinHostPort("127.0.0.1", port)
	c := exec.Command(server[0], append(server[1:], "-listen", address, label)...)
	c.Env, c.Dir = m.env, m.dir
	stderr, err := c.StderrPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		m.t.Fatal(err)
	}
	said := make(chan string, 1)
	go func() {
		var log strings.Builder
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			fmt.Fprintln(&log, lines.Text())
		}
		said <- log.String()
	}()
	stopped := false
	stop = func() string {
		if stopped {
			return ""
		}
		stopped = true
		c.Process.Kill()
		log := <-said
		c.Wait()
		return log
	}
	m.t.Cleanup(func() { stop() })
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		connection, err := net.Dial("tcp", address)
		if err == nil {
			connection.Close()
			break
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("the server does not listen: %v\n%s", err, stop())
		}
	}
	return port, stop
}
