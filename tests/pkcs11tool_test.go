package tests

import (
	"strings"
	"testing"
)

// An operator without PIN lists, signs and generates with pkcs11-tool.
func TestPKCS11ToolWithoutPIN(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.write("in.txt", "the contract")
	m.tpm2p11("init", "--label", "web", "--no-pin")
	m.tpm2p11("key", "create", "rsa", "--type", "rsa2048", "--id", "01")
	m.tpm2p11("key", "create", "ec", "--type", "p256", "--id", "02")

	slots := m.pkcs11Tool("--list-slots").stdout
	if !strings.Contains(slots, "token label        : web") || strings.Contains(slots, "login required") {
		t.Errorf("the token does not show as one without login:\n%s", slots)
	}
	objects := m.pkcs11Tool("--list-objects").stdout
	for _, want := range []string{"Private Key Object; RSA", "Public Key Object; RSA 2048 bits", "Private Key Object; EC", "Public Key Object; EC", "label:      rsa", "never extractable", "always sensitive", "local"} {
		if !strings.Contains(objects, want) {
			t.Errorf("the list of objects lacks %q:\n%s", want, objects)
		}
	}

	m.tpm2p11("key", "public", "rsa", "--out", "rsa.pub")
	m.tpm2p11("key", "public", "ec", "--out", "ec.pub")
	m.pkcs11Tool("--sign", "--id", "01", "--mechanism", "SHA256-RSA-PKCS", "-i", "in.txt", "-o", "1.sig")
	m.opensslVerify("rsa.pub", "1.sig")
	m.pkcs11Tool("--sign", "--id", "01", "--mechanism", "SHA256-RSA-PKCS-PSS", "-i", "in.txt", "-o", "2.sig")
	m.opensslVerify("rsa.pub", "2.sig", pss...)
	m.pkcs11Tool("--sign", "--id", "02", "--mechanism", "ECDSA-SHA256", "--signature-format", "openssl", "-i", "in.txt", "-o", "3.sig")
	m.opensslVerify("ec.pub", "3.sig")

	random := m.pkcs11Tool("--generate-random", "100")
	if len(random.stdout) < 100 {
		t.Errorf("%d random bytes instead of 100", len(random.stdout))
	}
}

// A token with a PIN is set up by the tool's own means, guards its key, and counts wrong PINs once each.
func TestPKCS11ToolWithPIN(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.write("in.txt", "the contract")
	m.pkcs11Tool("--init-token", "--label", "vault", "--so-pin", "so-secret")
	m.pkcs11Tool("--login", "--login-type", "so", "--so-pin", "so-secret", "--init-pin", "--pin", "123456")
	m.pkcs11Tool("--login", "--pin", "123456", "--keypairgen", "--key-type", "EC:prime256v1", "--label", "made", "--id", "0102")

	objects := m.pkcs11Tool("--list-objects").stdout
	if strings.Contains(objects, "Private Key Object") {
		t.Errorf("a private key shows before the login:\n%s", objects)
	}
	objects = m.pkcs11Tool("--login", "--pin", "123456", "--list-objects").stdout
	if !strings.Contains(objects, "Private Key Object; EC") || !strings.Contains(objects, "0102") {
		t.Errorf("the generated key does not show after the login:\n%s", objects)
	}
	m.pkcs11Tool("--login", "--pin", "123456", "--sign", "--id", "0102", "--mechanism", "ECDSA-SHA256", "--signature-format", "openssl", "-i", "in.txt", "-o", "in.sig")
	m.tpm2p11("key", "public", "made", "--out", "made.pub")
	m.opensslVerify("made.pub", "in.sig")

	before := m.lockoutCounter()
	m.refused([]string{"CKR_PIN_INCORRECT"}, "pkcs11-tool", "--module", module, "--login", "--pin", "654321", "--list-objects")
	if after := m.lockoutCounter(); after != before+1 {
		t.Errorf("one wrong PIN moved the TPM's counter from %d to %d", before, after)
	}
	m.pkcs11Tool("--login", "--pin", "123456", "--change-pin", "--new-pin", "abcdef")
	m.refused([]string{"CKR_PIN_INCORRECT"}, "pkcs11-tool", "--module", module, "--login", "--pin", "123456", "--list-objects")
	m.pkcs11Tool("--login", "--pin", "abcdef", "--sign", "--id", "0102", "--mechanism", "ECDSA-SHA256", "-i", "in.txt", "-o", "in.sig")
}

