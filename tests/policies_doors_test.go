package tests

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/pkcs11"
)

// requirement is a node of policies, how it comes to be met, and how it ends.
type requirement struct {
	policy string           // of the key and the secret
	before func(m *machine) // before they are made
	met    func(m *machine) // after that
	ends   func(m *machine)
	named  string   // the node's type in Go
	says   []string // every refusal
}

// requirements are all nodes but the PIN, which is not refused but asked for.
var requirements = map[string]requirement{
	"pcr": {
		policy: `pcr = { bank = "sha256", indices = [0, 7] }`, ends: extend(7),
		named: "policy.PCR", says: []string{"sha256 PCR7 is "},
	},
	"clock": {
		policy: `clock = { within = "1h" }`, ends: func(m *machine) { m.run("tpm2_setclock", "100000000") },
		named: "policy.Clock", says: []string{"the TPM's clock is at ", "approved: "},
	},
	"command": {
		policy: `any = [ { command = "sign" }, { command = "unseal" } ]`,
		named:  "policy.Command", says: []string{", approved: decrypt alone"},
	},
	"nv": {
		policy: `nv = { index = 0x01800010, op = "le", value = %counter }`,
		before: func(m *machine) { m.tpm2p11("policy", "counter", "0x01800010", "--advance") },
		ends:   func(m *machine) { m.tpm2p11("policy", "counter", "0x01800010", "--advance") },
		named:  "policy.NV", says: []string{"NV index 0x01800010 is ", "approved: ≤ "},
	},
	"authorize_nv": {
		policy: `authorize_nv = { index = 0x01800001 }`,
		before: func(m *machine) {
			m.write("now.toml", m.pcrPolicy(7))
			m.tpm2p11("policy", "approve", "now.toml", "--nv", "0x01800001")
		},
		ends:  func(m *machine) { m.tpm2p11("policy", "revoke", "0x01800001") },
		named: "policy.AuthorizeNV", says: []string{"what NV index 0x01800001 approved was revoked"},
	},
	"secret": {
		policy: `secret = "owner"`, ends: func(m *machine) { m.run("tpm2_changeauth", "-c", "o", "another's") },
		named: "policy.Secret", says: []string{"the owner hierarchy has an authorisation, and none was given"},
	},
	"signed root": {
		policy: `authorize = { signer = "file:ci.pub", ref = "tls/v1" }`,
		before: func(m *machine) {
			m.run("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "ci.pem")
			m.run("openssl", "pkey", "-in", "ci.pem", "-pubout", "-out", "ci.pub")
		},
		met:   func(m *machine) { m.signPolicy("today") },
		ends:  extend(7),
		named: "policy.Authorize", says: []string{"sha256 PCR7 is ", "approved: today ("},
	},
	"any": {
		policy: `any = [ { pcr = { bank = "sha256", indices = [7] } }, { pcr = { bank = "sha256", indices = [0] } } ]`, ends: extend(0, 7),
		named: "policy.Any", says: []string{"branch 1: sha256 PCR7 is ", "branch 2: sha256 PCR0 is "},
	},
	"all": {
		policy: `all = [ { secret = "owner" }, { pcr = { bank = "sha256", indices = [7] } }, { clock = { boot = "current" } } ]`, ends: extend(7),
		named: "policy.PCR", says: []string{"sha256 PCR7 is "},
	},
}

func extend(pcrs ...uint) func(m *machine) {
	return func(m *machine) {
		for _, pcr := range pcrs {
			m.tpm.Extend(m.t, "sha256", pcr, []byte("an update"))
		}
	}
}

// Whatever a policy asks for, a key and a secret with it work while it is met and not after, through the module, in Go and at the command,
// and every refusal says which node it was.
func TestEachNodeAtEachDoor(t *testing.T) {
	for name, r := range requirements {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) { r.story().tell(t) })
	}
}

func (r requirement) story() story {
	const key, secret = "web", "secret.tss2"
	return story{
		ways: transports[:1],
		before: func(m *machine) {
			m.write("in.txt", "the contract")
			m.tpm2p11("init", "--no-pin")
			if r.before != nil {
				r.before(m)
			}
			m.requires(r.policy)
			m.tpm2p11("key", "create", key, "--type", "p256", "--policy", "policy.toml")
			m.tpm2p11("seal", "--in", "in.txt", "--out", secret, "--policy", "policy.toml")
			if r.met != nil {
				r.met(m)
			}
			m.signs(key)
			m.run(goSigner(m.t), key, "in.txt")
			m.unseals(secret)
		},
		app: func(a *application) {
			a.works(key)
			data := a.bound("data", "policy.json")
			a.readable(data)
			a.happen("end")
			if r.ends == nil {
				data = a.bound("other data", "policy.json")
			}
			_, err := a.sign(a.session, ecdsaSHA256(), a.private(key), message)
			a.refused("C_Sign", pkcs11.CKR_FUNCTION_REJECTED, err)
			_, err = a.p11().GetAttributeValue(a.session, data, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)})
			a.refused("C_GetAttributeValue of data", pkcs11.CKR_FUNCTION_REJECTED, err)
		},
		events: map[string]func(m *machine) string{"end": func(m *machine) string {
			if r.ends != nil {
				r.ends(m)
			} else {
				// A command cannot end: others like it are for another one.
				m.requires(`command = "decrypt"`)
				m.tpm2p11("key", "delete", key, "--yes")
				m.tpm2p11("key", "create", key, "--type", "p256", "--policy", "policy.toml")
				m.tpm2p11("seal", "--in", "in.txt", "--out", secret, "--policy", "policy.toml")
			}
			m.refused(r.says, command, "sign", key, "--in", "in.txt")
			m.refused(r.says, command, "unseal", secret)
			m.refused(append(r.says, "a "+r.named+" is not met"), goSigner(m.t), key, "in.txt")
			return ""
		}},
		after: func(m *machine, log string) {
			log = strings.ReplaceAll(log, `\"`, `"`)
			for _, want := range append(r.says, `refused by policy "web": `, `data": `) {
				if !strings.Contains(log, want) {
					m.t.Errorf("the log does not say %q:\n%s", want, log)
				}
			}
			if held := m.tpm.Count(m.t); held.Transient+held.Sessions > 0 {
				m.t.Errorf("the TPM holds %v", held)
			}
		},
	}
}

