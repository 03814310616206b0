package tests

import (
	"fmt"
	"slices"
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
	s.serves(master)

	workers := s.children(master)
	if len(workers) != 4 {
		t.Fatalf("%d workers", len(workers))
	}
	for _, worker := range workers {
		s.unprivileged(worker, "www-data")
	}
	s.reload(conf)
	s.files = s.descriptors() // at its first reload the master itself connects to the helper
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
	s.eventually("one process helps, and another one supervises it", s.twoHelp)
	s.undisturbed()

	// Workers cannot replace the whole helper; their master does when it forks anew.
	s.killHelpers(true)
	if err := s.handshake(0); err == nil || len(s.helpers()) != 0 {
		t.Errorf("a worker signs without a helper, or has started one (%v)", err)
	}
	s.reload(conf)
	s.handshakes(50, 4)
	s.undisturbed()
	s.refusesOtherPCRs()

	s.command("nginx", "-c", conf, "-s", "stop")
	s.ends()
}

// reload has nginx read its configuration again, and waits until other workers serve.
func (s *tlsServer) reload(conf string) {
	s.t.Helper()
	before := s.children(s.master)
	s.command("nginx", "-c", conf, "-s", "reload")
	s.eventually("other workers serve", func() bool {
		now := s.children(s.master)
		return len(now) == 4 && !slices.ContainsFunc(now, func(pid int) bool { return slices.Contains(before, pid) })
	})
	s.answers()
}

// In a token with a PIN the workers log in by themselves. The helper takes the login with it when it dies, and a reload brings it back;
// no PIN was tried in vain.
func TestServersNginxWithPIN(t *testing.T) {
	t.Parallel()
	s := newTLSServer(t, "p256")
	s.write("tpm2-p11.conf", fmt.Sprintf("tpm = %q\nstore = %q\nlog = \"file:%s\"\n", s.tpm.Address(), s.path("pin-store"), s.path("tpm2-p11.log")))
	s.write("web.pin", "123456")
	s.tpm2p11("init", "--label", "web", "--pin-file", "web.pin", "--so-pin-file", s.write("so.pin", "87654321"))
	s.tpm2p11("key", "create", "web", "--type", "p256", "--pin-file", "web.pin")
	s.tpm2p11("key", "self-sign", "web", "--subject", "CN=localhost", "--dns", "localhost", "--out", "web.crt", "--pin-file", "web.pin")
	s.roots.AppendCertsFromPEM(s.read("web.crt"))
	s.before = s.tally()
	conf := s.write("nginx.conf", s.documented("nginx.md", "nginx", 0,
		"listen 443", "listen "+s.address, "/run/nginx.pid", s.path("nginx.pid"), "/etc/nginx/web.crt", s.path("web.crt"),
		"/var/log/nginx/", s.dir+"/", "type=private", "type=private?pin-source=file:"+s.path("web.pin")))
	s.command("nginx", "-c", conf)
	master := s.pid("nginx.pid")
	s.serves(master)
	s.reload(conf)
	s.files = s.descriptors() // at its first reload the master itself connects to the helper
	s.handshakes(100, 4)

	if s.killHelpers(false) != 1 {
		t.Error("there was no helper")
	}
	if err := s.handshake(0); err == nil {
		t.Error("the login outlived the helper")
	}
	s.reload(conf)
	s.handshakes(100, 4)
	s.undisturbed()
	s.command("nginx", "-c", conf, "-s", "stop")
	s.ends()
}
