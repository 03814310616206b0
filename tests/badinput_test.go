package tests

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Exit codes of the command.
const (
	failed = 1
	usage  = 2
)

// mistake is a command line that must be refused, and what its error must say: what is wrong, and what to do.
type mistake struct {
	name  string
	code  int
	words []string
	args  []string
}

// refuses demands each refusal, and that it costs nothing: neither a key nor room in the TPM.
func (m *machine) refuses(mistakes []mistake) {
	m.t.Helper()
	keys, held := m.tpm2p11("key", "list").stdout, m.tpm.Count(m.t)
	for _, e := range mistakes {
		r := m.refused(e.words, command, e.args...)
		if r.code != e.code {
			m.t.Errorf("%s: exit code %d, want %d", e.name, r.code, e.code)
		}
		if first, _, _ := strings.Cut(r.stderr, "\n"); r.stdout != "" || !strings.HasPrefix(first, "tpm2-p11: ") {
			m.t.Errorf("%s: printed %q and %q", e.name, r.stdout, r.stderr)
		}
		for _, secret := range []string{userPIN, soPIN, ownPIN, wrongPIN} {
			if strings.Contains(r.all(), secret) {
				m.t.Errorf("%s: a PIN is in the error: %s", e.name, r.all())
			}
		}
	}
	if now := m.tpm2p11("key", "list").stdout; now != keys {
		m.t.Errorf("the keys were\n%s\nand are\n%s", keys, now)
	}
	if now := m.tpm.Count(m.t); now != held {
		m.t.Errorf("the TPM holds %v now, %v before", now, held)
	}
}

const wrongPIN = "31415926"

// signs demands a signature that openssl takes.
func (m *machine) signs(label string, options ...string) {
	m.t.Helper()
	m.write("in.txt", "the contract")
	m.tpm2p11("key", "public", label, "--out", label+".pub")
	m.tpm2p11(append([]string{"sign", label, "--in", "in.txt", "--out", label + ".sig"}, options...)...)
	m.opensslVerify(label+".pub", label+".sig")
}

// What a person gets wrong at the command line.
func TestBadInputOfTheCommand(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	withPIN(m)
	m.tpm2p11("key", "create", "mail", "--use", "decrypt", "--pin-file", "pin")
	m.tpm2p11("key", "create", "twin", "--type", "p256", "--id", "02", "--pin-file", "pin")
	m.tpm2p11("key", "create", "twin", "--type", "p256", "--id", "03", "--pin-file", "pin", "--force")
	m.foreignKey("ecc", "0x81000300")
	m.write("wrong", wrongPIN)
	m.write("in.txt", "the contract")
	m.write("forty", strings.Repeat("\x01", 40))
	m.write("block", strings.Repeat("\x01", 256))
	m.write("over", strings.Repeat("\xff", 256))
	m.write("long", strings.Repeat("x", 129))
	m.write("unknown.conf", string(m.read("tpm2-p11.conf"))+"colour = \"red\"\n")
	m.refuses([]mistake{
		{"wrong PIN", failed, []string{"wrong PIN", "lockout show"}, []string{"sign", "web", "--in", "in.txt", "--pin-file", "wrong"}},
		{"wrong PIN for a new key", failed, []string{"wrong PIN", "lockout show"}, []string{"key", "create", "new", "--type", "p256", "--pin-file", "wrong"}},
		{"absent device", failed, []string{"the TPM cannot be reached", "no-such-device", "no such file", "doctor"}, []string{"handles", "--tpm", "device:" + m.path("no-such-device")}},
		{"absent device under a key", failed, []string{"the TPM cannot be reached", "no-such-device"}, []string{"sign", "web", "--in", "in.txt", "--pin-file", "pin", "--tpm", "device:" + m.path("no-such-device")}},
		{"what is no device", failed, []string{"in.txt"}, []string{"handles", "--tpm", "device:" + m.path("in.txt")}},
		{"absent socket", failed, []string{"the TPM cannot be reached", "no-such-socket"}, []string{"handles", "--tpm", "swtpm:path=" + m.path("no-such-socket")}},
		{"unknown key", failed, []string{`"nobody": no such key`, "key list"}, []string{"sign", "nobody", "--in", "in.txt", "--pin-file", "pin"}},
		{"ambiguous label", failed, []string{"more than one key", "id=%02", "id=%03", "CKA_ID"}, []string{"sign", "twin", "--in", "in.txt", "--pin-file", "pin"}},
		{"taken handle", failed, []string{"the persistent handle is taken", "0x81000100", "tpm2-p11 handles"}, []string{"key", "create", "new", "--type", "p256", "--handle", "0x81000100", "--pin-file", "pin"}},
		{"foreign handle", failed, []string{"the persistent handle is taken", "0x81000300", "tpm2-p11 handles"}, []string{"key", "create", "new", "--type", "p256", "--handle", "0x81000300", "--pin-file", "pin"}},
		{"storage root key's handle", failed, []string{"the persistent handle is taken", "0x81000001"}, []string{"key", "create", "new", "--type", "p256", "--handle", "0x81000001", "--pin-file", "pin"}},
		{"empty handle", failed, []string{"no object at this handle", "tpm2-p11 handles"}, []string{"key", "link", "0x81000999", "--label", "nobody"}},
		{"corrupt PEM", failed, []string{"in.txt", "no private key in PEM form"}, []string{"key", "import", "in.txt", "--label", "new", "--pin-file", "pin"}},
		{"unknown key of the configuration", failed, []string{fmt.Sprintf("unknown.conf:%d", strings.Count(string(m.read("unknown.conf")), "\n")), `"colour"`}, []string{"key", "list", "--config", "unknown.conf"}},
		{"digest that is too long", failed, []string{"forty", "must be 32 bytes"}, []string{"sign", "web", "--digest", "--in", "forty", "--pin-file", "pin"}},
		{"secret that is too long", failed, []string{"long", "more than 128 bytes"}, []string{"seal", "--in", "long", "--out", "sealed"}},
		{"ciphertext of the wrong length", failed, []string{"256 bytes", "40"}, []string{"decrypt", "mail", "--in", "forty", "--pin-file", "pin"}},
		{"ciphertext of another key", failed, []string{"decryption failed", "OAEP"}, []string{"decrypt", "mail", "--in", "block", "--pin-file", "pin"}},
		{"ciphertext over the modulus", failed, []string{"decryption failed", "OAEP"}, []string{"decrypt", "mail", "--in", "over", "--pin-file", "pin"}},
		{"key that does not decrypt", failed, []string{"only RSA keys decrypt"}, []string{"decrypt", "web", "--in", "block", "--pin-file", "pin"}},
		{"no such verb", usage, []string{"sing"}, []string{"sing", "web"}},
		{"PIN in the arguments", usage, []string{"--pin"}, []string{"sign", "web", "--pin", "x"}},
		{"PCRs that are none", usage, []string{"sha256:99"}, []string{"pcr", "read", "sha256:99"}},
	})
	for _, file := range []string{"sealed", "p"} {
		if _, err := os.Stat(m.path(file)); err == nil {
			t.Errorf("%s was left behind", file)
		}
	}
	if n := m.lockoutCounter(); n != 2 {
		t.Errorf("two wrong PINs counted %d", n)
	}
	m.signs("web", "--pin-file", "pin")
	m.run("tpm2_readpublic", "-Q", "-c", "0x81000300")
}

