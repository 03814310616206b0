package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestATPMOutOfSessionsIsNotOutOfPersistentObjects(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run("init", "--no-pin")
	m.run("key", "create", "web", "--type", "p256", "--wrapped")
	m.write("in", "what is signed")
	// Programs that end without flushing, on a TPM without a resource manager.
	for _, name := range []string{"1", "2", "3"} {
		m.tool("tpm2_createprimary", "-Q", "-C", "n", "-G", "ecc", "-c", name)
	}
	m.refused(exitFailed, "the TPM has no room for another loaded object or session", "`tpm2_flushcontext -t`, `-l` and `-s`", "sign", "web", "-i", "@in")
	m.tool("tpm2_flushcontext", "-t")
	m.run("sign", "web", "-i", "@in", "-o", "@sig")
}

func TestHintsKeepWhatTheUserSaid(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.refused(exitFailed, "the store is not initialised", "run `tpm2-p11 init --store "+m.path("other")+"` first", "key", "list", "--store", "@other")
	m.refused(exitFailed, "the store is not initialised", "run `tpm2-p11 init --store '"+m.path("an other")+"'` first", "key", "list", "--store", "@an other")
	m.refused(exitFailed, "absent.conf: no such file", "leave out --config", "key", "list", "--config", "@absent.conf")
	m.refused(exitUsage, "KEY is missing", "`tpm2-p11 key show --help` shows how", "key", "show", "--store", "@other")
}

func TestASecondKeyOfALabelTakesForce(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run("init", "--no-pin")
	m.run("key", "create", "web", "--type", "p256")
	m.tool("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "k")
	m.refused(exitFailed, "the token has a key of this label", "choose another label; --force", "key", "create", "web", "--type", "p256")
	m.refused(exitFailed, "the token has a key of this label", "choose another label; --force", "key", "import", "@k", "--label", "web")
	m.run("key", "import", "@k", "--label", "web", "--force")
}

func TestKeysThatTheProgramDoesNotTake(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run("init", "--no-pin")
	m.tool("openssl", "genpkey", "-algorithm", "ed25519", "-out", "ed")
	m.tool("openssl", "genrsa", "-out", "small", "1024")
	m.tool("openssl", "genrsa", "-out", "large", "4096")
	m.tool("openssl", "ecparam", "-name", "secp224r1", "-genkey", "-noout", "-out", "p224")
	for file, want := range map[string]string{"ed": "an Ed25519 key: tpm2-p11 takes", "small": "of type rsa1024: tpm2-p11 takes", "p224": "of type p224: tpm2-p11 takes", "large": "this TPM has no keys of type rsa4096"} {
		m.refused(exitFailed, want, "", "key", "import", "@"+file, "--label", "x")
	}
}

func TestMoreMistakesInUsage(t *testing.T) {
	t.Parallel()
	m := offline(t)
	for _, c := range []struct{ args, message, hint string }{
		{"completion tcsh", `"tcsh" is no verb: there is bash, fish`, "--help"},
		{"completion", "the verb is missing: there is bash", "--help"},
		{"key create 0x81000100", "would be read as a handle", "--help"},
		{"key create pkcs11:x", "would be read as a PKCS #11 URI", "--help"},
		{"key create web\u202egpj", "a character that cannot be seen, U+202E", "--help"},
		{"key create " + strings.Repeat("x", 300), "a label of 300 bytes (at most 255)", "--help"},
		{"key create web --type rsa", "--type rsa: there is rsa2048", "--help"},
		{"key create web --type p256 --use decrypt", "keys of type p256 sign and derive, and do not decrypt", "--type rsa2048"},
		{"key create web --type rsa2048 --use derive", "sign and decrypt, and do not derive", "--type p256"},
		{"key csr web --subject CN=a --dns a..b", `--dns "a..b": it is not a DNS name`, "*.example.com"},
		{"key self-sign web --subject CN=a --dns 127.0.0.1", "--dns 127.0.0.1: it is an IP address", "give addresses by --ip"},
		{"handles --tpm tpm0", `--tpm: not the address of a TPM: "tpm0"`, "--help"},
	} {
		m.refused(exitUsage, c.message, c.hint, strings.Fields(c.args)...)
	}
}

func TestAFailedInitLeavesNothing(t *testing.T) {
	t.Parallel()
	m := offline(t)
	m.refused(exitFailed, "no-such-device", "", "init", "--no-pin")
	if _, err := os.Stat(m.path("store")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the store: %v", err)
	}
}

func TestFilesThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run("init", "--no-pin")
	m.run("key", "create", "web", "--type", "p256")
	m.write("in", "what is signed")
	m.refused(exitFailed, "create "+m.path("absent/sig")+": no such file", "", "sign", "web", "-i", "@in", "-o", "@absent/sig")
}

func TestAVerdictInJSON(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run("init", "--no-pin")
	m.run("key", "create", "web", "--type", "p256")
	m.write("in", "what is signed")
	m.write("other", "what is not signed")
	m.run("sign", "web", "-i", "@in", "-o", "@sig")
	if v := m.json("verify", "web", "-i", "@in", "--signature", "@sig"); v["valid"] != true {
		t.Errorf("a good signature: %v", v)
	}
	r := m.try("verify", "web", "-i", "@other", "--signature", "@sig", "--json")
	if v := decodeJSON(t, r.stdout); r.code != exitFailed || r.stderr != "" || v["valid"] != false || v["hash"] != "sha256" {
		t.Errorf("a bad signature: %v", r)
	}
	m.refused(exitFailed, "the signature is not of this key", "if with another hash than sha256 name it by --hash", "verify", "web", "-i", "@other", "--signature", "@sig")
}

