package tests

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/keyservice"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/simtest"
)

// instance is an attestable machine, and a KMS with a key that decrypts for what it runs.
type instance struct {
	*machine
	sim *simtest.Sim
	kms *simtest.KMS
	key string // ARN
}

// newInstance boots a machine on which nothing was prepared, in its role.
func newInstance(t *testing.T) *instance {
	t.Helper()
	m := &instance{machine: &machine{t: t, dir: t.TempDir()}, sim: simtest.Start(t)}
	m.instance = m
	m.kms = simtest.StartKMS(t, keyservice.Options{Roots: []*x509.Certificate{m.sim.Root(t)}})
	m.configure("")
	m.env = append(os.Environ(), "TPM2_P11_CONF="+m.path("tpm2-p11.conf"), "PKCS11_MODULE_PATH="+module,
		"HOME="+m.dir, "LC_ALL=C", "NO_COLOR=1", "AWS_EC2_METADATA_DISABLED=true")
	m.env = append(m.env, m.kms.Environ(simtest.MachineRole)...)
	m.key = m.kms.Key(t, m.policy())
	m.configure(fmt.Sprintf("key_id = %q\n", m.key))
	return m
}

// policy is a key policy for what the machine runs now.
func (m *instance) policy() string {
	m.t.Helper()
	return m.tpm2p11("kms", "key-policy", "--machine", simtest.MachineRole.ARN, "--encrypter", simtest.ReleaseRole.ARN,
		"--admin", simtest.KeysRole.ARN, "--current", "Now").stdout
}

// configure writes the configuration, with more in its [kms].
func (m *instance) configure(more string) { m.t.Helper(); m.configureTop("", more) }

// configureTop is configure with more at the top, too.
func (m *instance) configureTop(top, more string) {
	m.t.Helper()
	m.write("tpm2-p11.conf", fmt.Sprintf("%stpm = %q\nstore = %q\nlog = \"file:%s\"\nlog_level = \"debug\"\n\n[kms]\nendpoint = %q\nplain_http = true\n%s",
		top, m.sim.Address(), m.path("store"), m.path("debug.log"), m.kms.URL, more))
}

// as is the same machine's folder with another principal's credentials.
func (m *instance) as(p keyservice.Principal) *machine {
	other := *m.machine
	other.env = append(append([]string{}, m.env...), m.kms.Environ(p)...)
	return &other
}

// encrypt has somebody else, without a TPM, encrypt a file for the machine.
func (m *instance) encrypt(in, out string, flags ...string) {
	m.t.Helper()
	m.as(simtest.ReleaseRole).tpm2p11(append([]string{"kms", "encrypt", "--in", in, "--out", out, "--context", "purpose=db"}, flags...)...)
}

// On a fresh machine, with nothing prepared, a secret that somebody encrypted is decrypted, and the TPM is as it was.
func TestKMSSecretForAMeasuredMachine(t *testing.T) {
	t.Parallel()
	m := newInstance(t)
	before := m.tpm2p11("handles").stdout
	m.write("password", "correct horse\n")
	m.encrypt("password", "password.kms")
	m.encrypt("password", "password.b64", "--base64")

	if got := m.tpm2p11("kms", "decrypt", "--in", "password.kms", "--context", "purpose=db").stdout; got != "correct horse\n" {
		t.Errorf("decrypted %q", got)
	}
	m.tpm2p11("kms", "decrypt", "--in", "password.b64", "--context", "purpose=db", "--out", "secret")
	if info, err := os.Stat(m.path("secret")); err != nil || info.Mode().Perm() != 0o600 || string(m.read("secret")) != "correct horse\n" {
		t.Errorf("the file: %v, %v", info, err)
	}
	if after := m.tpm2p11("handles").stdout; after != before {
		t.Errorf("handles before:\n%s\nafter:\n%s", before, after)
	}
	if _, err := os.Stat(m.path("store")); err == nil {
		t.Error("a store was made")
	}
}

