package main

import (
	"os"
	"strings"
	"testing"
)

func TestPrivateKeysAreImported(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.write("in", "what is signed")
	m.run("init", "--no-pin")
	m.tool("openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", "rsa.pkcs8")
	m.tool("openssl", "rsa", "-in", "rsa.pkcs8", "-traditional", "-out", "rsa.pkcs1")
	m.tool("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "ec.sec1")
	for _, file := range []string{"rsa.pkcs8", "ec.sec1"} {
		m.run("key", "import", "@"+file, "--label", file)
		m.run("sign", file, "-i", "@in", "-o", "@sig")
		m.tool("openssl", "pkey", "-in", file, "-pubout", "-out", "pub")
		m.run("verify", "--public", "@pub", "-i", "@in", "--signature", "@sig")
		if show := m.run("key", "show", file); strings.Contains(show, "fixedTPM") || strings.Contains(show, "sensitiveDataOrigin") {
			t.Errorf("an imported key claims to be born in the TPM:\n%s", show)
		}
	}
	m.stdin = string(m.read("rsa.pkcs1"))
	m.refused(exitFailed, "the store has this key already", "key list", "key", "import", "-", "--label", "again")
}

func TestKeysGoToTPM2ToolsAndBack(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.write("in", "what is signed")
	m.run("init", "--no-pin")

	m.run("key", "create", "web", "--type", "p256", "--wrapped")
	m.run("key", "public", "web", "-o", "@web.pem")
	contains(t, "export", m.run("key", "export", "web", "--format", "tpm2-tools", "-o", "@web"), m.path("web.pub"), m.path("web.priv"))
	m.tool("tpm2_load", "-C", "0x81000001", "-u", "web.pub", "-r", "web.priv", "-c", "web.ctx")
	m.tool("tpm2_sign", "-c", "web.ctx", "-g", "sha256", "-f", "plain", "-o", "theirs", "in")
	m.tool("tpm2_flushcontext", "-t")
	m.run("verify", "--public", "@web.pem", "-i", "@in", "--signature", "@theirs")

	m.tool("tpm2_create", "-C", "0x81000001", "-G", "ecc256", "-u", "made.pub", "-r", "made.priv")
	m.tool("tpm2_flushcontext", "-t")
	m.run("key", "import", "--public", "@made.pub", "--private", "@made.priv", "--label", "made")
	m.run("sign", "made", "-i", "@in", "-o", "@sig")
	m.run("verify", "made", "-i", "@in", "--signature", "@sig")

	m.run("key", "export", "web", "-o", "@web.tss2")
	if fi, err := os.Stat(m.path("web.tss2")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the exported file: %v, %v", fi, err)
	}
	m.refused(exitFailed, "the store has this key already", "key list", "key", "import", "@web.tss2", "--label", "again")
	m.run("key", "delete", "web", "--yes")
	m.run("key", "import", "@web.tss2", "--label", "back")
	m.run("sign", "back", "-i", "@in", "-o", "@sig")
	m.run("verify", "--public", "@web.pem", "-i", "@in", "--signature", "@sig")
}

// A key that tpm2-tools made under a primary key of theirs: what they call it, and what it lacks here, is said.
func TestKeysUnderAParentOfOtherToolsAreImported(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.write("in", "what is signed")
	m.write("data", "the secret")
	m.run("init", "--no-pin")
	tool := func(name string, args ...string) {
		t.Helper()
		m.tool(name, args...)
		m.tool("tpm2_flushcontext", "-t")
	}
	tool("tpm2_createprimary", "-Q", "-C", "o", "-G", "rsa", "-c", "primary.ctx")
	tool("tpm2_create", "-Q", "-C", "primary.ctx", "-G", "ecc256", "-u", "their.pub", "-r", "their.priv")
	tool("tpm2_create", "-Q", "-C", "primary.ctx", "-G", "hmac", "-u", "hmac.pub", "-r", "hmac.priv")
	tool("tpm2_create", "-Q", "-C", "primary.ctx", "-G", "ecc256:ecdh", "-u", "ecdh.pub", "-r", "ecdh.priv")
	tool("tpm2_create", "-Q", "-C", "primary.ctx", "-i", "data", "-u", "data.pub", "-r", "data.priv")
	theirs := []string{"key", "import", "--public", "@their.pub", "--private", "@their.priv", "--label", "theirs"}
	m.refused(exitFailed, "made in another TPM or under another parent", "that was `tpm2_create -C`'s by --parent HANDLE", theirs...)
	m.refused(exitFailed, "made in another TPM or under another parent", "by --parent HANDLE", "unseal", "--public", "@data.pub", "--private", "@data.priv")
	// as that hint says
	tool("tpm2_evictcontrol", "-Q", "-C", "o", "-c", "primary.ctx", "0x81000002")
	r := m.try(append(theirs, "--parent", "0x81000002")...)
	contains(t, "import", r.stdout, `key "theirs": p256 for sign and derive`)
	contains(t, "import", r.stderr, "if it has a password after all, each use counts as a wrong try. Then delete it, and import it with --own-pin-file")
	m.run("sign", "theirs", "-i", "@in", "-o", "@sig")
	m.run("verify", "theirs", "-i", "@in", "--signature", "@sig")

	m.refused(exitFailed, "what is given (keyed hash sign) is not an RSA or elliptic-curve key", "",
		"key", "import", "--public", "@hmac.pub", "--private", "@hmac.priv", "--label", "hmac", "--parent", "0x81000002")
	m.run("key", "import", "--public", "@ecdh.pub", "--private", "@ecdh.priv", "--label", "ecdh", "--parent", "0x81000002")
	m.refused(exitFailed, "it was made for key agreement (derive), not to sign", "", "sign", "ecdh", "-i", "@in")

	// The parent, and with it the key, is taken away.
	for _, h := range []string{"0x81000002", "0x81000100"} {
		tool("tpm2_evictcontrol", "-Q", "-C", "o", "-c", h)
	}
	m.diagnosed(`fail  key "theirs": `, "the storage key that it is wrapped to is gone: parent: 0x81000002",
		"have the tool that made the storage key make it again at 0x81000002; if the TPM was cleared or is another one, run `tpm2-p11 key delete theirs`")
	tool("tpm2_evictcontrol", "-Q", "-C", "o", "-c", "primary.ctx", "0x81000002")
	m.diagnosed("run `tpm2-p11 key evict theirs`, then `tpm2-p11 key persist theirs`")
}

func TestABoundKeyKeepsItsPolicyThroughAFile(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.tpm.Extend(t, "sha256", 7, []byte("boot"))
	m.write("in", "what is signed")
	m.run("init", "--no-pin")
	m.run("key", "create", "web", "--type", "p256", "--pcr", "sha256:7")
	m.run("key", "export", "web", "-o", "@web.tss2")
	m.run("key", "delete", "web", "--yes")
	m.run("key", "import", "@web.tss2", "--label", "back")
	m.run("sign", "back", "-i", "@in")
	m.tpm.Extend(t, "sha256", 7, []byte("another boot"))
	m.refused(exitFailed, "sha256 PCR7 is ", "pcr read", "sign", "back", "-i", "@in")
}

func TestAKeyThatOtherToolsPersistedIsLinked(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.write("in", "what is signed")
	m.run("init", "--no-pin")
	m.tool("tpm2_create", "-C", "0x81000001", "-G", "ecc256", "-u", "their.pub", "-r", "their.priv", "-c", "their.ctx")
	m.tool("tpm2_evictcontrol", "-c", "their.ctx", "0x81000005")
	m.tool("tpm2_flushcontext", "-t")
	contains(t, "handles", m.run("handles"), "0x81000005", "another tool's, or of a store that is not configured here")
	m.refused(exitFailed, "0x81000005: ECC P-256 sign, decrypt, not sealed data", "`tpm2-p11 key link` takes keys", "unseal", "0x81000005")
	m.run("key", "link", "0x81000005", "--label", "theirs")
	contains(t, "handles", m.run("handles"), "key theirs")
	m.run("sign", "theirs", "-i", "@in", "-o", "@sig")
	m.run("verify", "theirs", "-i", "@in", "--signature", "@sig")
	m.refused(exitFailed, "was linked: only the TPM has it", "key public", "key", "export", "theirs", "-o", "@none")
	if r := m.try("key", "evict", "theirs"); r.code != exitFailed {
		t.Errorf("a linked key was evicted: %v", r)
	}
	m.run("key", "delete", "theirs", "--yes")
	contains(t, "handles", m.run("handles"), "0x81000005", "another tool's")
	m.run("key", "link", "0x81000005", "--label", "theirs")
	m.run("key", "delete", "theirs", "--yes", "--evict-linked")
	if strings.Contains(m.run("handles"), "0x81000005") {
		t.Error("--evict-linked left the key in the TPM")
	}
}

func TestSealedFilesOfTPM2Tools(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.tpm.Extend(t, "sha256", 7, []byte("boot"))
	m.write("data", "the secret")
	m.write("pin", canaryPIN)
	m.run("init", "--no-pin")

	m.run("seal", "-i", "@data", "--format", "tpm2-tools", "-o", "@plain")
	m.tool("tpm2_load", "-C", "0x81000001", "-u", "plain.pub", "-r", "plain.priv", "-c", "plain.ctx")
	if got := m.tool("tpm2_unseal", "-c", "plain.ctx"); got != "the secret" {
		t.Errorf("tpm2_unseal: %q", got)
	}
	m.tool("tpm2_flushcontext", "-t")
	m.tool("tpm2_create", "-C", "0x81000001", "-i", "data", "-p", canaryPIN, "-u", "their.pub", "-r", "their.priv")
	m.tool("tpm2_flushcontext", "-t")
	if got := m.run("unseal", "--public", "@their.pub", "--private", "@their.priv", "--pin-file", "@pin"); got != "the secret" {
		t.Errorf("unseal: %q", got)
	}

	contains(t, "seal", m.run("seal", "-i", "@data", "--pcr", "sha256:7", "--format", "tpm2-tools", "-o", "@bound"), m.path("bound.policy"))
	unseal := []string{"unseal", "--public", "@bound.pub", "--private", "@bound.priv"}
	m.refused(exitFailed, "was sealed with a policy, and nothing says which", "--policy FILE or --pcr PCRS", unseal...)
	m.run(append(unseal, "--policy", "@bound.policy")...)
	m.run(append(unseal, "--pcr", "sha256:7")...)
	m.refused(exitFailed, "is not what it was sealed to", "pcr read", append(unseal, "--pcr", "sha256:8")...)
	m.tpm.Extend(t, "sha256", 7, []byte("another boot"))
	m.refused(exitFailed, "sha256 PCR7 is ", "pcr read", append(unseal, "--policy", "@bound.policy")...)
	m.refused(exitFailed, "or these PCRs have changed since", "pcr read", append(unseal, "--pcr", "sha256:7")...)
}

func TestPersistingAndEvicting(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.write("in", "what is signed")
	m.run("init", "--no-pin")
	contains(t, "create", m.run("key", "create", "web", "--type", "p256", "--wrapped"), "wrapped in the store")
	m.run("sign", "web", "-i", "@in")
	contains(t, "persist", m.run("key", "persist", "web", "--handle", "0x81000200"), "at 0x81000200")
	m.run("sign", "0x81000200", "-i", "@in")
	contains(t, "evict", m.run("key", "evict", "web"), "wrapped in the store")
	if strings.Contains(m.run("handles"), "0x81000200") {
		t.Error("the evicted key is still there")
	}
	m.run("sign", "web", "-i", "@in")
}

func TestDeletingAsks(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run("init", "--no-pin")
	m.run("key", "create", "web", "--type", "p256")
	m.refused(exitUsage, "cannot be undone and there is no terminal to ask", "--yes", "key", "delete", "web")
	m.answers = []string{"n"}
	m.refused(exitFailed, "nothing was done", "", "key", "delete", "web")
	m.answers = []string{"y"}
	m.run("key", "delete", "web")
	m.refused(exitFailed, "no such key", "key list", "key", "delete", "web", "--yes")
}

func TestACertificateChainIsStoredAndRemoved(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run("init", "--no-pin")
	m.run("key", "create", "web", "--type", "p256")
	m.run("key", "csr", "web", "--subject", "CN=www.example.com", "-o", "@csr")
	m.tool("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=authority")
	m.tool("openssl", "x509", "-req", "-in", "csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-out", "web.crt")
	m.write("chain", string(m.read("web.crt"))+string(m.read("ca.crt")))
	m.run("key", "certificate", "web", "@chain")
	contains(t, "key show", m.run("key", "show", "web"), "certificate  CN=www.example.com, until ", "  issued by  CN=authority, until ")
	if chain := m.json("key", "show", "web")["certificates"].([]any); len(chain) != 2 {
		t.Errorf("chain: %v", chain)
	}
	m.run("key", "certificate", "web", "--remove")
	if chain := m.json("key", "show", "web")["certificates"].([]any); len(chain) != 0 {
		t.Errorf("chain: %v", chain)
	}
}