// pkcs11-tool's own test of a token: random numbers, digests, signatures in several parts, decryption, after errors too.
func TestPKCS11ToolSelfTest(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.write("pin", "123456\n")
	m.write("so", "87654321\n")
	m.tpm2p11("init", "--label", "tested", "--pin-file", "pin", "--so-pin-file", "so")
	m.tpm2p11("key", "create", "both", "--use", "sign,decrypt", "--pin-file", "pin")
	out := m.pkcs11Tool("--login", "--pin", "123456", "--test").all()
	if !strings.Contains(out, "No errors") {
		t.Errorf("pkcs11-tool --test:\n%s", out)
	}
}

// A certificate written through the module belongs to its key.
func TestPKCS11ToolCertificate(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.tpm2p11("init", "--label", "web", "--no-pin")
	m.tpm2p11("key", "create", "web", "--type", "p256")
	m.run("openssl", "req", "-new", "-x509", "-engine", "pkcs11", "-keyform", "engine", "-key", "pkcs11:object=web;type=private", "-subj", "/CN=www.example.com", "-outform", "DER", "-out", "web.der")

	m.pkcs11Tool("--write-object", "web.der", "--type", "cert", "--label", "web")
	objects := m.pkcs11Tool("--list-objects", "--type", "cert").stdout
	if !strings.Contains(objects, "CN=www.example.com") {
		t.Errorf("the certificate does not show:\n%s", objects)
	}
	m.pkcs11Tool("--read-object", "--type", "cert", "--label", "web", "--output-file", "read.der")
	if string(m.read("read.der")) != string(m.read("web.der")) {
		t.Error("the certificate read is not the one written")
	}
}

// What the tool keeps besides the TPM's keys the command deletes, by a name that one thing has.
func TestPKCS11ToolKeepsAndTheCommandDeletes(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.tpm2p11("init", "--label", "web", "--no-pin")
	m.run("openssl", "req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-subj", "/CN=The CA", "-out", "ca.pem")
	m.write("contract", "the contract")
	m.pkcs11Tool("--keygen", "--key-type", "AES:32", "--label", "disk", "--id", "11")
	m.pkcs11Tool("--keygen", "--key-type", "AES:16", "--label", "disk", "--id", "12")
	m.pkcs11Tool("--write-object", "contract", "--type", "data", "--label", "contract")
	m.pkcs11Tool("--write-object", "ca.pem", "--type", "cert", "--label", "ca")
	m.refused([]string{"id=%11", "id=%12"}, command, "key", "delete", "disk", "--yes")
	m.refused([]string{"no such key"}, command, "key", "delete", "nothing", "--yes")
	for _, name := range []string{"11", "contract", "ca", "disk"} {
		m.tpm2p11("key", "delete", name, "--yes")
	}
	if objects := m.pkcs11Tool("--list-objects").stdout; strings.Contains(objects, "disk") || strings.Contains(objects, "contract") || strings.Contains(objects, "The CA") {
		t.Errorf("what was deleted is there:\n%s", objects)
	}
}

// The TPM's key and a peer's agree on one secret; a key that signs, and a peer on another curve, on none.
func TestPKCS11ToolDerive(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.tpm2p11("init", "--label", "web", "--no-pin")
	m.tpm2p11("key", "create", "agree", "--type", "p256", "--use", "derive", "--id", "07")
	m.tpm2p11("key", "create", "web", "--type", "p256", "--id", "08")
	m.tpm2p11("key", "public", "agree", "--out", "agree.pub")
	for name, curve := range map[string]string{"peer": "prime256v1", "other": "secp384r1"} {
		m.run("openssl", "ecparam", "-name", curve, "-genkey", "-noout", "-out", name+".key")
		m.run("openssl", "pkey", "-in", name+".key", "-pubout", "-outform", "DER", "-out", name+".der")
	}
	m.run("openssl", "pkeyutl", "-derive", "-inkey", "peer.key", "-peerkey", "agree.pub", "-out", "want")
	derive := []string{"--derive", "--mechanism", "ECDH1-DERIVE", "-o", "shared", "-i"}
	for _, form := range [][]string{nil, {"--derive-pass-der"}} {
		m.pkcs11Tool(append(append(derive, "peer.der", "--id", "07"), form...)...)
		if string(m.read("shared")) != string(m.read("want")) {
			t.Errorf("%v: the two sides have not the same secret", form)
		}
	}
	m.refused([]string{"CKR_KEY_FUNCTION_NOT_PERMITTED"}, "pkcs11-tool", append([]string{"--module", module, "--id", "08"}, append(derive, "peer.der")...)...)
	m.refused([]string{"CKR_MECHANISM_PARAM_INVALID"}, "pkcs11-tool", append([]string{"--module", module, "--id", "07"}, append(derive, "other.der")...)...)
}