// The four steps on different machines: a document for a key, a closed answer, and what opens it where the key is.
func TestKMSStepsApart(t *testing.T) {
	t.Parallel()
	m := newInstance(t)
	m.tpm2p11("init", "--no-pin")
	m.tpm2p11("key", "create", "recipient", "--use", "decrypt")
	m.write("password", "correct horse")
	m.encrypt("password", "password.kms")

	m.tpm2p11("attest", "document", "--public-key", "recipient", "--out", "document")
	m.tpm2p11("kms", "decrypt", "--in", "password.kms", "--context", "purpose=db", "--document", "document", "--cms-out", "answer.cms")
	if bytes.Contains(m.read("answer.cms"), []byte("horse")) {
		t.Error("the answer is not closed")
	}
	if got := m.tpm2p11("kms", "open-cms", "--recipient", "recipient", "--in", "answer.cms").stdout; got != "correct horse" {
		t.Errorf("opened %q", got)
	}
	m.write("answer.b64", base64.StdEncoding.EncodeToString(m.read("answer.cms")))
	if got := m.tpm2p11("kms", "open-cms", "--recipient", "recipient", "--in", "answer.b64").stdout; got != "correct horse" {
		t.Errorf("opened %q", got)
	}
	m.run("openssl", "cms", "-decrypt", "-inform", "DER", "-in", "answer.cms", "-engine", "pkcs11", "-keyform", "engine",
		"-inkey", "pkcs11:object=recipient;type=private", "-out", "opened")
	if got := string(m.read("opened")); got != "correct horse" {
		t.Errorf("openssl opened %q", got)
	}
	for _, flags := range []string{"--document document --recipient recipient", "--recipient recipient"} {
		if got := m.tpm2p11(append([]string{"kms", "decrypt", "--in", "password.kms", "--context", "purpose=db"}, strings.Fields(flags)...)...).stdout; got != "correct horse" {
			t.Errorf("%s: decrypted %q", flags, got)
		}
	}

	// The configuration names key, context and recipient, and nothing is left to say.
	m.configure(fmt.Sprintf("key_id = %q\nrecipient = \"recipient\"\ncontext = { purpose = \"db\" }\n", m.key))
	m.tpm2p11("kms", "decrypt", "--in", "password.kms", "--cms-out", "answer.cms")
	if got := m.tpm2p11("kms", "open-cms", "--in", "answer.cms").stdout; got != "correct horse" {
		t.Errorf("opened %q", got)
	}
}

// A data key in both its forms; its ciphertext gives it again.
func TestKMSDataKeys(t *testing.T) {
	t.Parallel()
	m := newInstance(t)
	m.tpm2p11("kms", "data-key", "--context", "disk=data", "--out", "disk.key", "--ciphertext-out", "disk.key.kms")
	key := m.read("disk.key")
	if info, err := os.Stat(m.path("disk.key")); err != nil || info.Mode().Perm() != 0o600 || len(key) != 32 {
		t.Errorf("a key of %d bytes: %v, %v", len(key), info, err)
	}
	if got := m.tpm2p11("kms", "decrypt", "--context", "disk=data", "--in", "disk.key.kms").stdout; got != string(key) {
		t.Error("the ciphertext gives another key")
	}
	if got := m.tpm2p11("kms", "data-key", "--context", "disk=data", "--ciphertext-out", "16", "--bytes", "16").stdout; len(got) != 16 {
		t.Errorf("%d bytes", len(got))
	}
}

