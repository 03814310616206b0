package tests

import (
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/simtest"
)

// issueKey has a CA somewhere make a key and its certificate, and KMS encrypt the key for the fleet: name.key.kms and name.crt
// are all that machines get.
func (m *instance) issueKey(name string, genpkey ...string) {
	m.t.Helper()
	m.run("openssl", append([]string{"genpkey", "-out", name + ".key", "-algorithm"}, genpkey...)...)
	m.run("openssl", "req", "-x509", "-new", "-key", name+".key", "-subj", "/CN=www.example.com", "-addext", "subjectAltName=DNS:www.example.com,DNS:localhost", "-days", "30", "-out", name+".crt")
	m.as(simtest.ReleaseRole).tpm2p11("kms", "encrypt", "--context", "purpose=tls", "--in", name+".key", "--out", name+".key.kms")
	if err := os.Remove(m.path(name + ".key")); err != nil {
		m.t.Fatal(err)
	}
}

// importKey is what a unit runs at boot.
func importKey(name string, more ...string) []string {
	return append([]string{"kms", "import-key", "web", "--context", "purpose=tls", "--in", name + ".key.kms", "--certificate", name + ".crt",
		"--handle", "0x81000100", "--pcr", "sha384:4,7"}, more...)
}

// The fleet's key comes to a machine on which nothing is prepared, and a server serves with it; at the next boots it is there
// already, and KMS is not needed; what runs something else does not get it, nor use what it has.
func TestKMSFleetKey(t *testing.T) {
	t.Parallel()
	for _, kind := range [][]string{{"RSA", "-pkeyopt", "rsa_keygen_bits:2048"}, {"EC", "-pkeyopt", "ec_paramgen_curve:P-256"}} {
		t.Run(kind[0], func(t *testing.T) {
			t.Parallel()
			m := newInstance(t)
			m.issueKey("web", kind...)
			boot := importKey("web", "--replace")
			if said := m.tpm2p11(boot...).stdout; !strings.Contains(said, "web: created") || !strings.Contains(said, "at 0x81000100") {
				t.Errorf("the first boot: %s", said)
			}
			server := m.tlsServer()
			m.servesTo(server, "web.crt")

			// /var is in memory: the store is lost, the TPM has the key.
			m.loseStore()
			m.configure("key_id = \"arn:aws:kms:eu-central-1:111122223333:key/nobody-asks\"\n")
			if said := m.tpm2p11(boot...).stdout; !strings.Contains(said, "web: adopted") {
				t.Errorf("the second boot: %s", said)
			}
			if said := m.tpm2p11(append(boot, "--json")...).stdout; !strings.Contains(said, `"outcome": "unchanged"`) {
				t.Errorf("once more: %s", said)
			}
			m.servesTo(server, "web.crt")
			handles := m.tpm2p11("handles").stdout

			// Another image.
			m.configure(fmt.Sprintf("key_id = %q\n", m.key))
			m.sim.Extend(t, "sha384", 4, []byte("another image"))
			m.write("in.txt", "what is signed")
			m.refused([]string{"PCR4 is"}, command, "sign", "web", "--in", "in.txt")
			m.refused([]string{"access denied by KMS", "PCR4", "`tpm2-p11 kms key-policy`"}, command, boot...)
			if now := m.tpm2p11("handles").stdout; now != handles {
				t.Errorf("handles before:\n%s\nafter a refusal:\n%s", handles, now)
			}
			// It is approved: the key is fetched again, in the place of the former one.
			m.approve()
			m.refused([]string{"the same key under another policy", "--replace"}, command, importKey("web")...)
			if said := m.tpm2p11(boot...).stdout; !strings.Contains(said, "web: created") {
				t.Errorf("after the update: %s", said)
			}
			if now := m.tpm2p11("handles").stdout; strings.Count(now, "\n") != strings.Count(handles, "\n") {
				t.Errorf("handles before:\n%s\nafter:\n%s", handles, now)
			}
			m.servesTo(server, "web.crt")
		})
	}
}