// foreignKey makes a persistent signing key as another tool would, in place of what was there.
func (m *machine) foreignKey(algorithm, handle string) {
	m.t.Helper()
	m.start("tpm2_evictcontrol", "-Q", "-C", "o", "-c", handle)
	m.run("tpm2_createprimary", "-Q", "-C", "o", "-G", algorithm, "-g", "sha256", "-a", "sign|fixedtpm|fixedparent|sensitivedataorigin|userwithauth", "-c", "foreign.ctx")
	m.run("tpm2_evictcontrol", "-Q", "-C", "o", "-c", "foreign.ctx", handle)
	m.run("tpm2_flushcontext", "-t")
}

// Another tool puts its own key where one of ours was. It never signs for ours, and is never deleted with it.
func TestHandleUsedByAnotherTool(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	oneKey(m)
	m.foreignKey("ecc", "0x81000300")
	m.tpm2p11("key", "link", "0x81000300", "--label", "linked")
	m.signs("linked")
	m.foreignKey("ecc384", "0x81000300")
	m.foreignKey("ecc384", "0x81000100")
	m.write("in.txt", "the contract")
	for label, handle := range map[string]string{"linked": "0x81000300", "web": "0x81000100"} {
		m.refused([]string{"another object is at this handle", handle, "tpm2-p11 handles"}, command, "sign", label, "--in", "in.txt", "--out", "none.sig")
		m.refused([]string{"CKR_KEY_HANDLE_INVALID"}, "pkcs11-tool", "--module", module, "--sign", "--label", label, "--mechanism", "ECDSA-SHA256", "-i", "in.txt", "-o", "none.sig")
	}
	if _, err := os.Stat(m.path("none.sig")); err == nil {
		t.Error("a foreign key signed")
	}
	m.tpm2p11("key", "evict", "web")
	m.signs("web") // from its file
	m.tpm2p11("key", "persist", "web", "--handle", "0x81000400")
	m.signs("web")
	for _, label := range []string{"linked", "web"} {
		m.tpm2p11("key", "delete", label, "--yes")
	}
	for _, handle := range []string{"0x81000100", "0x81000300"} {
		m.run("tpm2_readpublic", "-Q", "-c", handle)
	}
	m.refused(nil, "tpm2_readpublic", "-Q", "-c", "0x81000400")
}

