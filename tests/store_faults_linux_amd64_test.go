package tests

import (
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/internal/promises"
)

// change is something that a command does to the store, and perhaps to the TPM.
type change struct {
	name    string
	guarded bool
	before  func(m *machine) // makes it possible; it may be done already
	args    []string
	after   func(m *machine, killed bool) // demands what there may be when all has settled
}

var changes = []change{
	{name: "create", args: []string{"key", "create", "new", "--type", "p256"}, before: without("new"), after: isWhole("new")},
	{name: "create wrapped", args: []string{"key", "create", "new", "--type", "p256", "--wrapped"}, before: without("new"), after: isWhole("new")},
	{name: "persist", args: []string{"key", "persist", "new"}, before: with("new", "--wrapped"), after: isThere("new")},
	{name: "evict", args: []string{"key", "evict", "new"}, before: with("new"), after: isThere("new")},
	{name: "delete", args: []string{"key", "delete", "new", "--yes"}, before: with("new"), after: isWhole("new")},
	{
		name: "pin set", guarded: true, args: []string{"pin", "set", "--pin-file", "pin", "--new-pin-file", "fresh"},
		before: func(*machine) {}, after: onePIN,
	},
	{
		name: "pin reset", guarded: true, args: []string{"pin", "reset", "--so-pin-file", "so", "--new-pin-file", "fresh"},
		before: func(*machine) {}, after: onePIN,
	},
	{
		name: "seal again", args: []string{"seal", "--again", "sealed/secret", "--pcr", "sha256:7"},
		before: func(*machine) {},
		after: func(m *machine, _ bool) {
			if plain := m.tpm2p11("unseal", "sealed/secret").stdout; plain != "the secret" {
				m.t.Errorf("unsealed %q", plain)
			}
		},
	},
}

// without has no key of a label.
func without(label string) func(*machine) {
	return func(m *machine) {
		if _, ok := m.listed()[label]; ok {
			m.tpm2p11("key", "delete", label, "--yes")
		}
	}
}

// with has a key that was made by some flags.
func with(label string, flags ...string) func(*machine) {
	return func(m *machine) {
		without(label)(m)
		m.tpm2p11(append([]string{"key", "create", label, "--type", "p256"}, flags...)...)
	}
}

// isWhole demands that a key signs if it is there.
func isWhole(label string) func(*machine, bool) {
	return func(m *machine, killed bool) {
		if _, ok := m.listed()[label]; ok {
			m.tpm2p11("sign", label, "--in", "in.txt", "--out", "signature")
		}
	}
}

func isThere(label string) func(*machine, bool) {
	return func(m *machine, killed bool) { m.tpm2p11("sign", label, "--in", "in.txt", "--out", "signature") }
}

// onePIN demands that either PIN, and only one, is the token's, and makes it the old one again.
func onePIN(m *machine, killed bool) {
	m.t.Helper()
	opens := func(pin string) bool {
		return m.start(command, "sign", "web", "--in", "in.txt", "--out", "signature", "--pin-file", pin).code == 0
	}
	old, fresh := opens("pin"), opens("fresh")
	if old == fresh || !killed && old {
		m.t.Errorf("the old PIN opens: %v, the new one: %v", old, fresh)
	}
	if fresh {
		m.tpm2p11("pin", "set", "--pin-file", "fresh", "--new-pin-file", "pin")
	}
	m.run("tpm2_dictionarylockout", "--clear-lockout")
}

// listed are the handles of the store's keys, by label; "" for wrapped ones. Each of them must be finished.
func (m *machine) listed() map[string]string {
	m.t.Helper()
	var list struct {
		Keys []struct{ Label, Handle, State string }
	}
	if err := json.Unmarshal([]byte(m.tpm2p11("key", "list", "--json").stdout), &list); err != nil {
		m.t.Fatal(err)
	}
	keys := map[string]string{}
	for _, k := range list.Keys {
		if k.State != "ready" {
			m.t.Errorf("key %s is %s", k.Label, k.State)
		}
		keys[k.Label] = k.Handle
	}
	return keys
}

