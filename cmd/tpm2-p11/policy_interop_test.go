package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// theirs runs policy commands of tpm2-tools in a trial session, and gives the digest that the last one writes.
func (m *machine) theirs(commands ...[]string) string {
	m.t.Helper()
	m.tool("tpm2_startauthsession", "-S", "trial.ctx")
	for _, c := range commands {
		m.tool(c[0], append([]string{"-S", "trial.ctx", "-L", "their.policy"}, c[1:]...)...)
	}
	m.tool("tpm2_flushcontext", "trial.ctx")
	return fmt.Sprintf("%x\n", m.read("their.policy"))
}

// ours is the digest of a policy in a file.
func (m *machine) ours(text string) string {
	m.t.Helper()
	m.write("ours.toml", text)
	return m.run("policy", "digest", "@ours.toml")
}

// Every node's digest is the one that tpm2-tools compute.
func TestPolicyDigestsAreThoseOfTPM2Tools(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.tpm.Extend(t, "sha256", 7, []byte("boot"))
	m.run("init", "--no-pin")
	equal := func(what, ours, theirs string) {
		t.Helper()
		if ours != theirs {
			t.Errorf("%s: %s here, %s there", what, ours, theirs)
		}
	}

	// PCR files go both ways.
	m.tool("tpm2_pcrread", "sha256:0,7", "-o", "their.pcrs")
	m.run("pcr", "read", "sha256:0,7", "--out", "@our.pcrs")
	if !bytes.Equal(m.read("their.pcrs"), m.read("our.pcrs")) {
		t.Error("the files of PCRs differ")
	}
	m.tool("tpm2_createpolicy", "--policy-pcr", "-l", "sha256:0,7", "-f", "our.pcrs", "-L", "pcr.policy")
	m.tool("tpm2_flushcontext", "-l") // tpm2_createpolicy leaves its session
	m.run("policy", "digest", "--pcr", "sha256:0,7", "--pcr-file", "@their.pcrs", "--out", "@our.policy")
	if !bytes.Equal(m.read("pcr.policy"), m.read("our.policy")) {
		t.Error("the files of digests differ")
	}
	pcr := fmt.Sprintf("%x\n", m.read("pcr.policy"))
	equal("current PCRs", m.run("policy", "digest", "--pcr", "sha256:0,7"), pcr)

	equal("pin", m.ours("pin = true"), m.theirs([]string{"tpm2_policyauthvalue"}))
	equal("command", m.ours(`command = "sign"`), m.theirs([]string{"tpm2_policycommandcode", "TPM2_CC_Sign"}))
	equal("secret", m.ours(`secret = "owner"`), m.theirs([]string{"tpm2_policysecret", "-c", "o"}))
	equal("clock", m.ours("clock = { before = 86400000 }"), m.theirs([]string{"tpm2_policycountertimer", "--ult", "clock=86400000"}))
	equal("all", m.ours(`all = [ { command = "sign" }, { pin = true } ]`),
		m.theirs([]string{"tpm2_policycommandcode", "TPM2_CC_Sign"}, []string{"tpm2_policyauthvalue"}))
	m.theirs([]string{"tpm2_policyauthvalue"})
	m.tool("cp", "their.policy", "pin.policy")
	m.theirs([]string{"tpm2_policycommandcode", "TPM2_CC_Sign"})
	m.tool("cp", "their.policy", "sign.policy")
	equal("any", m.ours(`any = [ { pin = true }, { command = "sign" } ]`), m.theirs([]string{"tpm2_policyor", "sha256:pin.policy,sign.policy"}))

	m.buildKey("-algorithm", "RSA")
	m.tool("tpm2_loadexternal", "-G", "rsa", "-C", "o", "-u", "ci.pub", "-c", "ci.ctx", "-n", "ci.name")
	m.write("ref", "tls/v1")
	equal("authorize", m.ours(`authorize = { signer = "file:ci.pub", ref = "tls/v1" }`),
		m.theirs([]string{"tpm2_policyauthorize", "-i", "pin.policy", "-n", "ci.name", "-q", "ref"}))
	m.tool("tpm2_flushcontext", "-t")

	version, line, _ := strings.Cut(m.run("policy", "counter", "0x01800010", "--advance"), "\n")
	value, err := strconv.ParseUint(version, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	m.write("operand", string(binary.BigEndian.AppendUint64(nil, value)))
	m.write("nv.toml", "nv = { index = 0x01800010, op = \"le\", value = "+version+" }")
	digest := m.keyDigest("nv.toml")
	equal("nv", digest, m.theirs([]string{"tpm2_policynv", "-C", "o", "-i", "operand", "0x01800010", "ule"}))
	equal("nv, by its name without a TPM", m.ours(line), digest)
	m.write("pin.toml", "pin = true")
	_, line, _ = strings.Cut(m.run("policy", "approve", "@pin.toml", "--nv", "0x01800001"), "\n")
	m.write("nv.toml", "authorize_nv = { index = 0x01800001 }")
	equal("authorize_nv, by its name without a TPM", m.ours(line), m.keyDigest("nv.toml"))
	equal("authorize_nv", m.keyDigest("nv.toml"), m.theirs([]string{"tpm2_policyauthvalue"}, []string{"tpm2_policyauthorizenv", "-C", "o", "0x01800001"}))
}

// keyDigest is the policy digest of a key that is made with a policy.
func (m *machine) keyDigest(file string) string {
	m.t.Helper()
	m.run("key", "create", "k", "--type", "p256", "--wrapped", "--policy", "@"+file)
	defer m.run("key", "delete", "k", "--yes")
	digest, ok := m.json("key", "show", "k")["auth_policy"].(string)
	if !ok {
		m.t.Fatalf("no auth_policy: %v", m.json("key", "show", "k"))
	}
	return digest + "\n"
}

// tpm2-tools and this command on one TPM, step by step: what one makes, the other uses.
func TestTPM2ToolsAndThisCommandOnOneTPM(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.tpm.Extend(t, "sha256", 7, []byte("boot"))
	m.write("secret", "the secret")
	m.write("message", "what is signed")

	// Theirs: an RSA parent, a policy of a file of PCRs, a sealed object and a key with it.
	m.tool("tpm2_createprimary", "-C", "o", "-G", "rsa", "-c", "primary.ctx")
	m.tool("tpm2_flushcontext", "-t")
	m.tool("tpm2_pcrread", "sha256:0,1,2,7", "-o", "pcrs")
	m.tool("tpm2_createpolicy", "--policy-pcr", "-l", "sha256:0,1,2,7", "-f", "pcrs", "-L", "pcr.policy")
	m.tool("tpm2_create", "-C", "primary.ctx", "-L", "pcr.policy", "-i", "secret", "-u", "seal.pub", "-r", "seal.priv")
	m.tool("tpm2_flushcontext", "-t")
	m.tool("tpm2_create", "-C", "primary.ctx", "-L", "pcr.policy", "-G", "rsa2048", "-u", "key.pub", "-r", "key.priv")
	m.tool("tpm2_flushcontext", "-t")
	m.tool("tpm2_load", "-C", "primary.ctx", "-u", "seal.pub", "-r", "seal.priv", "-c", "seal.ctx")
	m.tool("tpm2_evictcontrol", "-C", "o", "-c", "seal.ctx", "0x81000001")
	m.tool("tpm2_flushcontext", "-t")
	m.tool("tpm2_load", "-C", "primary.ctx", "-u", "key.pub", "-r", "key.priv", "-c", "key.ctx")
	m.tool("tpm2_evictcontrol", "-C", "o", "-c", "key.ctx", "0x81000002")
	m.tool("tpm2_flushcontext", "-t")
	m.tool("tpm2_evictcontrol", "-C", "o", "-c", "primary.ctx", "0x81000010")
	m.tool("tpm2_flushcontext", "-t")
	contains(t, "tpm2_getcap", m.tool("tpm2_getcap", "handles-persistent"), "0x81000001", "0x81000002", "0x81000010")
	m.tool("tpm2_readpublic", "-c", "0x81000002", "-f", "pem", "-o", "linked.pem")

	// Ours uses them: at their handles, and from their files.
	m.run("init", "--no-pin")
	contains(t, "handles", m.run("handles"), "0x81000001", "0x81000002", "0x81000010")
	ours := []string{"unseal", "--pcr", "sha256:0,1,2,7"}
	if got := m.run(append(ours, "0x81000001")...); got != "the secret" {
		t.Errorf("unsealed at the handle: %q", got)
	}
	if got := m.run(append(ours, "--public", "@seal.pub", "--private", "@seal.priv", "--parent", "0x81000010")...); got != "the secret" {
		t.Errorf("unsealed from the files: %q", got)
	}
	m.tool("tpm2_create", "-C", "0x81000010", "-L", "pcr.policy", "-G", "rsa2048", "-u", "two.pub", "-r", "two.priv", "-f", "pem", "-o", "imported.pem")
	m.tool("tpm2_flushcontext", "-t")
	m.run("key", "link", "0x81000002", "--label", "linked", "--pcr", "sha256:0,1,2,7")
	m.run("key", "import", "--public", "@two.pub", "--private", "@two.priv", "--parent", "0x81000010", "--label", "imported", "--pcr", "sha256:0,1,2,7", "--wrapped", "--force")
	for _, key := range []string{"linked", "imported"} {
		m.run("sign", key, "--in", "@message", "--scheme", "pkcs1", "--format", "tss", "--out", "@sig")
		m.tool("tpm2_loadexternal", "-G", "rsa", "-u", key+".pem", "-c", "verify.ctx")
		m.tool("tpm2_verifysignature", "-c", "verify.ctx", "-g", "sha256", "-m", "message", "-s", "sig")
		m.tool("tpm2_flushcontext", "-t")
	}

	// Ours: a sealed object and a key with the same policy, and theirs uses them.
	m.run("seal", "--in", "@secret", "--pcr", "sha256:0,1,2,7", "--force", "--format", "tpm2-tools", "--out", "@ours")
	m.run("key", "create", "web", "--wrapped", "--pcr", "sha256:0,1,2,7", "--force")
	m.run("key", "export", "web", "--format", "tpm2-tools", "--out", "@web")
	m.run("key", "public", "web", "--out", "@web.pem")
	parent := m.srkHandle()
	m.tool("tpm2_load", "-C", parent, "-u", "ours.pub", "-r", "ours.priv", "-c", "ours.ctx")
	if got := m.tool("tpm2_unseal", "-c", "ours.ctx", "-p", "pcr:sha256:0,1,2,7"); got != "the secret" {
		t.Errorf("tpm2_unseal by pcr: %q", got)
	}
	m.tool("tpm2_startauthsession", "--policy-session", "-S", "s.ctx")
	m.tool("tpm2_policypcr", "-S", "s.ctx", "-l", "sha256:0,1,2,7", "-L", "again.policy")
	if got := m.tool("tpm2_unseal", "-c", "ours.ctx", "-p", "session:s.ctx"); got != "the secret" {
		t.Errorf("tpm2_unseal by a session: %q", got)
	}
	m.tool("tpm2_flushcontext", "s.ctx")
	m.tool("tpm2_flushcontext", "-t")
	if !bytes.Equal(m.read("again.policy"), m.read("pcr.policy")) {
		t.Error("the policy digests differ")
	}
	m.tool("tpm2_load", "-C", parent, "-u", "web.pub", "-r", "web.priv", "-c", "web.ctx")
	m.tool("tpm2_sign", "-c", "web.ctx", "-p", "pcr:sha256:0,1,2,7", "-g", "sha256", "-s", "rsassa", "-f", "plain", "-o", "their.sig", "message")
	m.tool("tpm2_flushcontext", "-t")
	m.run("verify", "--public", "@web.pem", "--in", "@message", "--signature", "@their.sig", "--scheme", "pkcs1")

	// Theirs with our file of PCRs and our policy digest, and our key at a handle.
	m.run("pcr", "read", "sha256:0,1,2,7", "--out", "@our.pcrs")
	m.run("policy", "digest", "--pcr", "sha256:0,1,2,7", "--pcr-file", "@our.pcrs", "--out", "@our.policy")
	m.tool("tpm2_create", "-C", "0x81000010", "-L", "our.policy", "-i", "secret", "-u", "mixed.pub", "-r", "mixed.priv")
	m.tool("tpm2_flushcontext", "-t")
	if got := m.run(append(ours, "--public", "@mixed.pub", "--private", "@mixed.priv", "--parent", "0x81000010")...); got != "the secret" {
		t.Errorf("unsealed with our digest: %q", got)
	}
	m.run("key", "persist", "web", "--handle", "0x81000020")
	m.tool("tpm2_sign", "-c", "0x81000020", "-p", "pcr:sha256:0,1,2,7=our.pcrs", "-g", "sha256", "-s", "rsassa", "-f", "plain", "-o", "their.sig", "message")
	m.run("verify", "--public", "@web.pem", "--in", "@message", "--signature", "@their.sig", "--scheme", "pkcs1")

	// Neither uses them once a PCR has changed.
	m.tpm.Extend(t, "sha256", 7, []byte("another boot"))
	for _, args := range [][]string{append(ours, "0x81000001"), {"sign", "linked", "--in", "@message"}, {"sign", "web", "--in", "@message"}, {"sign", "imported", "--in", "@message"}} {
		if r := m.try(args...); r.code == exitOK {
			t.Errorf("%s works after PCR 7 changed", strings.Join(args, " "))
		}
	}
	m.tool("tpm2_load", "-C", parent, "-u", "ours.pub", "-r", "ours.priv", "-c", "ours.ctx")
	if out, err := m.tryTool("tpm2_unseal", "-c", "ours.ctx", "-p", "pcr:sha256:0,1,2,7"); err == nil {
		t.Errorf("tpm2_unseal works after PCR 7 changed: %s", out)
	}
	m.tool("tpm2_flushcontext", "-t")
	m.tool("tpm2_flushcontext", "-l")
}

// srkHandle is where this command made its storage root key.
func (m *machine) srkHandle() string {
	m.t.Helper()
	var store struct {
		SRK struct {
			Handle string `json:"handle"`
		} `json:"srk"`
	}
	text, err := os.ReadFile(m.path("store/token.json"))
	if err == nil {
		err = json.Unmarshal(text, &store)
	}
	if err != nil || store.SRK.Handle == "" {
		m.t.Fatalf("%v: %s", err, text)
	}
	return store.SRK.Handle
}

// An image that systemd-measure signed works as it is, and what is signed here is what systemd-measure signs.
func TestSignaturesOfSystemdMeasure(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.buildKey("-algorithm", "RSA")
	measure := func(kernel, file string) {
		t.Helper()
		m.write("linux", kernel)
		m.write(file, m.tool("/usr/lib/systemd/systemd-measure", "sign", "--linux="+m.path("linux"), "--phase=enter-initrd", "--bank=sha256",
			"--bank=sha384", "--private-key="+m.path("ci.pem"), "--public-key="+m.path("ci.pub"), "--tpm2-device="+m.tpm.Address()))
	}
	// boot measures as systemd's stub and its service do: a section's name, its content, and the phase.
	boot := func(kernel string) {
		t.Helper()
		m.tpm.Restart(t)
		for _, bank := range []string{"sha256", "sha384"} {
			for _, event := range []string{".linux\x00", kernel, "enter-initrd"} {
				m.tpm.Extend(t, bank, 11, []byte(event))
			}
		}
	}
	measure("a kernel", "tpm2-pcr-signature.json")
	boot("a kernel")
	m.configure("approved = [\"tpm2-pcr-signature.json\"]\n")
	m.run("init", "--no-pin")
	m.write("web.toml", "authorize = { signer = \"file:ci.pub\" }\n")
	m.write("message", "hello")
	m.run("key", "create", "web", "--policy", "@web.toml")
	m.run("sign", "web", "--in", "@message", "--out", "@sig")
	m.stdin = "secret"
	m.run("seal", "--policy", "@web.toml", "--out", "@secret.tss2")
	m.stdin = ""
	if got := m.run("unseal", "@secret.tss2"); got != "secret" {
		t.Errorf("unsealed %q", got)
	}

	m.pcrPolicy("image.toml", 11)
	var theirs, ours map[string][]map[string]any
	if err := json.Unmarshal([]byte(m.run("policy", "sign", "@image.toml", "--key", "@ci.pem", "--format", "systemd", "--public-out", "@their.pem")), &ours); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(m.read("tpm2-pcr-signature.json"), &theirs); err != nil {
		t.Fatal(err)
	}
	if a, b := fmt.Sprint(ours["sha256"]), fmt.Sprint(theirs["sha256"]); a != b || len(ours["sha256"]) != 1 {
		t.Errorf("signed here\n%s\nsigned there\n%s", a, b)
	}

	if !bytes.Equal(m.read("their.pem"), m.read("ci.pub")) {
		t.Errorf("the signer's public key is written\n%s", m.read("their.pem"))
	}

	boot("another kernel")
	m.refused(exitFailed, `policy "web": `, "", "sign", "web", "--in", "@message")
	m.refused(exitFailed, "PCR11 has digest ", "", "unseal", "@secret.tss2")
	measure("another kernel", "next.pcrsig")
	m.run("policy", "approve", "@next.pcrsig")
	m.run("sign", "web", "--in", "@message", "--out", "@sig")
	m.run("unseal", "@secret.tss2")
}

// The format has no form for branches, nested or beyond eight: they are in the line before the PEM, with which the key is taken in
// again; without it the key is known for what it is, and not used.
func TestBranchesAcrossStores(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.tpm.Extend(t, "sha256", 7, []byte("a boot"))
	m.write("message", "hello")
	branch := func(b byte) string {
		return fmt.Sprintf(`{ pcr = { bank = "sha256", "7" = "%s" } }`, strings.Repeat(fmt.Sprintf("%02x", b), 32))
	}
	var many []string
	for i := range byte(11) {
		many = append(many, branch(i+1))
	}
	m.write("web.toml", "all = [ { any = [ "+strings.Join(many, ", ")+", { all = [ { command = \"sign\" }, { any = [ "+branch(0x77)+
		", { pcr = { bank = \"sha256\", indices = [7] } } ] } ] } ] }, { clock = { within = \"1d\" } } ]\n")
	m.run("init", "--no-pin")
	m.run("key", "create", "web", "--type", "p256", "--wrapped", "--policy", "@web.toml")
	m.run("key", "export", "web", "--out", "@web.tss2")
	m.run("init", "--no-pin", "--store", "@other")
	m.run("key", "import", "@web.tss2", "--label", "web", "--wrapped", "--store", "@other")
	m.run("sign", "web", "--in", "@message", "--out", "@sig", "--store", "@other")
	m.run("verify", "web", "--in", "@message", "--signature", "@sig")

	_, pem, _ := strings.Cut(string(m.read("web.tss2")), "\n")
	m.write("bare.tss2", pem)
	m.run("init", "--no-pin", "--store", "@third")
	m.refused(exitFailed, "PolicyOR (command code 0x171) is not supported", "", "key", "import", "@bare.tss2", "--label", "web", "--store", "@third")
	m.tpm.Extend(t, "sha256", 7, []byte("an update"))
	m.refused(exitFailed, "branch 12: sha256 PCR7 is ", "", "sign", "web", "--in", "@message", "--store", "@other")
}
