package main

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"strings"
	"testing"
)

// The main job from an empty machine to the refusals after a PCR changed.
func TestANewcomersStory(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.write("contract.txt", "we agree\n")

	contains(t, "init", m.run("init", "--label", "demo", "--no-pin"), `token "demo", without a PIN, is ready in`)
	m.tpm.Extend(t, "sha256", 0, []byte("firmware"))
	m.tpm.Extend(t, "sha256", 7, []byte("secure boot"))
	contains(t, "key create", m.run("key", "create", "web", "--pcr", "sha256:0,7", "--handle", "0x81000100"),
		`key "web": rsa2048 for sign, at 0x81000100`)
	contains(t, "handles", m.run("handles"), "0x81000001", "storage root key", "0x81000100", "key web")
	contains(t, "key list", m.run("key", "list"), "web", "rsa2048", "sign", "0x81000100", "sha256:0,7")
	contains(t, "key show", m.run("key", "show", "web"), "fixedTPM", "sensitiveDataOrigin", "sha256 PCR 7 is ", "Name", "pkcs11:token=demo;object=web")

	m.run("key", "self-sign", "web", "--subject", "CN=localhost,O=Example", "--dns", "localhost", "--ip", "127.0.0.1", "--days", "30", "--out", "@web.crt")
	m.tool("openssl", "verify", "-CAfile", "web.crt", "web.crt")
	contains(t, "certificate", m.tool("openssl", "x509", "-in", "web.crt", "-noout", "-text"), "CN = localhost, O = Example", "DNS:localhost", "IP Address:127.0.0.1")
	contains(t, "key list", m.run("key", "list"), "CN=localhost")
	m.run("key", "csr", "web", "--subject", `CN=www.example.com,O=Example\, Inc.`, "--dns", "www.example.com", "-o", "@web.csr")
	contains(t, "request", m.tool("openssl", "req", "-in", "web.csr", "-noout", "-verify", "-text"), "verify OK", `O = "Example, Inc."`)

	m.run("key", "public", "web", "--out", "@web.pub")
	m.run("sign", "web", "--in", "@contract.txt", "--out", "@contract.sig")
	m.tool("openssl", "dgst", "-sha256", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest", "-verify", "web.pub", "-signature", "contract.sig", "contract.txt")
	contains(t, "verify", m.run("verify", "web", "--in", "@contract.txt", "--signature", "@contract.sig"), "the signature is valid (pss, sha256)")

	m.write("secret.txt", "database password\n")
	m.run("seal", "--pcr", "sha256:0,7", "--in", "@secret.txt", "--out", "@secret.tss2")
	if got := m.run("unseal", "@secret.tss2"); got != "database password\n" {
		t.Errorf("unsealed %q", got)
	}

	m.tpm.Extend(t, "sha256", 7, []byte("something else"))
	m.refused(exitFailed, "sha256 PCR7 is ", "pcr read", "sign", "web", "--in", "@contract.txt", "--out", "@never.sig")
	m.refused(exitFailed, "sha256 PCR7 is ", "pcr read", "unseal", "@secret.tss2")
	if _, err := os.Stat(m.path("never.sig")); err == nil {
		t.Error("a refused signature left a file")
	}
	r := m.try("doctor")
	if r.code != exitFailed {
		t.Errorf("doctor: exit code %d with a key that refuses", r.code)
	}
	contains(t, "doctor", r.stdout, `fail  key "web": policy`, "PCR7")
}

func TestSigningInEveryWayThatOthersVerify(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.write("in", "what is signed")
	m.run("init", "--no-pin")
	m.run("key", "create", "rsa")
	m.run("key", "create", "ec", "--type", "p256")
	m.run("key", "create", "ec384", "--type", "p384", "--wrapped")
	m.tool("openssl", "dgst", "-sha384", "-binary", "-out", "digest", "in")
	for _, c := range []struct {
		key     string
		flags   string
		openssl string
	}{
		{"rsa", "", "-sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest"},
		{"rsa", "--hash sha512", "-sha512 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest"},
		{"rsa", "--scheme pkcs1 --hash sha384", "-sha384"},
		{"ec", "", "-sha256"},
		{"ec384", "--hash sha384", "-sha384"},
	} {
		m.run("key", "public", c.key, "-o", "@pub")
		flags := strings.Fields(c.flags)
		m.run(append([]string{"sign", c.key, "-i", "@in", "-o", "@sig"}, flags...)...)
		m.tool("openssl", append(append([]string{"dgst"}, strings.Fields(c.openssl)...), "-verify", "pub", "-signature", "sig", "in")...)
		m.run(append([]string{"verify", "--public", "@pub", "-i", "@in", "--signature", "@sig"}, flags...)...)

		m.run(append([]string{"sign", c.key, "-i", "@in", "-o", "@tss", "--format", "tss"}, flags...)...)
		m.run("verify", c.key, "-i", "@in", "--signature", "@tss")
		m.write("other", "what is not signed")
		m.refused(exitFailed, "the signature is not of this key over this input", "", "verify", c.key, "-i", "@other", "--signature", "@tss")
	}

	// tpm2-tools verify our TPMT_SIGNATURE, and we theirs.
	m.run("sign", "rsa", "-i", "@in", "-o", "@tss", "--format", "tss")
	m.run("key", "public", "rsa", "-o", "@pub")
	m.tool("tpm2_loadexternal", "-C", "n", "-G", "rsa", "-u", "pub", "-c", "pub.ctx")
	m.tool("tpm2_verifysignature", "-c", "pub.ctx", "-g", "sha256", "-m", "in", "-s", "tss")
	m.tool("tpm2_flushcontext", "-t")
	m.tool("tpm2_sign", "-c", "0x81000100", "-g", "sha256", "-s", "rsapss", "-o", "theirs", "in")
	m.run("verify", "rsa", "-i", "@in", "--signature", "@theirs")

	m.run("sign", "ec", "--digest", "--hash", "sha384", "-i", "@digest", "-o", "@sig")
	m.run("key", "public", "ec", "-o", "@pub")
	m.tool("openssl", "dgst", "-sha384", "-verify", "pub", "-signature", "sig", "in")
	m.refused(exitFailed, "is not a sha256 digest: it must be 32 bytes", "leave out --digest", "sign", "ec", "--digest", "-i", "@digest")
	m.refused(exitUsage, "--scheme pss: the key is an elliptic-curve key", "--help", "sign", "ec", "--scheme", "pss", "-i", "@in")
	m.refused(exitUsage, "--scheme ecdsa: the key is an RSA key", "--help", "sign", "rsa", "--scheme", "ecdsa", "-i", "@in")

	m.stdin = "from standard input"
	answer := m.json("sign", "ec")
	if answer["scheme"] != "ecdsa" || answer["hash"] != "sha256" || answer["signature"] == "" {
		t.Errorf("sign --json: %v", answer)
	}
}

func TestVerifyRefusesWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	m := offline(t)
	m.write("in", "signed")
	m.tool("openssl", "genrsa", "-out", "key", "2048")
	m.tool("openssl", "rsa", "-in", "key", "-pubout", "-out", "pub")
	m.tool("openssl", "dgst", "-sha256", "-sign", "key", "-out", "sig", "in")
	verify := func(more ...string) []string {
		return append([]string{"verify", "--public", "@pub", "--in", "@in", "--signature", "@sig"}, more...)
	}
	m.run(verify("--scheme", "pkcs1")...)
	m.refused(exitFailed, "the signature is not of this key over this input", "add --scheme pkcs1", verify()...)
	m.refused(exitFailed, "the signature is not of this key over this input", "", verify("--scheme", "pkcs1", "--hash", "sha384")...)
	m.write("sig", "garbage")
	m.refused(exitFailed, "neither a plain signature of this key nor a TPMT_SIGNATURE", "", verify()...)
	m.write("pub", "garbage")
	m.refused(exitFailed, "neither a public key nor a certificate", "", verify()...)
}

