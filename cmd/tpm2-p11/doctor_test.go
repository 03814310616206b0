package main

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/internal/tpmtest"
	"github.com/tpm2-p11/tpm2-p11/internal/wire"
	"github.com/tpm2-p11/tpm2-p11/keystore"
)

// diagnosed runs doctor, which must find something to fail by, and say these texts.
func (m *machine) diagnosed(want ...string) {
	m.t.Helper()
	r := m.try("doctor")
	if r.code != exitFailed {
		m.t.Errorf("doctor: exit code %d", r.code)
	}
	contains(m.t, "doctor", r.stdout, want...)
	if strings.Contains(r.stdout, "`tpm2-p11 doctor`") {
		m.t.Errorf("doctor sends its reader to doctor:\n%s", r.stdout)
	}
}

func TestDoctorNamesWhatIsWrongWithAStore(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run("init", "--no-pin")
	anchor := m.read(filepath.Join("store", "token.json"))
	m.write(filepath.Join("store", "token.json"), "torn")
	m.diagnosed("ok    configuration: ", "ok    TPM: ", "fail  store: ", "token.json", "restore the file from a backup")
	m.write(filepath.Join("store", "token.json"), string(anchor))
	if err := os.Chmod(m.path("store"), 0o777); err != nil {
		t.Fatal(err)
	}
	m.diagnosed("ok    configuration: ", "ok    TPM: ", "fail  store: ", "`chmod -R go-w`")
}

func TestDoctorsCuresNameTheToken(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	token := func(label string) string {
		return "[[token]]\nlabel = \"" + label + "\"\nstore = \"" + label + "\"\ntpm = \"" + m.tpm.Address() + "\"\n"
	}
	m.write("tpm2-p11.conf", token("a")+token("of b"))
	m.run("init", "--no-pin", "--token", "a")
	m.run("key", "create", "web", "--type", "p256", "--token", "a")
	m.tool("tpm2_evictcontrol", "-Q", "-C", "o", "-c", "0x81000100")
	m.diagnosed("run `tpm2-p11 init --token 'of b'`", "run `tpm2-p11 key evict web --token a`, then `tpm2-p11 key persist web --token a`")
	if r := m.try("doctor", "--token", "of b"); strings.Count(r.stdout, "--token") != 1 {
		t.Errorf("the token that was chosen:\n%s", r.stdout)
	}
	m.run("init", "--no-pin", "--token", "of b")
}

// A rotation that went half way: programs that name the key by its label take the wrong one.
func TestDoctorNamesKeysOfOneLabel(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run("init", "--no-pin")
	for range 3 {
		m.run("key", "create", "web", "--type", "p256", "--force")
	}
	m.run("key", "create", "mail", "--type", "p256")
	out := m.run("doctor")
	contains(t, "doctor", out, `warn  labels: several keys are called "web": `, "`tpm2-p11 key list` shows")
	if strings.Count(out, "warn  labels: ") != 1 {
		t.Errorf("doctor:\n%s", out)
	}
}

// A package was taken back to the version before.
func TestDoctorOnFilesOfANewerVersion(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run("init", "--no-pin")
	m.run("key", "create", "web", "--type", "p256")
	name := filepath.Join("store", m.json("key", "show", "web")["key"].(map[string]any)["file"].(string)+".json")
	m.write(name, strings.Replace(string(m.read(name)), `"version": 1`, `"version": 2`, 1))
	m.diagnosed("fail  store file: ", "written by a newer version (version 2) - update tpm2-p11\n")
}

func TestDoctorNamesApprovedPoliciesThatCannotBeRead(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run("init", "--no-pin")
	if err := os.Mkdir(m.path("store/approved.d"), 0o700); err != nil {
		t.Fatal(err)
	}
	m.write("store/approved.d/random.toml", "\x00\xff\x13")
	m.write("store/approved.d/empty.json", "{}")
	out := m.run("doctor")
	for _, name := range []string{"random.toml", "empty.json"} {
		contains(t, "doctor", out, name)
	}
	if strings.Count(out, "warn  approved policies: ") != 2 {
		t.Errorf("doctor:\n%s", out)
	}
}

func TestDoctorOnATPMThatIsDown(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run("init", "--no-pin")
	m.tpm.Stop(t)
	m.diagnosed("fail  TPM: ", "start it, or correct its address", "ok    store: ")
	m.tpm.Restart(t)
}