// converges demands, after doctor was there, that the TPM holds persistent what the store says and nothing else, and that no file is
// left over.
func (m *machine) converges() {
	m.t.Helper()
	m.tpm.Flush(m.t)
	m.start(command, "doctor")
	keys, persistent := m.listed(), 1 // the storage root key
	for _, handle := range keys {
		if handle != "" {
			persistent++
		}
	}
	if held := m.tpm.Count(m.t); held.Persistent != persistent || held.Transient != 0 || held.Sessions != 0 {
		m.t.Errorf("the TPM holds %+v, the store has %v", held, keys)
	}
	files, err := os.ReadDir(m.path("store"))
	if err != nil {
		m.t.Fatal(err)
	}
	stems := map[string]bool{}
	for _, f := range files {
		stem, suffix, _ := strings.Cut(f.Name(), ".")
		switch {
		case stem == "":
			if f.Name() != ".lock" {
				m.t.Errorf("%s is left over", f.Name())
			}
		case suffix == "pem" || suffix == "json" && stem != "token":
			stems[stem] = true
		}
	}
	if len(stems) != len(keys) {
		m.t.Errorf("there are files of %d keys, the store has %v", len(stems), keys)
	}
}

// changeable is a machine with a key that nothing may happen to, and what changes need.
func changeable(t *testing.T, guarded bool) *machine {
	t.Helper()
	m := newMachine(t, "")
	for name, content := range map[string]string{"in.txt": "the contract", "pin": userPIN, "so": soPIN, "fresh": "16180339"} {
		m.write(name, content)
	}
	m.maxTries(200)
	if guarded {
		m.tpm2p11("init", "--pin-file", "pin", "--so-pin-file", "so")
		m.tpm2p11("key", "create", "web", "--type", "p256", "--pin-file", "pin")
		return m
	}
	oneKey(m)
	if err := os.Mkdir(m.path("sealed"), 0o700); err != nil {
		t.Fatal(err)
	}
	m.tpm2p11("seal", "--in", m.write("secret", "the secret"), "--out", "sealed/secret")
	return m
}

// A command is killed before each of its steps in turn. The next one finds a whole store, and a TPM that fits it.
func TestAKilledCommandLeavesAWholeStore(t *testing.T) {
	t.Parallel()
	for _, c := range changes {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := changeable(t, c.guarded)
			c.before(m)
			r, steps := m.stepwise(untouched, command, c.args...)
			if r.code != 0 || len(steps) < 4 {
				t.Fatalf("exit code %d after %v\n%s", r.code, steps, r.all())
			}
			c.after(m, false)
			for n, s := range steps {
				c.before(m)
				r, _ := m.stepwise(func(i int, _ step) fate { return fate{kill: i == n} }, command, c.args...)
				if r.code != -1 {
					t.Errorf("step %d, %s: it was not killed: exit code %d\n%s", n, s, r.code, r.all())
				}
				m.converges()
				c.after(m, true)
				if !c.guarded {
					m.tpm2p11("sign", "web", "--in", "in.txt", "--out", "signature")
				}
				if t.Failed() {
					t.Fatalf("killed before step %d of %v", n, steps)
				}
			}
		})
	}
}

// failing are the system calls that fail with an error, where a disk has it.
var failing = map[syscall.Errno][]string{
	syscall.ENOSPC: {"openat", "write", "fsync", "renameat"},
	syscall.EDQUOT: {"openat", "write"},
	syscall.EIO:    {"write", "fsync", "renameat"},
	syscall.EACCES: {"openat"},
	syscall.EROFS:  {"openat"},
}

