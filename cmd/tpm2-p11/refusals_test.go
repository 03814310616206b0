package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestNothingWorksBeforeInit(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	for _, args := range []string{"key list", "key show web", "key create web --type p256", "sign web", "pin set"} {
		m.refused(exitFailed, "the store is not initialised", "run `tpm2-p11 init` first", strings.Fields(args)...)
	}
}

func TestAnAbsentTPM(t *testing.T) {
	t.Parallel()
	m := offline(t)
	for _, args := range []string{"init --no-pin", "handles", "pcr read", "lockout show"} {
		m.refused(exitFailed, "no-such-device", "", strings.Fields(args)...)
	}
	r := m.try("doctor")
	if r.code != exitFailed {
		t.Errorf("doctor without a TPM: exit code %d", r.code)
	}
	contains(t, "doctor", r.stdout, "fail  device: ", "no such file", "enable the TPM", "fail  store: ", "run `tpm2-p11 init`")
	m.refused(exitUsage, "--tpm: not the address of a TPM: \"nonsense:here\"", "", "handles", "--tpm", "nonsense:here")
}

func TestABadConfiguration(t *testing.T) {
	t.Parallel()
	m := offline(t)
	m.configure("stroe = \"/here\"\n")
	m.refused(exitFailed, "tpm2-p11.conf:3: ", "", "key", "list")
	r := m.try("doctor")
	if r.code != exitFailed {
		t.Errorf("doctor: exit code %d", r.code)
	}
	contains(t, "doctor", r.stdout, "fail  configuration: ", "tpm2-p11.conf:3: ", "stroe")
	m.refused(exitFailed, "no such file", "", "key", "list", "--config", "@absent.conf")
}

// Flags cannot say what a configuration may not.
func TestFlagsOverSeveralTokens(t *testing.T) {
	t.Parallel()
	m := offline(t)
	token := func(label string) string {
		return "[[token]]\nlabel = \"" + label + "\"\nstore = \"" + label + "\"\ntpm = \"device:/no/" + label + "\"\nowner_auth_file = \"" + label + ".auth\"\n"
	}
	m.write("tpm2-p11.conf", token("a")+token("b"))
	m.refused(exitUsage, "has several tokens", "--token LABEL", "key", "list", "--store", "@other")
	m.refused(exitFailed, `tpm2-p11.conf:6: token "b" has another owner_auth_file`, "", "handles", "--tpm", "device:/no/c")
	m.write("a.auth", "")
	m.refused(exitFailed, m.path("other")+": the store is not initialised", "init", "key", "list", "--store", "@other", "--token", "a")
}

func TestNamesThatFitNoKeyOrSeveral(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run("init", "--no-pin")
	m.run("key", "create", "web", "--type", "p256", "--id", "0102")
	contains(t, "note", m.try("key", "create", "web", "--type", "p256", "--id", "0103", "--force").stderr, `another key is called "web"`, "0103")
	m.refused(exitFailed, `"mail": no such key`, "key list", "key", "show", "mail")
	m.refused(exitFailed, "pkcs11:token=tpm2-p11;object=web;id=%01%02, pkcs11:token=tpm2-p11;object=web;id=%01%03", "CKA_ID", "key", "show", "web")
	m.refused(exitFailed, "more than one key answers", "CKA_ID", "key", "show", "pkcs11:object=web")
	m.refused(exitFailed, "no such key", "key list", "key", "show", "pkcs11:token=other;object=web")
	for _, name := range []string{"0102", "0x81000100", "pkcs11:id=%01%02", "pkcs11:token=tpm2-p11;object=web;id=%01%02;type=private",
		"pkcs11:model=TPM%202.0;manufacturer=tpm2-p11;token=tpm2-p11;id=%01%02"} { // as p11tool writes them
		contains(t, name, m.run("key", "show", name), "CKA_ID       0102", "handle       0x81000100")
	}
}

