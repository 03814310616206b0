package tests

import (
	"fmt"
	"syscall"
	"testing"
	"time"
)

// apacheModules is what a Debian configuration loads before its sites, for one MPM.
const apacheModules = `ServerRoot /etc/apache2
DefaultRuntimeDir %[1]s
PidFile %[1]s/apache.pid
ErrorLog %[1]s/error.log
User www-data
Group www-data
LoadModule mpm_%[2]s_module /usr/lib/apache2/modules/mod_mpm_%[2]s.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule socache_shmcb_module /usr/lib/apache2/modules/mod_socache_shmcb.so
LoadModule ssl_module /usr/lib/apache2/modules/mod_ssl.so
Listen %[3]s
`

// Apache, with the site of docs/apache.md, serves with a key that is bound to PCRs, with processes and with threads.
func TestServersApache(t *testing.T) {
	t.Parallel()
	for _, mpm := range []string{"prefork", "event"} {
		t.Run(mpm, func(t *testing.T) {
			t.Parallel()
			s := newTLSServer(t, "p256")
			site := s.documented("apache.md", "apache", 0, "*:443", s.address, "/etc/apache2/web.crt", s.path("web.crt"))
			s.documented("apache.md", "ini", 0, "PKCS11_MODULE_PATH=/usr/local/lib/pkcs11/tpm2-p11.so", "")
			conf := s.write("apache.conf", fmt.Sprintf(apacheModules, s.dir, mpm, s.address)+site)
			s.command("apache2", "-f", conf, "-k", "start")
			master := s.pid("apache.pid")
			s.serves(master)
			for _, child := range s.children(master) {
				s.unprivileged(child, "www-data")
			}
			s.handshakes(500, 1)
			s.handshakes(320, 16)
			s.during(func() {
				for range 2 {
					s.command("apache2", "-f", conf, "-k", "graceful")
					time.Sleep(time.Second)
				}
			}, cutOff)
			s.during(func() {
				if children := s.children(master); len(children) > 0 {
					_ = syscall.Kill(children[0], syscall.SIGKILL)
				}
				time.Sleep(time.Second)
			}, cutOff)
			s.killsHelpers()
			s.handshakes(50, 4)
			s.undisturbed()
			s.refusesOtherPCRs()
			s.command("apache2", "-f", conf, "-k", "stop")
			s.ends()
		})
	}
}