// loseStore is a reboot of an image that keeps its root in memory.
func (m *instance) loseStore() {
	m.t.Helper()
	if err := os.RemoveAll(m.path("store")); err != nil {
		m.t.Fatal(err)
	}
}

// approve puts what the machine runs now into the KMS key's policy.
func (m *instance) approve() {
	m.t.Helper()
	if err := m.kms.SetPolicy(m.key, m.policy()); err != nil {
		m.t.Fatal(err)
	}
}

// servesTo has the example's server serve with the key web, and curl trust a certificate.
func (m *instance) servesTo(server, certificate string) {
	m.t.Helper()
	port, stop := m.serve("web", server)
	m.run("curl", "--silent", "--show-error", "--max-time", "60", "--cacert", certificate, "--resolve", "www.example.com:"+port+":127.0.0.1", "https://www.example.com:"+port+"/")
	stop()
}

// nginx serves with the fleet's key as with any other.
func TestKMSFleetKeyInNginx(t *testing.T) {
	t.Parallel()
	m := newInstance(t)
	for dir := m.dir; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m.issueKey("web", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
	m.configureTop("label = \"web\"\n", fmt.Sprintf("key_id = %q\n", m.key))
	m.tpm2p11(importKey("web")...)
	s := &tlsServer{machine: m.machine, address: "127.0.0.1:" + freePort(t), roots: x509.NewCertPool()}
	s.roots.AppendCertsFromPEM(m.read("web.crt"))
	conf := s.write("nginx.conf", s.documented("nginx.md", "nginx", 0,
		"listen 443", "listen "+s.address, "/run/nginx.pid", s.path("nginx.pid"), "/etc/nginx/web.crt", s.path("web.crt"), "/var/log/nginx/", s.dir+"/"))
	s.command("nginx", "-c", conf)
	s.endsWith(s.pid("nginx.pid"))
	s.answers()
	s.handshakes(40, 4)
	s.command("nginx", "-c", conf, "-s", "stop")
	s.helpersEnd()
}

// KMS makes the pair: one machine asks for it, others import it from the ciphertext that the first one kept.
func TestKMSMakesTheFleetsKey(t *testing.T) {
	t.Parallel()
	m := newInstance(t)
	for spec, kind := range map[string]string{"ECC_NIST_P256": "p256", "RSA_2048": "rsa2048"} {
		m.tpm2p11("kms", "import-key", kind, "--context", "purpose=tls", "--generate", spec, "--ciphertext-out", kind+".kms", "--pcr", "sha384:4")
		m.tpm2p11("key", "self-sign", kind, "--subject", "CN=www.example.com", "--dns", "www.example.com", "--out", kind+".crt")
		m.tpm2p11("key", "public", kind, "--out", kind+".pub")
		m.refused([]string{kind + ".kms is there already"}, command, "kms", "import-key", "again", "--context", "purpose=tls", "--generate", spec, "--ciphertext-out", kind+".kms")
		m.refused([]string{"the token has a key of this label"}, command, "kms", "import-key", kind, "--context", "purpose=tls", "--generate", spec, "--ciphertext-out", "other.kms")
		if _, err := os.Stat(m.path("other.kms")); err == nil {
			t.Error("a ciphertext of no key is left")
		}
	}
	m.loseStore()
	m.sim.Reset(t)
	for _, kind := range []string{"p256", "rsa2048"} {
		m.write("in.txt", "the contract")
		m.tpm2p11("kms", "import-key", kind, "--context", "purpose=tls", "--in", kind+".kms", "--public-key", kind+".pub", "--wrapped")
		m.tpm2p11("sign", kind, "--in", "in.txt", "--out", "sig")
		m.tpm2p11("verify", "--public", kind+".pub", "--in", "in.txt", "--signature", "sig")
	}
}