// A file of the store is torn. The other keys work, doctor names the file, and with the file put back all is as it was.
func TestCorruptStore(t *testing.T) {
	t.Parallel()
	for _, ending := range []string{".pem", ".json"} {
		t.Run(ending, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, "")
			oneKey(m)
			m.tpm2p11("key", "create", "mail", "--type", "p256")
			var shown struct{ Key struct{ File string } }
			if err := json.Unmarshal([]byte(m.tpm2p11("key", "show", "mail", "--json").stdout), &shown); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("store", shown.Key.File+ending)
			whole := m.read(file)
			for name, torn := range map[string]string{"empty": "", "half": string(whole[:len(whole)/2]), "garbage": "\x00\xff garbage"} {
				m.write(file, torn)
				m.refused([]string{"no such key"}, command, "sign", "mail", "--in", m.write("in.txt", "x"), "--out", "none.sig")
				m.signs("web")
				m.refused([]string{shown.Key.File + ending, "corrupt", `ok    key "web"`}, command, "doctor")
				if list := m.tpm2p11("key", "list").all(); !strings.Contains(list, "doctor") {
					t.Errorf("%s: the list does not say that a file is unusable:\n%s", name, list)
				}
				objects := m.pkcs11Tool("--list-objects", "--type", "privkey").stdout
				if !strings.Contains(objects, "web") || strings.Contains(objects, "mail") {
					t.Errorf("%s: the module lists\n%s", name, objects)
				}
			}
			m.write(file, string(whole))
			m.signs("mail")
		})
	}
}

// A configuration that is wrong stops the module too: the application is told at C_Initialize, and why is where the rest of it says.
func TestBadConfigurationOfTheModule(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	oneKey(m)
	right := string(m.read("tpm2-p11.conf"))
	for says, wrong := range map[string]string{
		`unknown key \"colour\"`: right + "colour = \"red\"\n",
		`tpm2-p11.conf:1: `:      strings.Replace(right, m.tpm.Address(), "/dev/tpm0", 1),
		`no-such-file`:           right + "owner_auth_file = \"no-such-file\"\n",
	} {
		m.write("tpm2-p11.conf", wrong)
		m.refused([]string{"CKR_FUNCTION_FAILED", says}, "pkcs11-tool", "--module", module, "--list-slots")
	}
}

// A PCR bank that the TPM does not keep binds nothing.
func TestInactivePCRBank(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	oneKey(m)
	m.run("tpm2_pcrallocate", "sha1:none+sha256:all+sha384:none+sha512:none")
	m.tpm.Restart(t)
	words := []string{"the PCR bank sha384 is not active", "active are sha256"}
	m.write("in.txt", "a secret")
	m.refuses([]mistake{
		{"reading", failed, words, []string{"pcr", "read", "sha384:0"}},
		{"sealing", failed, words, []string{"seal", "--in", "in.txt", "--out", "sealed", "--pcr", "sha384:0"}},
		{"binding", failed, words, []string{"key", "create", "new", "--type", "p256", "--pcr", "sha384:0"}},
		{"binding to two banks", failed, words, []string{"key", "create", "new", "--type", "p256", "--pcr", "sha256:7", "--pcr", "sha384:0", "--force"}},
	})
	m.signs("web")
}

// A user who may not open the TPM, or not the store, is told so and what to do.
func TestNoPermission(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	oneKey(m)
	held := m.tpm.Count(t)

	// A folder that everybody may enter, with the command and a configuration.
	open, err := os.MkdirTemp("", "tpm2-p11-open")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(open) })
	m.run("chmod", "755", open)
	m.run("install", "-m", "755", command, open)
	home := filepath.Join(open, "home")
	m.run("install", "-d", "-m", "777", home)
	for name, store := range map[string]string{"tpm.conf": filepath.Join(home, "store"), "store.conf": m.path("store")} {
		text := fmt.Sprintf("tpm = %q\nstore = %q\nlog = \"stderr\"\n", m.tpm.Address(), store)
		if err := os.WriteFile(filepath.Join(open, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		m.run("chmod", "644", filepath.Join(open, name))
	}
	m.env = append(m.env, "HOME="+home)
	as := m.withoutRights()
	nobody := func(words []string, args ...string) {
		t.Helper()
		args = append(append(as, filepath.Join(open, "tpm2-p11")), args...)
		m.refused(words, args[0], args[1:]...)
	}
	words := []string{"permission denied", "the TPM cannot be reached", m.tpm.Socket(), "join the group"}
	nobody(words, "--config", filepath.Join(open, "tpm.conf"), "handles")
	nobody(words, "--config", filepath.Join(open, "tpm.conf"), "init", "--no-pin")
	nobody([]string{"permission denied", m.path("store")}, "--config", filepath.Join(open, "store.conf"), "key", "list")
	nobody([]string{"fail  TPM", "permission denied"}, "--config", filepath.Join(open, "tpm.conf"), "doctor")

	m.run("chmod", "700", m.tpm.Socket(), m.path("store"))
	if now := m.tpm.Count(t); now != held {
		t.Errorf("the TPM holds %v now, %v before", now, held)
	}
	m.signs("web")
}

// withoutRights takes the rights to the TPM and the store away. It gives the words to put before a command: root needs to become somebody else.
func (m *machine) withoutRights() []string {
	m.t.Helper()
	m.run("chmod", "0", m.tpm.Socket(), m.path("store"))
	m.t.Cleanup(func() { m.run("chmod", "700", m.tpm.Socket(), m.path("store")) }) // for a test that failed
	if os.Geteuid() != 0 {
		return nil
	}
	return []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"}
}