// A log that cannot be written is told by doctor, and by a service that starts: nothing else would.
func TestLogThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run("init", "--no-pin")
	m.configure("log = \"file:" + m.path("log") + "\"\n")
	contains(t, "doctor", m.run("doctor"), "ok    log: file:"+m.path("log"))
	m.configure("log = \"file:" + m.path("no/log") + "\"\n")
	contains(t, "doctor", m.run("doctor"), "warn  log: the log "+m.path("no/log")+" cannot be written", "name another `log`")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var told strings.Builder
	a := &app{in: strings.NewReader(""), out: io.Discard, err: &told}
	a.run(ctx, []string{"serve", "--socket", m.path("service"), "--config", m.path("tpm2-p11.conf")})
	contains(t, "serve", told.String(), "warning:", m.path("no/log")+" cannot be written")
}

// A client's configuration leads its programs to a service. The command is no client.
func TestAClientsConfiguration(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run("init", "--no-pin")
	path := m.path("service")
	m.configure("socket = \"" + path + "\"\n")
	m.diagnosed("fail  service: ", "no such file", "`systemctl start tpm2-p11.socket`", "ok    store: ")
	stop := m.serving(path)
	contains(t, "doctor", m.run("doctor"), "ok    service: "+path+" answers and lets this user in, with 1 token")
	stop()

	m.run("key", "create", "web", "--type", "p256")
	const note = "note: the configuration's socket is for the module and Go programs"
	if r := m.try("key", "show", "other"); strings.Contains(r.stderr, note) {
		t.Errorf("a key that is not there: %s", r.stderr)
	}
	m.tpm.Stop(t)
	if r := m.try("pcr", "read"); r.code != exitFailed || !strings.Contains(r.stderr, note) {
		t.Errorf("no TPM: exit code %d, %s", r.code, r.stderr)
	}
	m.tpm.Restart(t)
}

// serving runs the service at a socket until stop is called.
func (m *machine) serving(path string) (stop func()) {
	m.t.Helper()
	ctx, cancel := context.WithCancel(m.t.Context())
	ended := make(chan int)
	config := m.write("served.conf", "tpm = \""+m.tpm.Address()+"\"\nstore = \""+m.path("store")+"\"\nlog = \"off\"\n")
	go func() {
		a := &app{in: strings.NewReader(""), out: io.Discard, err: io.Discard}
		ended <- a.run(ctx, []string{"serve", "--socket", path, "--config", config})
	}()
	return func() {
		cancel()
		if code := <-ended; code != exitOK {
			m.t.Errorf("the service ended with %d", code)
		}
	}
}

// The programs of a pure client need neither TPM nor store.
func TestDoctorPassesAPureClient(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run("init", "--no-pin")
	defer m.serving(m.path("service"))()
	client := "socket = \"" + m.path("service") + "\"\ntpm = \"device:/dev/none\"\nstore = \"" + m.path("none") + "\"\n"
	m.write("tpm2-p11.conf", client)
	out := m.run("doctor")
	contains(t, "doctor", out, "ok    service: ", "skip  TPM and store: none of this user's is here ("+m.path("none")+"), and none is needed")
	if strings.Contains(out, "/dev/none") || strings.Contains(out, "tpm2-p11 init") {
		t.Errorf("doctor asks for what a client does not need:\n%s", out)
	}
	if ok := m.json("doctor")["ok"]; ok != true {
		t.Errorf("ok is %v", ok)
	}
	m.write("tpm2-p11.conf", client+declared)
	m.diagnosed("fail  store: ", "`tpm2-p11 key ensure`") // it declares a key, so it has a store
}

