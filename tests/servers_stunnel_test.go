package tests

import (
	"errors"
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// stunnel, as docs/stunnel.md configures it, leaves its terminal and serves with a key that is bound to PCRs.
func TestServersStunnel(t *testing.T) {
	t.Parallel()
	s := newTLSServer(t, "rsa2048")
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	go func() {
		for {
			conn, err := plain.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	conf := s.write("web.conf", s.documented("stunnel.md", "ini", 0,
		"accept = 443", "accept = "+s.address, "127.0.0.1:80", plain.Addr().String(), "/etc/stunnel/web.crt", s.path("web.crt"),
		"/var/run/stunnel4/web.pid", s.path("stunnel.pid"), "/var/log/stunnel4/web.log", s.path("error.log"),
		"/usr/local/lib/pkcs11/tpm2-p11.so", module))
	// As the unit's drop-in says: as a user that may open the TPM, and that the keys' files belong to.
	s.run("chown", "-R", "stunnel4:", s.dir, filepath.Dir(s.tpm.Socket()))
	s.command("setpriv", "--reuid=stunnel4", "--regid=stunnel4", "--clear-groups", "stunnel4", conf)
	server := s.pid("stunnel.pid")
	s.serves(server)
	s.handshakes(500, 1)
	s.handshakes(320, 16)
	s.during(func() {
		for range 3 {
			if err := syscall.Kill(server, syscall.SIGHUP); err != nil {
				t.Error(err)
			}
			time.Sleep(500 * time.Millisecond)
		}
	}, func(err error) bool { // it listens anew: who had not been accepted is reset, and nobody listens for a moment
		return cutOff(err) || errors.Is(err, syscall.ECONNREFUSED)
	})
	s.killsHelpers()
	s.handshakes(50, 4)
	s.undisturbed()
	s.refusesOtherPCRs()
	if err := syscall.Kill(server, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.ends()
}