// The page's commands run as they are printed, on an instance and with a KMS whose key is called fleet.
func TestKMSDocs(t *testing.T) {
	t.Parallel()
	m := newInstance(t)
	policy := m.tpm2p11("kms", "key-policy", "--machine", simtest.MachineRole.ARN, "--encrypter", simtest.MachineRole.ARN,
		"--admin", simtest.KeysRole.ARN, "--current", "Now").stdout
	if _, err := m.kms.CreateKey(keyservice.KeyOptions{Account: simtest.Account, Alias: "alias/fleet", Policy: policy}); err != nil {
		t.Fatal(err)
	}
	m.configure("")
	m.env = append(m.env, "PATH="+filepath.Dir(command)+":"+os.Getenv("PATH"))
	m.write("password", "correct horse")
	m.write("november.json", fmt.Sprintf(`{"Measurements": {"HashAlgorithm": "SHA384 { ... }", "PCR4": "%096d", "PCR7": "%096d"}}`, 4, 7))
	text, err := os.ReadFile("../docs/kms.md")
	if err != nil {
		t.Fatal(err)
	}
	page, rest, _ := strings.Cut(string(text), "\n## On a laptop\n") // a test of its own
	_, rest, _ = strings.Cut(rest, "\n## ")
	blocks := commandBlocks(page + "\n## " + rest)
	if len(blocks) < 8 {
		t.Errorf("only %d blocks", len(blocks))
	}
	for _, block := range blocks {
		if strings.HasPrefix(block, "pkcs11-tool") { // which says nothing to KMS but what [kms] does
			m.configure("key_id = \"alias/fleet\"\ncontext = { disk = \"data\" }\n")
		}
		m.run("sh", "-ec", strings.ReplaceAll(block, "/usr/local/lib/pkcs11/tpm2-p11.so", module))
	}
	if got := string(m.read("password.clear")); got != "correct horse" {
		t.Errorf("decrypted %q", got)
	}
}

// The unit that imports the fleet's key before nginx starts is right, confined, and its command does what it says.
func TestKMSUnit(t *testing.T) {
	t.Parallel()
	m := newInstance(t)
	text, err := os.ReadFile("../packaging/tpm2-p11-import-key.service")
	if err != nil {
		t.Fatal(err)
	}
	unit := m.write("tpm2-p11-import-key.service", strings.ReplaceAll(string(text), "/usr/local/bin/tpm2-p11", command))
	if said := m.run("systemd-analyze", "verify", "--man=no", unit).all(); strings.TrimSpace(said) != "" {
		t.Error(said)
	}
	m.run("systemd-analyze", "security", "--offline=true", "--threshold=25", unit)

	m.issueKey("web", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
	m.configure(fmt.Sprintf("key_id = %q\ncontext = { purpose = \"tls\" }\n", m.key))
	_, start, _ := strings.Cut(strings.ReplaceAll(string(m.read("tpm2-p11-import-key.service")), "\\\n", ""), "\nExecStart=")
	start, _, _ = strings.Cut(start, "\n")
	for _, outcome := range []string{"created", "unchanged"} {
		if said := m.run("sh", "-ec", strings.ReplaceAll(start, "/etc/tpm2-p11/", m.dir+"/")).stdout; !strings.Contains(said, "web: "+outcome) {
			t.Errorf("not %s: %s", outcome, said)
		}
	}
}

// With [kms.offline] a machine that was served once does without KMS for a term, as long as it is the same.
func TestKMSOutOfReach(t *testing.T) {
	t.Parallel()
	m := newInstance(t)
	m.configure(fmt.Sprintf("key_id = %q\nattempts = 1\n[kms.offline]\ndir = \"offline\"\npcrs = \"sha384:4,7\"\nfor = \"24h\"\n", m.key))
	m.write("password", "correct horse")
	m.encrypt("password", "password.kms")
	decrypt := []string{"kms", "decrypt", "--in", "password.kms", "--context", "purpose=db"}
	m.kms.Inject(keyservice.Close, 1)
	m.refused([]string{"KMS cannot be reached", "no copy of it is kept here"}, command, decrypt...)
	m.tpm2p11(decrypt...)
	m.kms.Inject(keyservice.Close, 1)
	got := m.tpm2p11(decrypt...)
	if got.stdout != "correct horse" {
		t.Errorf("decrypted %q", got.stdout)
	}
	for _, words := range []string{"warning: a copy that is kept in this machine's TPM is used: ", "KMS cannot be reached"} {
		if !strings.Contains(got.stderr, words) {
			t.Errorf("said %q", got.stderr)
		}
	}
	m.sim.Extend(t, "sha384", 4, []byte("another image"))
	m.kms.Inject(keyservice.Close, 1)
	m.refused([]string{"KMS cannot be reached", "the copy kept here does not open", "PCR"}, command, decrypt...)
	m.refused([]string{"access denied by KMS"}, command, decrypt...)
	if copies, err := os.ReadDir(m.path("offline")); err != nil || len(copies) != 0 {
		t.Errorf("copies after a refusal: %v, %v", copies, err)
	}
}