// An authority's certificate is kept although its key is elsewhere: everybody reads it, who knows the PIN writes and deletes it.
func TestPKCS11ToolAuthority(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	withPIN(m)
	m.run("openssl", "req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-subj", "/CN=The CA", "-out", "ca.pem")
	login := []string{"--login", "--pin", userPIN}
	m.refused([]string{"CKR_"}, "pkcs11-tool", "--module", module, "--write-object", "ca.pem", "--type", "cert", "--label", "ca")
	m.pkcs11Tool(append(login, "--write-object", "ca.pem", "--type", "cert", "--label", "ca", "--id", "ca")...)
	m.pkcs11Tool("--read-object", "--type", "cert", "--label", "ca", "--output-file", "read.der")
	m.run("openssl", "x509", "-in", "ca.pem", "-outform", "DER", "-out", "ca.der")
	if string(m.read("read.der")) != string(m.read("ca.der")) {
		t.Error("the certificate read is not the one written")
	}
	if list := m.tpm2p11("key", "list").stdout; !strings.Contains(list, "certificate") {
		t.Errorf("the command does not list it:\n%s", list)
	}
	m.refused([]string{"CKR_"}, "pkcs11-tool", "--module", module, "--delete-object", "--type", "cert", "--label", "ca")
	m.pkcs11Tool(append(login, "--delete-object", "--type", "cert", "--label", "ca")...)
	if objects := m.pkcs11Tool("--list-objects", "--type", "cert").stdout; strings.Contains(objects, "The CA") {
		t.Errorf("it is there after its deletion:\n%s", objects)
	}
}

// A key that existed before is imported, does not claim to be the TPM's own, and is not taken in twice.
func TestPKCS11ToolImport(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.write("in.txt", "the contract")
	m.tpm2p11("init", "--label", "web", "--no-pin")
	m.run("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384", "-outform", "DER", "-out", "old.der")
	m.run("openssl", "pkey", "-inform", "DER", "-in", "old.der", "-pubout", "-out", "old.pub")
	write := []string{"--write-object", "old.der", "--type", "privkey", "--label", "old", "--id", "01"}
	m.pkcs11Tool(write...)
	key := m.pkcs11Tool("--list-objects", "--type", "privkey").stdout
	if !strings.Contains(key, "Private Key Object; EC") || strings.Contains(key, "local") || strings.Contains(key, "never extractable") {
		t.Errorf("the imported key shows as:\n%s", key)
	}
	m.pkcs11Tool("--sign", "--id", "01", "--mechanism", "ECDSA-SHA256", "--signature-format", "openssl", "-i", "in.txt", "-o", "old.sig")
	m.opensslVerify("old.pub", "old.sig")
	m.refused([]string{"the store has this key already"}, "pkcs11-tool", append([]string{"--module", module}, write...)...)
	m.run("sh", "-c", "tail -c +2 old.der >broken.der")
	m.refused(nil, "pkcs11-tool", "--module", module, "--write-object", "broken.der", "--type", "privkey", "--label", "broken")
}

// A key that is deleted through the module is gone from store and TPM.
func TestPKCS11ToolDelete(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.tpm2p11("init", "--label", "web", "--no-pin")
	m.tpm2p11("key", "create", "web", "--type", "p256")
	before := m.tpm.Count(t).Persistent
	m.pkcs11Tool("--delete-object", "--type", "privkey", "--label", "web")
	if after := m.tpm.Count(t).Persistent; after != before-1 {
		t.Errorf("%d persistent objects before the deletion, %d after", before, after)
	}
	m.refused([]string{"no such key"}, command, "key", "show", "web")
}
