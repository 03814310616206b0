package tests

import (
	"bytes"
	"fmt"
	"testing"
)

// An HSM, as far as its users see one.
const softHSM = "/usr/lib/softhsm/libsofthsm2.so"

// hsm makes a token in SoftHSM with keys; their CKA_IDs count from 01.
func (m *machine) hsm(pin string, keys ...[2]string) {
	m.t.Helper()
	m.run("mkdir", "hsm")
	m.env = append(m.env, "SOFTHSM2_CONF="+m.write("hsm.conf", "directories.tokendir = "+m.path("hsm")+"\n"))
	m.run("softhsm2-util", "--init-token", "--free", "--label", "ci", "--pin", pin, "--so-pin", soPIN)
	for i, key := range keys {
		m.run("pkcs11-tool", "--module", softHSM, "--token-label", "ci", "--login", "--pin", pin,
			"--keypairgen", "--label", key[0], "--key-type", key[1], "--id", fmt.Sprintf("%02d", i+1), "--usage-sign")
	}
}

// inHSM is the URI of a key there.
func inHSM(label string) string { return "pkcs11:token=ci;object=" + label + "?module-path=" + softHSM }

// The build machine's key is in an HSM. Its PIN is in no argument, and a wrong one is tried once.
func TestPoliciesSignedByAnHSM(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.hsm(userPIN, [2]string{"rsa", "rsa:2048"}, [2]string{"p256", "EC:prime256v1"}, [2]string{"p384", "EC:secp384r1"})
	m.write("pin", userPIN)
	m.write("wrong", wrongPIN)
	m.env = append(m.env, "GNUTLS_PIN="+userPIN)
	m.tpm2p11("init", "--no-pin")
	m.write("image.toml", m.pcrPolicy(7))
	sign := func(uri string) []string {
		return []string{"policy", "sign", "image.toml", "--ref", "tls/v1", "--out", "image.json", "--key", uri}
	}
	for _, key := range []string{"rsa", "p256", "p384"} {
		m.run("p11tool", "--provider", softHSM, "--login", "--outfile", "ci.pub", "--export-pubkey", "pkcs11:token=ci;object="+key)
		m.write("web.toml", `authorize = { signer = "file:ci.pub", ref = "tls/v1" }`)
		m.tpm2p11("key", "create", key, "--type", "p256", "--policy", "web.toml")
		m.refused([]string{"no approved policy was found", "policy approve FILE"}, command, "sign", key, "--in", "image.toml")
		m.tpm2p11(append(sign(inHSM(key)), "--pin-file", "pin", "--public-out", "again.pub")...)
		if !bytes.Equal(m.read("again.pub"), m.read("ci.pub")) {
			t.Errorf("the public key is written\n%s", m.read("again.pub"))
		}
		m.tpm2p11("policy", "approve", "image.json")
		m.signs(key)
		m.tpm2p11("policy", "approve", "image.json", "--remove")
	}

	m.refuses([]mistake{
		{"wrong PIN", failed, []string{"login to token ci: CKR_PIN_INCORRECT"}, append(sign(inHSM("rsa")), "--pin-file", "wrong")},
		{"no PIN", failed + 1, []string{"the PIN of token ci is needed", "--pin-file"}, sign(inHSM("rsa"))},
		{"unknown key", failed, []string{"names no single key", "p11tool --list-privkeys"}, append(sign(inHSM("nobody")), "--pin-file", "pin")},
		{"more than one key", failed, []string{"names no single key"}, append(sign("pkcs11:token=ci?module-path="+softHSM), "--pin-file", "pin")},
		{"unknown token", failed, []string{"of the tokens (ci) 0 are pkcs11:token=cx"}, append(sign("pkcs11:token=cx;object=a?module-path="+softHSM), "--pin-file", "pin")},
		{"absent module", failed, []string{"no-such-module.so: no such file", "module-path"}, append(sign("pkcs11:object=a?module-path=/no-such-module.so"), "--pin-file", "pin")},
		{"what is no module", failed, []string{"p11-kit did not load it"}, append(sign("pkcs11:object=a?module-path="+m.path("image.toml")), "--pin-file", "pin")},
	})

	// Smart cards often have a certificate beside the key, and no public key.
	key := "p384"
	m.env = append(m.env, "PKCS11_MODULE_PATH="+softHSM)
	m.run("openssl", "req", "-x509", "-engine", "pkcs11", "-keyform", "engine", "-key", "pkcs11:token=ci;id=%03?pin-source=file:"+m.path("pin"),
		"-subj", "/CN=ci", "-outform", "DER", "-out", "ci.der")
	m.run("pkcs11-tool", "--module", softHSM, "--token-label", "ci", "--login", "--pin", userPIN, "--delete-object", "--type", "pubkey", "--id", "03")
	m.refused([]string{"has no public key of it", "with the same CKA_ID"}, command, append(sign(inHSM(key)), "--pin-file", "pin")...)
	m.run("pkcs11-tool", "--module", softHSM, "--token-label", "ci", "--login", "--pin", userPIN, "--write-object", "ci.der", "--type", "cert", "--id", "03")
	m.tpm2p11(append(sign(inHSM(key)), "--pin-file", "pin")...)
	m.tpm2p11("policy", "approve", "image.json")
	m.signs(key)

	m.env = append(m.env, "PATH=/nowhere")
	m.refused([]string{"p11-kit is not installed", "--to-sign"}, command, append(sign(inHSM(key)), "--pin-file", "pin")...)
}

// Keys of our own token sign too, by their name, and through the module as any other's do: with the token's PIN, or their own.
func TestPoliciesSignedByOurModule(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		key, pin string
		made     [][]string
	}{
		{"rsa", "pin", [][]string{{"init", "--pin-file", "pin", "--so-pin-file", "so"}, {"key", "create", "rsa", "--pin-file", "pin"}, {"key", "public", "rsa", "--out", "ci.pub"},
			{"key", "create", "web", "--type", "p256", "--no-pin", "--policy", "tls.toml", "--pin-file", "pin"}}},
		{"mine", "own", [][]string{{"init", "--no-pin"}, {"key", "create", "mine", "--type", "p256", "--own-pin-file", "own"}, {"key", "public", "mine", "--out", "ci.pub"},
			{"key", "create", "web", "--type", "p256", "--policy", "tls.toml"}}},
	} {
		m := newMachine(t, "")
		for name, pin := range map[string]string{"pin": userPIN, "so": soPIN, "own": ownPIN, "wrong": wrongPIN} {
			m.write(name, pin)
		}
		m.write("tls.toml", `authorize = { signer = "file:ci.pub", ref = "tls/v1" }`)
		m.maxTries(20)
		for _, args := range c.made {
			m.tpm2p11(args...)
		}
		m.write("image.toml", m.pcrPolicy(7))
		for _, name := range []string{c.key, "pkcs11:object=" + c.key + "?module-path=" + module} {
			sign := []string{"policy", "sign", "image.toml", "--ref", "tls/v1", "--out", "image.json", "--key", name, "--pin-file"}
			m.tpm2p11(append(sign, c.pin)...)
			m.tpm2p11("policy", "approve", "image.json")
			m.signs("web")
			m.tpm2p11("policy", "approve", "image.json", "--remove")
			before := m.lockoutCounter()
			m.refused([]string{"PIN"}, command, append(sign, "wrong")...)
			if n := m.lockoutCounter(); n != before+1 {
				t.Errorf("a wrong PIN for %s counted %d", name, n-before)
			}
		}
	}
}