func TestHandlesThatAreNotFree(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run("init", "--no-pin")
	m.run("key", "create", "web", "--type", "p256", "--handle", "0x81000100")
	m.refused(exitFailed, "the persistent handle is taken", "tpm2-p11 handles", "key", "create", "mail", "--type", "p256", "--handle", "0x81000100")
	m.refused(exitFailed, "the persistent handle is taken", "tpm2-p11 handles", "key", "create", "mail", "--type", "p256", "--handle", "0x81000001")
	m.refused(exitFailed, "no object at this handle", "tpm2-p11 handles", "key", "link", "0x81000999", "--label", "nobody")
	if r := m.try("key", "link", "0x81000001", "--label", "srk"); r.code != exitFailed {
		t.Errorf("the storage root key was linked: %v", r)
	}
	if keys := m.json("key", "list")["keys"].([]any); len(keys) != 1 {
		t.Errorf("refused keys were left: %v", keys)
	}
	m.run("key", "create", "next", "--type", "p256")
	contains(t, "key show", m.run("key", "show", "next"), "0x81000101")
}

func TestPCRsThatCannotBeBoundTo(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run("init", "--no-pin")
	m.tool("tpm2_pcrallocate", "sha1:none+sha256:all+sha384:none+sha512:none")
	m.tpm.Restart(t)
	m.refused(exitUsage, "unknown PCR bank", "--help", "pcr", "read", "sm3_256:0")
	m.refused(exitFailed, "the PCR bank sha384 is not active: active are sha256", "", "pcr", "read", "sha384:0")
	m.refused(exitFailed, "the PCR bank sha384 is not active: active are sha256", "", "seal", "-i", m.write("in", "data"), "--pcr", "sha384:0")
	m.refused(exitFailed, "the PCR bank sha384 is not active: active are sha256", "", "key", "create", "web", "--type", "p256", "--pcr", "sha384:0")
	m.refused(exitFailed, "sha256 PCR0 is all 00", "--force binds", "key", "create", "web", "--type", "p256", "--pcr", "sha256:0")
	m.run("key", "create", "web", "--type", "p256", "--pcr", "sha256:0", "--force")
	m.refused(exitFailed, "sha256 PCR0 is all 00", "--force binds", "seal", "-i", m.write("in", "data"), "--pcr", "sha256:0")
}

