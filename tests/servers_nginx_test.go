package tests

import (
	"syscall"
	"testing"
	"time"
)

// nginx, as docs/nginx.md configures it, serves with a key that is bound to PCRs: its workers are www-data and cannot open the TPM.
func TestServersNginx(t *testing.T) {
	t.Parallel()
	s := newTLSServer(t, "rsa2048")
	conf := s.write("nginx.conf", s.documented("nginx.md", "nginx", 0,
		"listen 443", "listen "+s.address, "/run/nginx.pid", s.path("nginx.pid"), "/etc/nginx/web.crt", s.path("web.crt"),
		"/var/log/nginx/", s.dir+"/"))
	// What the unit's drop-in says is in every machine's environment.
	s.documented("nginx.md", "ini", 0, "PKCS11_MODULE_PATH=/usr/local/lib/pkcs11/tpm2-p11.so", "")
	s.command("nginx", "-c", conf)
	master := s.pid("nginx.pid")
	s.endsWith(master)
	s.answers()

	workers := s.children(master)
	if len(workers) != 4 {
		t.Fatalf("%d workers", len(workers))
	}
	for _, worker := range workers {
		s.unprivileged(worker, "www-data")
	}
	s.handshakes(500, 1)
	s.handshakes(320, 16)

	s.during(func() {
		for range 3 {
			s.command("nginx", "-c", conf, "-s", "reload")
			time.Sleep(500 * time.Millisecond)
		}
	}, nil)
	s.during(func() {
		for range 3 {
			if workers := s.children(master); len(workers) > 0 {
				_ = syscall.Kill(workers[0], syscall.SIGKILL)
			}
			time.Sleep(500 * time.Millisecond)
		}
	}, cutOff)
	s.killsHelpers()
	s.handshakes(50, 4)
	if n := len(s.helpers()); n != 2 {
		t.Errorf("%d processes help, one and its supervisor should", n)
	}
	s.refusesOtherPCRs()

	s.command("nginx", "-c", conf, "-s", "stop")
	s.ends()
}