// The PIN is asked for, and a wrong one is told so; each is counted once.
func TestThePINAtEachDoor(t *testing.T) {
	story{
		ways: transports[:1],
		before: func(m *machine) {
			m.write("in.txt", "the contract")
			m.write("wrong", wrongPIN)
			withPIN(m)
			m.requires(`pin = true`)
			m.tpm2p11("key", "create", "pinned", "--type", "p256", "--policy", "policy.toml", "--pin-file", "pin")
			m.tpm2p11("seal", "--in", "in.txt", "--out", "secret.tss2", "--policy", "policy.toml", "--pin-file", "own")
			m.signs("pinned", "--pin-file", "pin")
			m.unseals("secret.tss2", "--pin-file", "own")
			m.run(goSigner(m.t), "-pin-file", m.path("pin"), "pinned", "in.txt")

			m.refused([]string{"the PIN of token ", "--pin-file"}, command, "sign", "pinned", "--in", "in.txt")
			m.refused([]string{"--pin-file"}, command, "unseal", "secret.tss2")
			m.refused([]string{"a PIN is needed"}, goSigner(m.t), "pinned", "in.txt")
			m.refused([]string{"wrong PIN", "lockout show"}, command, "sign", "pinned", "--in", "in.txt", "--pin-file", "wrong")
			m.refused([]string{"wrong PIN", "lockout show"}, command, "unseal", "secret.tss2", "--pin-file", "wrong")
			m.refused([]string{"the PIN is wrong"}, goSigner(m.t), "-pin-file", m.path("wrong"), "pinned", "in.txt")
		},
		events: counter,
		app: func(a *application) {
			a.refused("C_Login with a wrong PIN", pkcs11.CKR_PIN_INCORRECT, a.p11().Login(a.session, pkcs11.CKU_USER, wrongPIN))
			a.counts(4)
			a.ok("C_Login", a.p11().Login(a.session, pkcs11.CKU_USER, userPIN))
			a.works("pinned")
			key, data := a.private("pinned"), a.bound("data", "policy.json")
			a.readable(data)
			a.ok("C_Logout", a.p11().Logout(a.session))
			_, err := a.sign(a.session, ecdsaSHA256(), key, message)
			a.refused("C_Sign after C_Logout", pkcs11.CKR_USER_NOT_LOGGED_IN, err)
			_, err = a.p11().GetAttributeValue(a.session, data, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)})
			a.refused("C_GetAttributeValue after C_Logout", pkcs11.CKR_OBJECT_HANDLE_INVALID, err)
			a.ok("C_Login", a.p11().Login(a.session, pkcs11.CKU_USER, userPIN))
			a.works("pinned")
			a.readable(data)
		},
	}.tell(t)
}

// requires writes a policy, for the command and for the module.
func (m *machine) requires(policy string) {
	m.t.Helper()
	if strings.Contains(policy, "%counter") {
		var counter struct{ Value uint64 }
		if err := json.Unmarshal([]byte(m.tpm2p11("policy", "counter", "0x01800010", "--json").stdout), &counter); err != nil {
			m.t.Fatal(err)
		}
		policy = strings.ReplaceAll(policy, "%counter", fmt.Sprint(counter.Value))
	}
	m.write("policy.toml", strings.ReplaceAll(policy, "file:", "file:"+m.dir+"/"))
	var shown struct{ Policy json.RawMessage }
	if err := json.Unmarshal([]byte(m.tpm2p11("policy", "show", "policy.toml", "--json").stdout), &shown); err != nil {
		m.t.Fatal(err)
	}
	m.write("policy.json", string(shown.Policy))
}

func (m *machine) unseals(file string, options ...string) {
	m.t.Helper()
	if got := m.tpm2p11(append([]string{"unseal", file}, options...)...).stdout; got != "the contract" {
		m.t.Errorf("%s opens to %q", file, got)
	}
}

// bound makes a data object with a policy.
func (a *application) bound(label, policyFile string) pkcs11.ObjectHandle {
	a.t.Helper()
	policy, err := os.ReadFile(filepath.Join(a.dir, policyFile))
	a.ok(policyFile, err)
	const ckaTPM2Policy = 0x80544B11
	o, err := a.p11().CreateObject(a.session, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_DATA), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE, []byte("the contract")), pkcs11.NewAttribute(ckaTPM2Policy, policy),
	})
	a.ok("C_CreateObject", err)
	return o
}

func (a *application) readable(data pkcs11.ObjectHandle) {
	a.t.Helper()
	got, err := a.p11().GetAttributeValue(a.session, data, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)})
	a.ok("C_GetAttributeValue", err)
	if len(got) != 1 || string(got[0].Value) != "the contract" {
		a.t.Errorf("the data is %v", got)
	}
}

// builtGoSigner is the signer of the examples, built once for all tests.
var builtGoSigner = sync.OnceValues(func() (string, error) {
	program := filepath.Join(filepath.Dir(command), "sign")
	if out, err := exec.Command("go", "build", "-o", program, "../examples/sign").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, out)
	}
	return program, nil
})

func goSigner(t *testing.T) string {
	t.Helper()
	program, err := builtGoSigner()
	if err != nil {
		t.Fatal(err)
	}
	return program
}
