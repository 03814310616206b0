package tests

import (
	"strings"
	"testing"
)

// The operator of an application from another time switches on what it needs, and has no more than that.
func TestOldApplications(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.write("in.txt", "the contract")
	m.tpm2p11("init", "--label", "old", "--no-pin")
	m.tpm2p11("key", "create", "both", "--use", "sign,decrypt", "--id", "01")
	m.tpm2p11("key", "public", "both", "--out", "both.pub")
	m.run("openssl", "pkeyutl", "-encrypt", "-pubin", "-inkey", "both.pub", "-in", "in.txt", "-out", "in.enc")
	decrypt := []string{"--module", module, "--decrypt", "--id", "01", "--mechanism", "RSA-PKCS", "-i", "in.enc", "-o", "out.txt"}
	raw := []string{"--module", module, "--decrypt", "--id", "01", "--mechanism", "RSA-X-509", "-i", "in.enc", "-o", "block"}
	sha1 := []string{"--module", module, "--sign", "--id", "01", "--mechanism", "SHA1-RSA-PKCS", "-i", "in.txt", "-o", "in.sig"}

	for word, c := range map[string]struct {
		use   []string
		check func()
	}{
		"pkcs1-decryption": {decrypt, func() {
			if got := string(m.read("out.txt")); got != "the contract" {
				t.Errorf("decrypted to %q", got)
			}
			m.run("sh", "-c", "head -c 255 in.enc >bent; printf x >>bent")
			m.pkcs11Tool("--decrypt", "--id", "01", "--mechanism", "RSA-PKCS", "-i", "bent", "-o", "invented")
			m.pkcs11Tool("--decrypt", "--id", "01", "--mechanism", "RSA-PKCS", "-i", "bent", "-o", "again")
			if string(m.read("invented")) != string(m.read("again")) {
				t.Error("one bad ciphertext is two messages in two processes")
			}
		}},
		"raw-rsa": {raw, func() {
			if block := string(m.read("block")); len(block) != 256 || !strings.HasSuffix(block, "\x00the contract") {
				t.Errorf("decrypted to %q", block)
			}
		}},
		"sha1-signatures": {sha1, func() {
			m.run("openssl", "dgst", "-sha1", "-verify", "both.pub", "-signature", "in.sig", "in.txt")
		}},
	} {
		plain := string(m.read("tpm2-p11.conf"))
		m.refused(nil, "pkcs11-tool", c.use...)
		m.write("tpm2-p11.conf", plain+"legacy = [\""+word+"\"]\n")
		m.run("pkcs11-tool", c.use...)
		c.check()
		m.write("tpm2-p11.conf", plain)
	}
}