// The disk fails the making of a key at each step in turn, as the table of promises has it. What is there stays, and the next try works.
func TestPromisesOfTheDisk(t *testing.T) {
	t.Parallel()
	for _, section := range promises.Table {
		for _, row := range section.Rows {
			if row.Errno == 0 {
				continue
			}
			t.Run(row.Errno.Error(), func(t *testing.T) {
				t.Parallel()
				m := changeable(t, false)
				create := []string{"key", "create", "new", "--type", "p256"}
				_, steps := m.stepwise(untouched, command, create...)
				for n, s := range steps {
					if !slices.Contains(failing[row.Errno], s.call) {
						continue
					}
					without("new")(m)
					r, _ := m.stepwise(failAt(n, row.Errno), command, create...)
					if strconv.Itoa(r.code) != row.Command.Exit || strings.Contains(r.stderr, "goroutine") {
						t.Errorf("exit code %d\n%s", r.code, r.all())
					}
					for _, word := range append(row.Command.Words, row.Errno.Error()) {
						if !strings.Contains(r.all(), word) {
							t.Errorf("it does not say %q:\n%s", word, r.all())
						}
					}
					m.converges()
					isWhole("new")(m, true)
					m.tpm2p11("sign", "web", "--in", "in.txt", "--out", "signature")
					if t.Failed() {
						t.Fatalf("step %d, %s, of %v failed", n, s, steps)
					}
				}
				m.failsInTheModule(row)
				without("new")(m)
				m.tpm2p11(create...)
			})
		}
	}
}

// failAt has one step fail.
func failAt(n int, errno syscall.Errno) func(int, step) fate {
	return func(i int, _ step) fate {
		if i == n {
			return fate{errno: errno}
		}
		return fate{}
	}
}

// failsInTheModule has each step fail while a program signs with the module, and then while it makes a key.
func (m *machine) failsInTheModule(row promises.Row) {
	m.t.Helper()
	without("new")(m)
	fails := func(_ int, s step) fate {
		if slices.Contains(failing[row.Errno], s.call) && s.call != "send" {
			return fate{errno: row.Errno}
		}
		return fate{}
	}
	program, err := exec.LookPath("pkcs11-tool")
	if err != nil {
		m.t.Fatal(err)
	}
	tool := func(args ...string) result {
		r, _ := m.stepwise(fails, program, append([]string{"--module", module}, args...)...)
		return r
	}
	if r := tool("--sign", "--mechanism", "ECDSA-SHA256", "--label", "web", "-i", "in.txt", "-o", "signature"); r.code != 0 {
		m.t.Errorf("it does not sign:\n%s", r.all())
	}
	r := tool("--keypairgen", "--key-type", "EC:prime256v1", "--label", "new", "--id", "05")
	if r.code == 0 || !strings.Contains(r.all(), row.Module+" ") {
		m.t.Errorf("the module does not say %s: exit code %d\n%s", row.Module, r.code, r.all())
	}
	m.converges()
}

// The disk does not give one of a key's files. The other keys work, and doctor names the file.
func TestAKeyThatTheDiskDoesNotGiveIsPassedOver(t *testing.T) {
	t.Parallel()
	m := changeable(t, false)
	var shown struct{ Key struct{ File string } }
	m.tpm2p11("key", "create", "new", "--type", "p256")
	if err := json.Unmarshal([]byte(m.tpm2p11("key", "show", "new", "--json").stdout), &shown); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{".json", ".pem"} {
		file := shown.Key.File + suffix
		withFault := func(args ...string) result {
			r, _ := m.stepwise(func(_ int, s step) fate {
				if s.call == "open" && s.file == file {
					return fate{errno: syscall.EIO}
				}
				return fate{}
			}, command, args...)
			return r
		}
		if r := withFault("sign", "web", "--in", "in.txt", "--out", "signature"); r.code != 0 {
			t.Errorf("%s: the other key does not sign: exit code %d\n%s", suffix, r.code, r.all())
		}
		if r := withFault("sign", "new", "--in", "in.txt", "--out", "signature"); r.code != failed || !strings.Contains(r.all(), "doctor") {
			t.Errorf("%s: the key signs: exit code %d\n%s", suffix, r.code, r.all())
		}
		if r := withFault("doctor"); !strings.Contains(r.all(), file) || !strings.Contains(r.all(), "input/output error") {
			t.Errorf("%s: doctor does not name it:\n%s", suffix, r.all())
		}
	}
	m.tpm2p11("sign", "new", "--in", "in.txt", "--out", "signature")
}