// A socket that takes connections says nothing of whether whoever listens answers, and this user.
func TestDoctorAsksTheService(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run("init", "--no-pin")
	hung, err := net.Listen("unix", m.path("hung"))
	if err != nil {
		t.Fatal(err)
	}
	defer hung.Close()
	m.configure("socket = \"" + m.path("hung") + "\"\n")
	m.diagnosed("fail  service: "+m.path("hung")+" does not answer", "`systemctl restart tpm2-p11`")

	closed, err := net.Listen("unix", m.path("closed"))
	if err != nil {
		t.Fatal(err)
	}
	defer closed.Close()
	go func() {
		for {
			c, err := closed.Accept()
			if err != nil {
				return
			}
			f, err := wire.ReadFrame(c, wire.MaxMessage, nil)
			if err == nil {
				const functionRejected = 0x200
				_ = wire.WriteFrame(c, wire.Frame{Version: wire.Version, ID: f.ID, Message: binary.LittleEndian.AppendUint64(nil, functionRejected)})
			}
			c.Close()
		}
	}()
	m.configure("socket = \"" + m.path("closed") + "\"\n")
	m.diagnosed("fail  service: the server lets this user use no key", "[[access]]", "`systemctl reload tpm2-p11`")
	if out := m.try("doctor").stdout; strings.Contains(out, "policy") { // a key's would be another matter
		t.Errorf("doctor leads to a policy:\n%s", out)
	}
}

func TestDoctorComparesDeclaredKeys(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.tpm.Extend(t, "sha256", 7, []byte("boot"))
	m.configure(declared)
	m.run("init", "--no-pin")
	contains(t, "doctor", m.run("doctor"), `warn  declared key "web": neither store nor TPM has it - run `+"`tpm2-p11 key ensure web`")
	if keys := m.json("key", "list")["keys"].([]any); len(keys) != 0 {
		t.Errorf("doctor made keys: %v", keys)
	}
	m.run("key", "ensure")
	contains(t, "doctor", m.run("doctor"), `ok    declared key "web": it is there as declared`)
	m.configure(strings.ReplaceAll(declared, `type = "p256"`, `type = "p384"`))
	m.diagnosed(`fail  declared key "web": `, "its type is p256, declared is p384")
	m.configure(declared + "certificate = \"absent.crt\"\n")
	m.diagnosed(`fail  declared key "mail": `, "absent.crt", "no such file")
}

func TestDoctorDoesNotCallUsableWhatItCannotKnow(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.write("in", "what is signed")
	m.write("secret", "secret")
	m.run("init", "--no-pin")
	tool := func(name string, args ...string) {
		t.Helper()
		m.tool(name, args...)
		m.tool("tpm2_flushcontext", "-t")
	}
	tool("tpm2_createprimary", "-Q", "-C", "o", "-G", "ecc", "-c", "p.ctx")
	tool("tpm2_create", "-Q", "-C", "p.ctx", "-G", "ecc:ecdsa", "-p", "secret", "-u", "k.pub", "-r", "k.priv")
	tool("tpm2_load", "-Q", "-C", "p.ctx", "-u", "k.pub", "-r", "k.priv", "-c", "k.ctx")
	tool("tpm2_evictcontrol", "-Q", "-C", "o", "-c", "k.ctx", "0x81000300")
	tool("tpm2_create", "-Q", "-C", "p.ctx", "-G", "ecc:ecdaa4-sha256", "-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|sign", "-u", "d.pub", "-r", "d.priv")
	tool("tpm2_load", "-Q", "-C", "p.ctx", "-u", "d.pub", "-r", "d.priv", "-c", "d.ctx")
	tool("tpm2_evictcontrol", "-Q", "-C", "o", "-c", "d.ctx", "0x81000301")

	r := m.try("key", "link", "0x81000300", "--label", "guessed")
	if r.code != exitOK {
		t.Fatalf("link: %v", r)
	}
	contains(t, "link", r.stderr, "if it has a password after all, each use counts as a wrong try", "--own-pin-file")
	m.refused(exitFailed, "wrong PIN or authorisation value", "take it in again with --own-pin-file FILE, after `tpm2-p11 key delete guessed`", "sign", "guessed", "-i", "@in")
	contains(t, "doctor", m.run("doctor"), `warn  key "guessed": it is in the TPM; whether it takes a password only a use would show`)
	m.run("key", "delete", "guessed", "--yes")
	if r := m.try("key", "link", "0x81000300", "--label", "known", "--own-pin-file", "@secret"); r.code != exitOK || r.stderr != "" {
		t.Errorf("link with its PIN: %v", r)
	}
	m.run("sign", "known", "-i", "@in", "-o", "@sig", "--pin-file", "@secret")
	m.run("key", "link", "0x81000301", "--label", "useless")
	m.diagnosed(`ok    key "known": usable now, by its own PIN`, `fail  key "useless": nothing here can use it`)
}