func TestOpenSSLsDefaultOAEP(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run("init", "--no-pin")
	m.run("key", "create", "mail", "--use", "decrypt")
	m.run("key", "public", "mail", "-o", "@pub")
	m.write("secret", "the plaintext")
	m.tool("openssl", "pkeyutl", "-encrypt", "-pubin", "-inkey", "pub", "-in", "secret", "-out", "enc", "-pkeyopt", "rsa_padding_mode:oaep")
	m.refused(exitFailed, "decryption failed", "openssl's hash is sha1 unless it is told otherwise: --oaep-hash sha1", "decrypt", "mail", "-i", "@enc")
	if got := m.run("decrypt", "mail", "-i", "@enc", "--oaep-hash", "sha1"); got != "the plaintext" {
		t.Errorf("decrypted %q", got)
	}
}

func TestExportsForToolsHoldThePolicy(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.tpm.Extend(t, "sha256", 7, []byte("boot"))
	m.run("init", "--no-pin")
	m.run("key", "create", "web", "--type", "p256", "--pcr", "sha256:7", "--wrapped")
	contains(t, "export", m.run("key", "export", "web", "--format", "tpm2-tools", "-o", "@web"), "web.pub", "web.priv", "web.policy")
	contains(t, "the policy", string(m.read("web.policy")), `{"pcr":{"bank":"sha256","7":"`)
	m.run("key", "create", "free", "--type", "p256", "--wrapped")
	if out := m.run("key", "export", "free", "--format", "tpm2-tools", "-o", "@free"); strings.Contains(out, "policy") {
		t.Errorf("a key without a policy: %s", out)
	}
}

func TestTokensThatShareATPM(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	conf := ""
	for _, label := range []string{"one", "two"} {
		conf += "[[token]]\nlabel = \"" + label + "\"\ntpm = \"" + m.tpm.Address() + "\"\nstore = \"" + m.path(label) + "\"\n"
	}
	m.write("tpm2-p11.conf", conf)
	m.run("init", "--no-pin", "--token", "one")
	m.run("init", "--no-pin", "--token", "two")
	m.run("key", "create", "web", "--type", "p256", "--token", "one")
	m.run("key", "create", "mail", "--type", "p256", "--token", "two")
	contains(t, "lockout show", m.run("lockout", "show"), "not locked")
	m.run("lockout", "reset")
	contains(t, "handles", m.run("handles"), "key web of token one", "key mail of token two")
	// The configured tokens are known by name even to who asks about another store.
	m.run("init", "--no-pin", "--label", "three", "--store", "@three", "--token", "one")
	contains(t, "handles", m.run("handles", "--store", "@three", "--token", "one"), "key web of token one", "key mail of token two")
	if strings.Contains(m.run("handles", "--store", "@three", "--token", "one"), "another tool") {
		t.Error("a configured token's key passes for another tool's")
	}
	m.write("tpm2-p11.conf", strings.Replace(conf, m.tpm.Address(), "swtpm:path="+filepath.Join(m.dir, "nowhere"), 1))
	m.refused(exitUsage, "the configuration has 2 tokens", "--token LABEL", "lockout", "show")
}

// Whoever ties a key to PCRs is told what an update does to it, and who leaves another way is not.
func TestAKeyThatDiesWithItsPCRs(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.tpm.Extend(t, "sha256", 7, []byte("boot"))
	m.write("pin", "4711")
	pcr := `{ pcr = { bank = "sha256", indices = [7] } }`
	m.run("init", "--no-pin")
	for tree, dies := range map[string]bool{
		"all = [ " + pcr + ", { pin = true } ]":                                                 true,
		"any = [ " + pcr + ", { all = [ " + pcr + ", { pin = true } ] } ]":                      true,
		"any = [ " + pcr + ", { pin = true } ]":                                                 false,
		"all = [ { pin = true }, { any = [ " + pcr + ", { clock = { within = \"30d\" } } ] } ]": false,
	} {
		m.write("policy.toml", tree)
		r := m.try("key", "create", "web", "--type", "p256", "--wrapped", "--force", "--policy", "@policy.toml", "--own-pin-file", "@pin")
		if r.code != exitOK || strings.Contains(r.stderr, "refuses to work then, for good") != dies {
			t.Errorf("%s: %v", tree, r)
		}
	}
}

// TPM2_Clear takes the owner's authorisation too: the one that the configuration still names is wrong then.
func TestAClearedTPMHasNoOwnerAuthorisation(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.write("owner.auth", "owner value")
	m.tool("tpm2_changeauth", "-c", "o", "owner value")
	m.refused(exitFailed, "a hierarchy's authorisation is missing or wrong", "set owner_auth_file in the configuration", "init", "--no-pin")
	m.configure("owner_auth_file = \"owner.auth\"\n")
	m.run("init", "--no-pin")
	m.tool("tpm2_clear", "-c", "l")
	m.refused(exitFailed, "a hierarchy's authorisation is missing or wrong", "after TPM2_Clear the owner hierarchy has none: leave it out then",
		"init", "--no-pin", "--force")
	m.configure("")
	m.run("init", "--no-pin", "--force")
}
