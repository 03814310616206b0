package tests

import (
	"strings"
	"testing"
)

// Plain openssl signs and makes requests with a TPM key through libengine-pkcs11-openssl.
func TestOpenSSLEngine(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.write("in.txt", "the contract")
	m.tpm2p11("init", "--label", "web", "--no-pin")
	for _, kind := range []string{"rsa2048", "p256"} {
		m.tpm2p11("key", "create", kind, "--type", kind)
		m.tpm2p11("key", "public", kind, "--out", kind+".pub")
		uri := "pkcs11:token=web;object=" + kind + ";type=private"
		m.run("openssl", "dgst", "-sha256", "-engine", "pkcs11", "-keyform", "engine", "-sign", uri, "-out", kind+".sig", "in.txt")
		m.opensslVerify(kind+".pub", kind+".sig")

		m.run("openssl", "req", "-new", "-engine", "pkcs11", "-keyform", "engine", "-key", uri, "-subj", "/CN=www.example.com", "-out", kind+".csr")
		request := m.run("openssl", "req", "-in", kind+".csr", "-noout", "-verify", "-text").all()
		if !strings.Contains(request, "verify OK") {
			t.Errorf("the request made with %s does not verify:\n%s", kind, request)
		}
	}
}

// The engine refuses when the key's policy is not met, and the log says why.
func TestOpenSSLEngineRefusedByPolicy(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.write("in.txt", "the contract")
	m.tpm2p11("init", "--label", "web", "--no-pin")
	m.tpm2p11("key", "create", "web", "--pcr", "sha256:0,1,2,7")
	sign := []string{"dgst", "-sha256", "-engine", "pkcs11", "-keyform", "engine", "-sign", "pkcs11:object=web;type=private", "-out", "in.sig", "in.txt"}
	m.run("openssl", sign...)
	m.tpm2p11("key", "public", "web", "--out", "web.pub")
	m.opensslVerify("web.pub", "in.sig")
	m.tpm.Extend(t, "sha256", 7, []byte("another loader"))
	m.refused([]string{"PCR7"}, "openssl", sign...)
}

// gnutls' p11tool lists, signs and exports with the module given by path.
func TestP11Tool(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.tpm2p11("init", "--label", "web", "--no-pin")
	m.tpm2p11("key", "create", "rsa", "--type", "rsa2048")
	m.tpm2p11("key", "create", "ec", "--type", "p256")
	m.tpm2p11("key", "self-sign", "rsa", "--subject", "CN=www.example.com")
	tokens := m.run("p11tool", "--provider", module, "--list-tokens").stdout
	if !strings.Contains(tokens, "Label: web") {
		t.Errorf("p11tool does not see the token:\n%s", tokens)
	}
	all := m.run("p11tool", "--provider", module, "--list-all", "pkcs11:token=web").stdout
	for _, want := range []string{"Label: rsa", "Label: ec", "X.509 Certificate", "Private key (RSA-2048)"} {
		if !strings.Contains(all, want) {
			t.Errorf("p11tool's list lacks %q:\n%s", want, all)
		}
	}
	for _, key := range []string{"rsa", "ec"} {
		m.run("p11tool", "--provider", module, "--test-sign", "pkcs11:token=web;object="+key+";type=private")
	}
	exported := m.run("p11tool", "--provider", module, "--export", "pkcs11:token=web;object=rsa;type=cert").stdout
	if !strings.Contains(exported, "BEGIN CERTIFICATE") {
		t.Errorf("p11tool exports no certificate:\n%s", exported)
	}
}