func TestFilesThatAreCorrupt(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run("init", "--no-pin")
	m.run("key", "create", "web", "--type", "p256")
	m.run("key", "create", "mail", "--type", "p256")
	m.refused(exitFailed, "no private key in PEM form", "BEGIN PRIVATE KEY", "key", "import", m.write("a", "nothing"), "--label", "a")
	m.refused(exitFailed, "b: ", "", "key", "import", m.write("b", "-----BEGIN TSS2 PRIVATE KEY-----\nMIIB\n-----END TSS2 PRIVATE KEY-----\n"), "--label", "b")
	m.refused(exitFailed, "size", "tpm2_create -u", "key", "import", "--public", m.write("c", "short"), "--private", "@c", "--label", "c")
	m.tool("openssl", "genpkey", "-algorithm", "RSA", "-aes256", "-pass", "pass:secret", "-out", "encrypted")
	m.refused(exitFailed, "the private key is encrypted", "openssl pkey", "key", "import", "@encrypted", "--label", "d")
	m.tool("openssl", "rsa", "-in", "encrypted", "-passin", "pass:secret", "-traditional", "-aes128", "-passout", "pass:secret", "-out", "traditional")
	m.refused(exitFailed, "the private key is encrypted", "`openssl pkey -in "+m.path("traditional")+" | ", "key", "import", "@traditional", "--label", "d")
	m.tool("openssl", "pkey", "-in", "encrypted", "-passin", "pass:secret", "-outform", "DER", "-out", "der")
	m.refused(exitFailed, "no private key in PEM form", "in DER or PKCS #12 is brought into it on the way: `openssl pkey -in "+m.path("der")+" | ",
		"key", "import", "@der", "--label", "d")
	m.tool("ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", "ssh")
	m.refused(exitFailed, "a private key in OpenSSH's own form", "`ssh-keygen -p -m PKCS8 -f COPY`", "key", "import", "@ssh", "--label", "d")
	m.tool("ssh-keygen", "-q", "-p", "-m", "PKCS8", "-N", "", "-f", "ssh")
	m.run("key", "import", "@ssh", "--label", "ssh")
	m.refused(exitFailed, "no certificate in PEM form", "", "key", "certificate", "web", "@a")
	m.tool("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "k", "-out", "foreign.crt", "-subj", "/CN=foreign")
	m.refused(exitFailed, `the first certificate, of "CN=foreign", is for another public key: the key's own comes first`, "", "key", "certificate", "web", "@foreign.crt")

	file := m.json("key", "show", "mail")["key"].(map[string]any)["file"].(string)
	m.write(filepath.Join("store", file+".pem"), "torn")
	contains(t, "key list", m.run("key", "list"), "web")
	r := m.try("doctor")
	if r.code != exitFailed {
		t.Errorf("doctor: exit code %d with a torn file", r.code)
	}
	contains(t, "doctor", r.stdout, "fail  store file: ", file, `ok    key "web"`)
}

func TestASealedSecretRefusesInEveryWay(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.tpm.Extend(t, "sha256", 7, []byte("boot"))
	m.write("pin", canaryPIN)
	m.write("wrong", "not the PIN")
	m.write("data", "the secret")
	m.refused(exitFailed, "is empty: there is nothing to seal", "", "seal", "-o", "@none")
	m.refused(exitFailed, "more than 128 bytes", "seal a key", "seal", "-i", m.write("long", strings.Repeat("x", 129)), "-o", "@none")

	m.run("seal", "-i", "@data", "--pcr", "sha256:7", "--pin-file", "@pin", "-o", "@sealed")
	if fi, err := os.Stat(m.path("sealed")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the sealed file: %v, %v", fi, err)
	}
	m.refused(exitUsage, "the PIN of ", "--pin-file FILE", "unseal", "@sealed")
	m.refused(exitFailed, "wrong PIN", "lockout show", "unseal", "@sealed", "--pin-file", "@wrong")
	if got := m.run("unseal", "@sealed", "--pin-file", "@pin"); got != "the secret" {
		t.Errorf("unsealed %q", got)
	}
	answer := m.json("unseal", "@sealed", "--pin-file", "@pin")
	if answer["data"] != "dGhlIHNlY3JldA==" || answer["bytes"] != 10.0 {
		t.Errorf("unseal --json: %v", answer)
	}

	// A line that lies about the policy changes nothing, and without it the selection is named still.
	lying := strings.Replace(string(m.read("sealed")), `"7":"`, `"7":"00`, 1)
	lying = strings.Replace(lying, `00"`, `"`, 1)
	m.write("lying", lying)
	m.run("unseal", "@lying", "--pin-file", "@pin")
	bare := m.read("sealed")
	m.write("bare", string(bare[bytes.Index(bare, []byte("-----BEGIN")):]))
	m.run("unseal", "@bare", "--pin-file", "@pin")
	m.tpm.Extend(t, "sha256", 7, []byte("another boot"))
	m.refused(exitFailed, "sha256 PCR7 is ", "pcr read", "unseal", "@sealed", "--pin-file", "@pin")
	m.refused(exitFailed, "sha256 PCR7 has digest", "pcr read", "unseal", "@bare", "--pin-file", "@pin")

	m.write("torn", string(bare[:len(bare)/2]))
	m.refused(exitFailed, "torn: ", "", "unseal", "@torn", "--pin-file", "@pin")
}

// A token file that cannot be understood is named by each verb, mended by none, and overwritten never.
func TestATokenFileThatIsCorrupt(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run("init", "--no-pin")
	m.run("key", "create", "web", "--type", "p256")
	m.write(filepath.Join("store", "token.json"), "torn")
	for _, args := range []string{"init --no-pin", "init --no-pin --force", "key list", "key show web", "key create mail --type p256", "sign web", "pin set"} {
		m.refused(exitFailed, "token.json: a store file is corrupt", "tpm2-p11 doctor", strings.Fields(args)...)
	}
	if text, err := os.ReadFile(m.path(filepath.Join("store", "token.json"))); err != nil || string(text) != "torn" {
		t.Errorf("it was overwritten with %q, %v", text, err)
	}
	r := m.try("doctor")
	if r.code != exitFailed {
		t.Errorf("doctor: exit code %d", r.code)
	}
	contains(t, "doctor", r.stdout, "fail  store: ", "token.json", "restore the file from a backup")
}

// A key whose sidecar is lost is not shown under its label, and whoever asks for it learns where to look.
func TestAKeyWhoseSidecarIsCorrupt(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run("init", "--no-pin")
	m.run("key", "create", "web", "--type", "p256")
	file := m.json("key", "show", "web")["key"].(map[string]any)["file"].(string)
	m.write(filepath.Join("store", file+".json"), "torn")
	m.refused(exitFailed, "files there that cannot be used: 1; run `tpm2-p11 doctor", "", "key", "show", "web")
	contains(t, "key show", m.run("key", "show", file), file)
	m.refused(exitFailed, "restore "+file+".json", "", "key", "delete", file, "--yes")
}