func TestDecryption(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.write("secret", "the plaintext")
	m.write("label", "a label")
	m.run("init", "--no-pin")
	m.run("key", "create", "mail", "--use", "decrypt")
	m.run("key", "public", "mail", "-o", "@pub")
	encrypt := []string{"pkeyutl", "-encrypt", "-pubin", "-inkey", "pub", "-in", "secret", "-out", "enc", "-pkeyopt", "rsa_padding_mode:oaep"}
	m.tool("openssl", append(encrypt, "-pkeyopt", "rsa_oaep_md:sha256")...)
	if got := m.run("decrypt", "mail", "--in", "@enc"); got != "the plaintext" {
		t.Errorf("decrypted %q", got)
	}
	m.run("decrypt", "mail", "--in", "@enc", "--out", "@dec")
	if fi, err := os.Stat(m.path("dec")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the plaintext's file: %v, %v", fi, err)
	}
	m.refused(exitFailed, "decrypt", "same hash and label", "decrypt", "mail", "--in", "@enc", "--oaep-hash", "sha384")
	m.refused(exitFailed, "decrypt", "same hash and label", "decrypt", "mail", "--in", "@enc", "--label-file", "@label")
	m.write("short", "too short")
	m.refused(exitFailed, "256", "", "decrypt", "mail", "--in", "@short")
	m.refused(exitFailed, "key create --use sign`", "", "sign", "mail", "--in", "@secret")
	m.run("key", "create", "web", "--type", "p256")
	r := m.try("decrypt", "web", "--in", "@enc")
	if r.code != exitFailed {
		t.Errorf("an elliptic-curve key decrypts: %v", r)
	}
}

func TestPublicKeysInEveryFormat(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run("init", "--no-pin")
	m.run("key", "create", "web", "--type", "p256")
	block, _ := pem.Decode([]byte(m.run("key", "public", "web")))
	if block == nil {
		t.Fatal("not PEM")
	}
	if _, err := x509.ParsePKIXPublicKey(block.Bytes); err != nil {
		t.Error(err)
	}
	if der := m.run("key", "public", "web", "--format", "der"); der != string(block.Bytes) {
		t.Error("DER and PEM differ")
	}
	line := m.run("key", "public", "web", "--format", "ssh")
	if !strings.HasPrefix(line, "ecdsa-sha2-nistp256 ") || !strings.HasSuffix(line, " web\n") {
		t.Errorf("ssh: %q", line)
	}
	m.write("web.pub", line)
	m.tool("ssh-keygen", "-l", "-f", "web.pub")
	m.refused(exitUsage, "--format jwk: there is pem, der and ssh", "--help", "key", "public", "web", "--format", "jwk")
}