func TestDoctorPassesAKeyOfEachUse(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run("init", "--no-pin")
	for label, key := range map[string][]string{
		"signs":    {"--type", "p256", "--use", "sign"},
		"agrees":   {"--type", "p256", "--use", "derive"},
		"both":     {"--type", "p384", "--use", "sign,derive"},
		"decrypts": {"--type", "rsa2048", "--use", "decrypt"},
	} {
		m.run(append([]string{"key", "create", label}, key...)...)
		contains(t, "doctor", m.run("doctor"), `ok    key "`+label+`": usable now`)
	}
}

// keep has a PKCS #11 program keep an AES key, and gives the name of its sidecar.
func (m *machine) keep(label string) string {
	m.t.Helper()
	a := &app{in: strings.NewReader(""), out: io.Discard, err: io.Discard}
	a.global.config = m.config
	token, err := a.token()
	if err != nil {
		m.t.Fatal(err)
	}
	defer a.set.Close()
	value := secret.From([]byte("0123456789abcdef"))
	defer value.Wipe()
	e, err := token.CreateSecret(m.t.Context(), value, keystore.SecretSpec{
		Label: label, NoPIN: true,
		Info: keystore.SecretInfo{Kind: keystore.SecretAES, Length: 16, Private: true, Sensitive: true, Use: []keystore.SecretUse{keystore.UseDecrypt}},
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return filepath.Join("store", e.ID+".json")
}

func TestDoctorOpensSecretsThatTakeNoPIN(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run("init", "--no-pin")
	name := m.keep("backup")
	contains(t, "doctor", m.run("doctor"), `ok    secret "backup": it opens, and is as it was written`)
	whole := string(m.read(name))
	for what, changed := range map[string]string{
		"an attribute": strings.Replace(whole, `"sensitive": true`, `"sensitive": false`, 1),
		"the value":    regexp.MustCompile(`"sealed": "[^"]{4}`).ReplaceAllString(whole, `"sealed": "AAAA`),
	} {
		if changed == whole {
			t.Fatalf("%s is not in %s", what, whole)
		}
		m.write(name, changed)
		m.diagnosed(`fail  secret "backup": `, "its file is not as it was written", "from a backup", "`tpm2-p11 key delete backup`")
	}
}

// The board was replaced. What was wrapped for the former TPM is lost, and no advice may make its owner hope.
func TestDoctorOnKeysOfAFormerTPM(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run("init", "--no-pin")
	m.run("key", "create", "web", "--type", "p256")
	m.run("key", "create", "mail", "--type", "p256", "--wrapped")
	m.keep("backup")
	m.tpm = tpmtest.Start(t)
	m.configure("")
	m.diagnosed("fail  storage root key: ", "`tpm2-p11 init --force`")
	m.refused(exitFailed, "the storage root key is not the one this store was made with", "begin a new store with `tpm2-p11 init --force`", "init")
	if held := m.tpm.Count(t).Persistent; held != 0 {
		t.Errorf("init put %d objects into a TPM that is not the store's", held)
	}
	m.run("init", "--no-pin", "--force")
	m.diagnosed(`fail  key "web": `, `fail  key "mail": `, `fail  secret "backup": `,
		"run `tpm2-p11 key delete web`, and `tpm2-p11 key create web` for a new one", "run `tpm2-p11 key delete backup`, and make it anew")
	if out := m.try("doctor").stdout; strings.Contains(out, "key persist") || strings.Contains(out, "from a backup") {
		t.Errorf("doctor's cure cannot help:\n%s", out)
	} else if n := strings.Count(out, "\nfail"); n != 3 {
		t.Errorf("three keys are lost, and doctor told %d times:\n%s", n, out)
	}
	m.run("key", "create", "good", "--type", "p256")
	file := func(label string) string {
		return m.path(filepath.Join("store", m.json("key", "show", label)["key"].(map[string]any)["file"].(string)))
	}
	for good, mail, endings := file("good"), file("mail"), []string{".pem", ".json"}; len(endings) > 0; endings = endings[1:] {
		if err := os.Rename(mail+endings[0], good+".old"+endings[0]); err != nil {
			t.Fatal(err)
		}
	}
	if out := m.try("doctor").stdout; strings.Count(out, "\nfail") != 3 {
		t.Errorf("a lost key whose file's name begins as a good one's:\n%s", out)
	}
	for _, label := range []string{"web", "mail", "backup"} {
		m.run("key", "delete", label, "--yes")
	}
	m.run("key", "create", "web", "--type", "p256")
	contains(t, "doctor", m.run("doctor"), `ok    key "web": usable now`)
}

// Whoever tidies up a TPM may take its storage root key for nobody's. The TPM makes the same key again: nothing is lost.
func TestARemovedStorageRootKeyComesBack(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.write("pin", "user pin\n")
	m.write("so", "so pin\n")
	m.write("in", "we agree")
	m.run("init", "--pin-file", "@pin", "--so-pin-file", "@so")
	m.run("key", "create", "mail", "--type", "p256", "--wrapped", "--pin-file", "@pin")
	sign := []string{"sign", "mail", "--in", "@in", "--out", "@signature", "--pin-file", "@pin"}
	remove := func() { m.tool("tpm2_evictcontrol", "-Q", "-C", "o", "-c", "0x81000001") }

	remove()
	m.refused(exitFailed, "there is none at 0x81000001", "if a program removed it, `tpm2-p11 init` brings it back", sign...)
	m.diagnosed("fail  storage root key: ", "`tpm2-p11 init` brings it back")
	contains(t, "init", m.run("init"), "again, at 0x81000001: keys and PINs are as they were")
	m.run(sign...)
	m.refused(exitFailed, "the store is initialised already", "use it as it is", "init")

	// Another tool's key came into its place meanwhile.
	remove()
	m.tool("tpm2_createprimary", "-Q", "-C", "o", "-G", "rsa", "-c", m.path("primary"))
	m.tool("tpm2_evictcontrol", "-Q", "-C", "o", "-c", m.path("primary"), "0x81000001")
	m.tool("tpm2_flushcontext", "-t")
	m.refused(exitFailed, "storage root key", "`tpm2-p11 init` brings it back", sign...)
	if at := m.json("init")["restored_storage_root_key"]; at != "0x81000002" {
		t.Errorf("it is back at %v", at)
	}
	m.run(sign...)
	contains(t, "doctor", m.run("doctor"), "ok    storage root key: ", `ok    key "mail": usable now`)
}

// A key that only lost its handle is still in its file.
func TestDoctorBringsBackAKeyThatLostItsHandle(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run("init", "--no-pin")
	m.run("key", "create", "web", "--type", "p256")
	m.tool("tpm2_evictcontrol", "-Q", "-C", "o", "-c", "0x81000100")
	m.diagnosed(`fail  key "web": `, "run `tpm2-p11 key evict web`, then `tpm2-p11 key persist web`")
	m.run("key", "evict", "web")
	m.run("key", "persist", "web")
	contains(t, "doctor", m.run("doctor"), `ok    key "web": usable now`)
}

// A TPM in failure mode says what it is and refuses the rest (TPM 2.0 Part 1, section 12.4).
func TestDoctorOnATPMInFailureMode(t *testing.T) {
	t.Parallel()
	m := offline(t)
	l, err := net.Listen("unix", m.path("tpm"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go failing(c)
		}
	}()
	m.write("tpm2-p11.conf", "tpm = \"swtpm:path="+m.path("tpm")+"\"\nstore = \""+m.path("store")+"\"\n")
	m.diagnosed("ok    TPM: ", "fail  failure mode: the TPM found itself faulty and does nothing", "switch the machine off and on")
	if out := m.try("doctor").stdout; strings.Contains(out, "wrong tries") {
		t.Errorf("doctor tells of a lockout:\n%s", out)
	}
}

// failing answers questions about TPM properties with none, and everything else with TPM_RC_FAILURE.
func failing(c net.Conn) {
	defer c.Close()
	command := make([]byte, 4096)
	for {
		n, err := c.Read(command)
		if err != nil {
			return
		}
		answer := []byte{0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x01, 0x01}
		const getCapability, tpmProperties = 0x7a, 6
		if n >= 22 && command[9] == getCapability && command[8] == 0x01 && command[13] == tpmProperties {
			answer = []byte{0x80, 0x01, 0, 0, 0, 19, 0, 0, 0, 0, 0, 0, 0, 0, tpmProperties, 0, 0, 0, 0}
		}
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}
