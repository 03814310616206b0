package main

import (
	"encoding/asn1"
	"encoding/base64"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/policy/policyfile"
)

// On a build machine, without a TPM, a policy is read, explained and hashed.
func TestAPolicyIsExplainedAndHashedWithoutATPM(t *testing.T) {
	t.Parallel()
	m := offline(t)
	m.write("web.toml", `hash = "sha256"
[policy]
all = [
  { any = [ { pcr = { bank = "sha256", "7" = "`+strings.Repeat("ab", 32)+`" } }, { pin = true } ] },
  { clock = { before = 86400000 } },
]
`)
	want := "all of:\n  one of:\n    sha256 PCR 7 is " + strings.Repeat("ab", 32) +
		"\n    the PIN is given\n  the TPM's clock, which runs while it has power, has not reached 86400000 ms\n"
	if got := m.run("policy", "show", "@web.toml"); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if got := m.run("policy", "digest", "@web.toml"); len(got) != 65 {
		t.Errorf("digest: %q", got)
	}
	m.write("bad.toml", "all = [\n  { pin = true },\n  { pim = true },\n]\n")
	m.refused(exitFailed, "bad.toml:3: ", "", "policy", "show", "@bad.toml")
	m.write("now.toml", "pcr = { bank = \"sha256\", indices = [7] }\n")
	m.refused(exitFailed, "asks for current values", "give the values in the policy", "policy", "digest", "@now.toml")
	m.write("short.pcrs", strings.Repeat("x", 40))
	m.write("long.pcrs", strings.Repeat("x", 65))
	for file, want := range map[string]string{"@short.pcrs": "short.pcrs: it ends before sha256 PCR 7", "@long.pcrs": "long.pcrs: it has 1 bytes more than the PCRs that are named"} {
		m.refused(exitFailed, want, "`tpm2-p11 pcr read sha256:0,7 --out FILE` writes one", "policy", "digest", "--pcr", "sha256:0,7", "--pcr-file", file)
	}
}

// signer makes the key of a build machine, and writes its public half.
func (m *machine) buildKey(algorithm ...string) {
	m.t.Helper()
	m.tool("openssl", append([]string{"genpkey", "-out", m.path("ci.pem")}, algorithm...)...)
	m.tool("openssl", "pkey", "-in", m.path("ci.pem"), "-pubout", "-out", m.path("ci.pub"))
}

// pcr is a policy file on a PCR as it is now.
func (m *machine) pcrPolicy(name string, pcr uint) string {
	m.t.Helper()
	values := m.json("pcr", "read", fmt.Sprintf("sha256:%d", pcr))["pcrs"].(map[string]any)["sha256"].(map[string]any)
	return m.write(name, fmt.Sprintf("pcr = { bank = \"sha256\", \"%d\" = \"%s\" }\n", pcr, values[fmt.Sprint(pcr)]))
}

// A key survives updates: a build machine signs each image's policy, and the machine takes the file.
func TestAKeyThatSurvivesUpdates(t *testing.T) {
	t.Parallel()
	for name, algorithm := range map[string][]string{
		"ECDSA": {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"}, "RSA": {"-algorithm", "RSA"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, build := newMachine(t), offline(t)
			build.dir = m.dir
			m.buildKey(algorithm...)
			m.write("web.toml", "authorize = { signer = \"file:ci.pub\", ref = \"tls/v1\" }\n")
			if got := build.run("policy", "digest", "@web.toml"); len(got) != 65 {
				t.Errorf("digest of a signed root: %q", got)
			}
			m.run("init", "--no-pin")
			m.run("key", "create", "web", "--policy", "@web.toml")
			m.refused(exitFailed, "no approved policy was found", "", "policy", "check", "web")
			m.pcrPolicy("today.toml", 7)
			build.refused(exitFailed, "PCR7 is all 00", "--force", "policy", "sign", "@today.toml", "--key", "@ci.pem")
			m.tpm.Extend(t, "sha256", 7, []byte("a boot"))
			m.pcrPolicy("today.toml", 7)
			build.run("policy", "sign", "@today.toml", "--key", "@ci.pem", "--ref", "tls/v1", "--out", "@today.json")
			contains(t, "approve", m.run("policy", "approve", "@today.json"), "1 approved policy in ", "for web")
			contains(t, "check", m.run("policy", "check", "web"), `key "web": its policy is met now`)
			m.write("message", "hello")
			m.run("sign", "web", "--in", "@message", "--out", "@sig")

			m.tpm.Extend(t, "sha256", 7, []byte("an update"))
			m.refused(exitFailed, `policy "web": sha256 PCR7 is `, "", "sign", "web", "--in", "@message")
			m.refused(exitFailed, "approved: today (", "", "policy", "check", "web")
			r := m.try("policy", "check", "web", "--json")
			if v := decodeJSON(t, r.stdout); r.code != exitFailed || v["allowed"] != false || !strings.Contains(v["reason"].(string), "sha256 PCR7 is ") {
				t.Errorf("%+v", r)
			}
			m.pcrPolicy("tomorrow.toml", 7)
			build.run("policy", "sign", "@tomorrow.toml", "--key", "@ci.pem", "--ref", "tls/v1", "--out", "@tomorrow.json")
			m.write("broken.json", string(m.read("tomorrow.json")[:100]))
			m.refused(exitFailed, "broken.json:", "", "policy", "approve", "@broken.json")
			// By copying, as any tool can, and beside a file that was cut short.
			for _, file := range []string{"tomorrow.json", "broken.json"} {
				if err := os.WriteFile(m.path("store/approved.d/"+file), m.read(file), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			m.run("sign", "web", "--in", "@message", "--out", "@sig")
			contains(t, "key show", m.run("key", "show", "web"), `one of the policies that were approved, for "tls/v1" by the signer`)
			contains(t, "key list", m.run("key", "list"), "signed by ")

			// Not for another purpose, and not by another signer.
			build.run("policy", "sign", "@tomorrow.toml", "--key", "@ci.pem", "--ref", "tls/v2", "--out", "@other.json")
			if v := m.json("policy", "approve", "@other.json"); len(v["keys"].([]any)) != 0 {
				t.Errorf("approved for %v", v["keys"])
			}
			// The signer's key is part of the key: another one in its file changes nothing.
			m.buildKey(algorithm...)
			build.run("policy", "sign", "@tomorrow.toml", "--key", "@ci.pem", "--ref", "tls/v1", "--out", "@stranger.json")
			if v := m.json("policy", "approve", "@stranger.json"); len(v["keys"].([]any)) != 0 {
				t.Errorf("approved for %v", v["keys"])
			}
			m.run("sign", "web", "--in", "@message", "--out", "@sig")
			m.run("policy", "approve", "@tomorrow.json", "--remove")
			m.refused(exitFailed, `policy "web": sha256 PCR7 is `, "", "sign", "web", "--in", "@message")
			m.refused(exitFailed, "no such file", "", "policy", "approve", "@tomorrow.json", "--remove")
		})
	}
}

// No approval takes the place of another one: files of one name, whoever wrote them and for whatever, are there side by side.
func TestApprovalsOfOneName(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.buildKey("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
	m.write("web.toml", "authorize = { signer = \"file:ci.pub\", ref = \"tls/v1\" }\n")
	m.write("message", "hello")
	m.run("init", "--no-pin")
	m.run("key", "create", "web", "--type", "p256", "--policy", "@web.toml")
	m.tpm.Extend(t, "sha256", 7, []byte("a boot"))
	m.pcrPolicy("img.toml", 7)
	if err := os.Mkdir(m.path("other"), 0o700); err != nil {
		t.Fatal(err)
	}
	m.run("policy", "sign", "@img.toml", "--key", "@ci.pem", "--ref", "tls/v1", "--out", "@img.json")
	m.run("policy", "sign", "@img.toml", "--key", "@ci.pem", "--ref", "tls/v2", "--out", "@other/img.json")
	approved := func(files int) {
		t.Helper()
		m.run("sign", "web", "--in", "@message", "--out", "@sig")
		if there, err := os.ReadDir(m.path("store/approved.d")); err != nil || len(there) != files {
			t.Errorf("%v, %v: want %d files", there, err, files)
		}
	}
	first := m.path("store/approved.d/img.json")
	for range 2 {
		if r := m.try("policy", "approve", "@img.json"); r.stderr != "" || !strings.Contains(r.stdout, first) {
			t.Errorf("%+v", r)
		}
		approved(1)
	}
	var second string
	for range 2 {
		r := m.try("policy", "approve", "@other/img.json")
		_, second, _ = strings.Cut(strings.TrimSpace(r.stdout), " in ")
		contains(t, "the note", r.stderr, first+" is kept: it is another approval")
		if string(m.read("other/img.json")) != string(m.read("store/approved.d/"+filepath.Base(second))) {
			t.Errorf("%+v", r)
		}
		approved(2)
	}
	for range 2 {
		contains(t, "the note", m.try("policy", "approve", "@img.toml", "--nv", "0x01800001").stderr, first+" is kept: it is another approval")
		approved(3)
	}

	// What is removed is what the file says, and nothing else of that name.
	contains(t, "removed", m.run("policy", "approve", "@other/img.json", "--remove"), filepath.Base(second)+" is no longer ")
	approved(2)
	m.refused(exitFailed, "an approved policy of this name is there already, with other content: "+first, "policy approve PATH --remove` takes that one out",
		"policy", "approve", "@other/img.json", "--remove")
	m.refused(exitFailed, "no such file", "", "policy", "approve", "@nowhere/img.json", "--remove")
	approved(2)
	m.write(strings.TrimPrefix(second, m.dir), "somebody else's")
	m.refused(exitFailed, "with other content", "", "policy", "approve", "@other/img.json")
	approved(3)
	m.run("policy", "approve", "img.json", "--remove")
	m.refused(exitFailed, "bears its signature", "", "sign", "web", "--in", "@message")
}

func TestASealedSecretThatIsSealedAgain(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.stdin = "database password"
	m.run("seal", "--pcr", "sha256:16", "--force", "--out", "@secret.tss2")
	m.stdin = ""
	m.write("later.toml", "any = [ { pcr = { bank = \"sha256\", \"16\" = \""+strings.Repeat("ab", 32)+"\" } }, { clock = { within = \"1d\" } } ]\n")
	m.run("seal", "--again", "@secret.tss2", "--policy", "@later.toml", "--force")
	m.tpm.Extend(t, "sha256", 16, []byte("an update"))
	if got := m.run("unseal", "@secret.tss2"); got != "database password" {
		t.Errorf("%q", got)
	}
	m.run("seal", "--again", "@secret.tss2", "--pcr", "sha256:16", "--force", "--out", "@bound.tss2")
	m.tpm.Extend(t, "sha256", 16, []byte("another"))
	m.refused(exitFailed, "sha256 PCR16 is ", "", "unseal", "@bound.tss2")
	m.refused(exitFailed, "sha256 PCR16 is ", "", "seal", "--again", "@bound.tss2", "--no-policy")
}

// A policy as long as a policy file may be opens what was sealed to it, and a longer one is refused while the secret is still there.
func TestASecretThatIsSealedToALongPolicy(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	value := strings.Repeat("ab", 32)
	branch := `{"pcr":{"bank":"sha256","16":"` + value + `","23":"` + value + `"}}`
	m.stdin = "database password"
	m.write("long.json", `{"any":[{"pcr":{"bank":"sha256","indices":[16]}}`+strings.Repeat(","+branch, policyfile.MaxSize/len(","+branch)-1)+"]}")
	m.run("seal", "--policy", "@long.json", "--force", "--out", "@secret.tss2")
	if got := m.run("unseal", "@secret.tss2"); got != "database password" {
		t.Errorf("%q", got)
	}
	current := `{"pcr":{"bank":"sha256","indices":[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23]}}`
	m.write("grows.json", `{"any":[`+current+strings.Repeat(","+current, 400)+"]}")
	m.refused(exitFailed, "the policy is too long", "", "seal", "--policy", "@grows.json", "--force", "--out", "@never.tss2")
	if _, err := os.Stat(m.path("never.tss2")); err == nil {
		t.Error("a file that nobody could read was written")
	}
}

// What is sealed to a policy that is not met is said to be, since it may never open: a counter does not go back.
func TestSealingToWhatIsNotMetNow(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.stdin = "database password"
	version, line, _ := strings.Cut(m.run("policy", "counter", "0x01800010", "--advance"), "\n")
	m.write("c.toml", line)
	if r := m.try("seal", "--policy", "@c.toml", "--out", "@met.tss2"); r.code != exitOK || r.stderr != "" {
		t.Errorf("met: %+v", r)
	}
	passed, _, _ := strings.Cut(m.run("policy", "counter", "0x01800010", "--advance"), "\n")
	seal := []string{"seal", "--policy", "@c.toml", "--out", "@late.tss2"}
	r := m.try(seal...)
	contains(t, "the warning", r.stderr, "warning: unseal would be refused now: policy \"", "c.toml\": NV index 0x01800010 is "+passed+", approved: ≤ "+version,
		"`tpm2-p11 policy counter 0x01800010` shows a counter")
	if r.code != exitOK || strings.Count(r.stderr, "\n") != 1 {
		t.Errorf("passed: %+v", r)
	}
	if said, ok := decodeJSON(t, m.try(append(seal, "--json")...).stderr)["warning"].(string); !ok || !strings.HasPrefix(said, "unseal would be refused now: ") {
		t.Errorf("as JSON: %q", said)
	}
	m.refused(exitFailed, "NV index 0x01800010 is "+passed, "", "unseal", "@late.tss2")
	m.write("sign.toml", "command = \"sign\"\n")
	contains(t, "another command's", m.try("seal", "--policy", "@sign.toml", "--out", "@never.tss2").stderr, "warning: unseal would be refused now")
	m.write("pin", canaryPIN)
	m.write("pin.toml", "pin = true\n")
	if r := m.try("seal", "--policy", "@pin.toml", "--pin-file", "@pin", "--out", "@pin.tss2"); r.stderr != "" {
		t.Errorf("with the PIN: %+v", r)
	}
}

// A branch without a PIN needs none, and the other one is the way back in.
func TestAPINForWhenPCRsChange(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.tpm.Extend(t, "sha256", 7, []byte("a boot"))
	m.write("pin", canaryPIN)
	m.write("so", "so-pin")
	m.write("message", "hello")
	m.write("web.toml", "any = [ { pcr = { bank = \"sha256\", indices = [7] } }, { pin = true } ]\n")
	m.run("init", "--pin-file", "@pin", "--so-pin-file", "@so")
	m.run("key", "create", "web", "--type", "p256", "--policy", "@web.toml", "--pin-file", "@pin")
	m.run("key", "create", "own", "--type", "p256", "--policy", "@web.toml", "--own-pin-file", "@pin")
	m.stdin = "database password"
	m.run("seal", "--policy", "@web.toml", "--pin-file", "@pin", "--out", "@secret.tss2")
	m.stdin = ""
	uses := [][]string{{"sign", "web", "--in", "@message", "--out", "@sig"}, {"sign", "own", "--in", "@message", "--out", "@sig"}, {"unseal", "@secret.tss2"}}
	for _, use := range uses {
		m.run(use...)
	}
	m.tpm.Extend(t, "sha256", 7, []byte("an update"))
	for _, use := range uses {
		m.refused(exitFailed, "branch 1: sha256 PCR7 is ", "give the PIN by --pin-file FILE", use...)
		m.run(append(use, "--pin-file", "@pin")...)
	}
	if tries := m.json("lockout", "show")["counter"]; tries != 0.0 {
		t.Errorf("a PIN that nobody gave was counted as wrong: %v", tries)
	}
}

// What is made without a policy gets the configuration's.
func TestTheConfigurationsPolicyIsTheDefault(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.configure("policy = { clock = { within = \"1d\" } }\n")
	m.run("init", "--no-pin")
	m.run("key", "create", "web")
	contains(t, "key show", m.run("key", "show", "web"), "the TPM's clock, which runs while it has power, has not reached ")
	m.run("key", "create", "free", "--no-policy")
	contains(t, "policy check", m.run("policy", "check", "free"), "there is no policy that the TPM goes by")
	m.stdin = "secret"
	m.run("seal", "--out", "@a.tss2")
	contains(t, "the sealed file", string(m.read("a.tss2")), `# policy: {"clock":{"before":`)
	m.run("seal", "--no-policy", "--out", "@b.tss2")
	if strings.Contains(string(m.read("b.tss2")), "policy") {
		t.Error("sealed with a policy")
	}
	m.refused(exitUsage, "--pcr, --policy and --no-policy exclude each other", "", "key", "create", "x", "--no-policy", "--pcr", "sha256:7")
}

// An index revokes for many keys at once, and a counter ends old approvals.
func TestWhatIsRevoked(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run("init", "--no-pin")
	m.pcrPolicy("image.toml", 7)
	m.refused(exitFailed, "PCR7 is all 00", "--force", "policy", "approve", "@image.toml", "--nv", "0x01800001")
	m.tpm.Extend(t, "sha256", 7, []byte("a boot"))
	m.pcrPolicy("image.toml", 7)
	m.run("policy", "approve", "@image.toml", "--nv", "0x01800001")
	m.write("nv.toml", "authorize_nv = { index = 0x01800001 }\n")
	m.refused(exitFailed, "nv.toml: approved in nv 0x01800001 is no policy that an index approves", "such as PCRs; keys that follow the index are made with authorize_nv = { index = 0x01800001 }",
		"policy", "approve", "@nv.toml", "--nv", "0x01800001")
	m.run("key", "create", "web", "--policy", "@nv.toml")
	m.write("message", "hello")
	m.run("sign", "web", "--in", "@message", "--out", "@sig")
	m.run("policy", "revoke", "0x01800001")
	m.refused(exitFailed, `policy "web": what NV index 0x01800001 approved was revoked, approved: nothing`, "policy approve FILE --nv 0x01800001", "sign", "web", "--in", "@message")
	m.refused(exitFailed, "what NV index 0x01800001 approved was revoked", "", "policy", "check", "web")
	// A session in which no policy was executed is not what the index approves either.
	m.tool("tpm2_startauthsession", "--policy-session", "-S", "nobody.ctx")
	if out, err := m.tryTool("tpm2_policyauthorizenv", "-S", "nobody.ctx", "-C", "0x01800001", "0x01800001"); err == nil {
		t.Errorf("the TPM lets everybody by what was revoked: %s", out)
	}
	m.tool("tpm2_flushcontext", "nobody.ctx")
	m.write("other.toml", "pin = true\n")
	m.run("policy", "approve", "@other.toml", "--nv", "0x01800001")
	m.run("policy", "approve", "other.json", "--remove")
	m.refused(exitFailed, `policy "web": none of 1 policies that were found has the digest in NV index 0x01800001, approved: `, "", "sign", "web", "--in", "@message")
	m.run("policy", "approve", "@image.toml", "--nv", "0x01800001")
	m.run("sign", "web", "--in", "@message", "--out", "@sig")

	m.refused(exitFailed, "there is no such NV index", "--advance makes it", "policy", "counter", "0x01800010")
	made := m.run("policy", "counter", "0x01800010", "--advance")
	version, _, _ := strings.Cut(made, "\n")
	m.write("version.toml", "nv = { index = 0x01800010, op = \"le\", value = "+version+" }\n")
	m.run("key", "create", "old", "--policy", "@version.toml")
	m.run("sign", "old", "--in", "@message", "--out", "@sig")
	if again := m.run("policy", "counter", "0x01800010"); again != made {
		t.Errorf("%s after %s", again, made)
	}
	m.run("policy", "counter", "0x01800010", "--advance")
	m.refused(exitFailed, `policy "old": NV index 0x01800010 is `, "", "sign", "old", "--in", "@message")

	// Neither takes the place of the other.
	counter := "0x01800010: another NV index is there: it is a counter, not an index of approvals"
	m.refused(exitFailed, counter, "ends by `tpm2-p11 policy counter 0x01800010 --advance", "policy", "revoke", "0x01800010")
	m.refused(exitFailed, counter, "name a free NV index", "policy", "approve", "@image.toml", "--nv", "0x01800010")
	m.refused(exitFailed, "0x01800001: another NV index is there: it is an index of approvals, not a counter", "name a free NV index", "policy", "counter", "0x01800001", "--advance")
	m.write("sha384.toml", "hash = \"sha384\"\n[policy]\npin = true\n")
	m.refused(exitFailed, "0x01800001: another NV index is there: it is an index of approvals, but of another size", "name a free NV index",
		"policy", "approve", "@sha384.toml", "--nv", "0x01800001")
	m.tool("tpm2_nvdefine", "0x01800020", "-C", "o", "-s", "8", "-a", "ownerwrite|ownerread|authread|no_da")
	m.refused(exitFailed, "0x01800020: another NV index is there: it is an index for something else, not an index of approvals", "name a free NV index",
		"policy", "approve", "@image.toml", "--nv", "0x01800020")
	m.run("policy", "approve", "@sha384.toml", "--nv", "0x01800003")
	m.run("policy", "revoke", "0x01800003")
	m.run("sign", "web", "--in", "@message", "--out", "@sig")

	m.run("policy", "revoke", "0x01800001", "--remove")
	m.run("policy", "approve", "@image.toml", "--nv", "0x01800001")
	m.run("sign", "web", "--in", "@message", "--out", "@sig") // the index made again has the Name of the old one
	m.run("policy", "revoke", "0x01800010", "--remove")
	m.refused(exitFailed, `policy "old": there is no NV index 0x01800010`, "", "sign", "old", "--in", "@message")
	m.refused(exitFailed, "there is no such NV index", "policy approve FILE --nv", "policy", "revoke", "0x01800002")
	m.refused(exitUsage, "INDEX 7: invalid policy: an NV index is written as 0x01800001", "", "policy", "revoke", "7")
}

// A build machine has no counter: it signs for that of other machines by its name, which each of them prints.
func TestACounterOfAnotherMachine(t *testing.T) {
	t.Parallel()
	m, build := newMachine(t), offline(t)
	build.dir = m.dir
	m.buildKey("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
	m.write("web.toml", "authorize = { signer = \"file:ci.pub\", ref = \"tls/v1\" }\n")
	m.write("message", "hello")
	m.run("init", "--no-pin")
	m.run("key", "create", "web", "--type", "p256", "--policy", "@web.toml")
	_, line, _ := strings.Cut(m.run("policy", "counter", "0x01800010", "--advance"), "\n")
	m.write("version.toml", line)
	sign := []string{"policy", "sign", "@version.toml", "--key", "@ci.pem", "--ref", "tls/v1", "--out", "@version.json"}
	build.run(sign...)
	m.run("policy", "approve", "@version.json")
	m.run("sign", "web", "--in", "@message", "--out", "@sig")
	m.run("policy", "counter", "0x01800010", "--advance")
	m.refused(exitFailed, "NV index 0x01800010 is ", "", "sign", "web", "--in", "@message")

	m.write("version.toml", "nv = { index = 0x01800010, op = \"le\", value = 5 }\n")
	nameless, hint := "version.toml: NV index 0x01800010: the policy does not give its name", "`tpm2-p11 policy counter 0x01800010` prints the name"
	build.refused(exitFailed, nameless, hint, sign...)
	build.refused(exitFailed, nameless, "or --current to read it", sign...)
	build.refused(exitFailed, nameless, hint, "policy", "digest", "@version.toml")
}

// The signer's key may be in any module or service: it signs a file, and its signature is taken, as openssl and as PKCS #11 have it.
func TestASignatureThatIsMadeElsewhere(t *testing.T) {
	t.Parallel()
	for name, algorithm := range map[string][]string{
		"ECDSA": {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"}, "RSA": {"-algorithm", "RSA"},
	} {
		m := offline(t)
		m.buildKey(algorithm...)
		m.write("pin.toml", "pin = true\n")
		m.run("policy", "sign", "@pin.toml", "--ref", "tls/v1", "--to-sign", "@pin.bin")
		m.tool("openssl", "dgst", "-sha256", "-sign", "ci.pem", "-out", "sig", "pin.bin")
		taken := []string{"policy", "sign", "@pin.toml", "--ref", "tls/v1", "--public-key", "@ci.pub", "--signature"}
		contains(t, name, m.run(append(taken, "@sig")...), `{"name":"pin","policy":{"pin":true},"sig":"`)
		if name == "ECDSA" {
			var rs struct{ R, S *big.Int }
			if _, err := asn1.Unmarshal(m.read("sig"), &rs); err != nil {
				t.Fatal(err)
			}
			m.write("raw", string(append(rs.R.FillBytes(make([]byte, 48)), rs.S.FillBytes(make([]byte, 48))...)))
			contains(t, name, m.run(append(taken, "@raw")...), `"sig":"`+base64.StdEncoding.EncodeToString(m.read("sig"))+`"`)
		}
		m.write("other.toml", "clock = { before = 5 }\n")
		m.refused(exitFailed, "other: signing the policy: the key's signature does not verify", "", append([]string{"policy", "sign", "@other.toml"}, append(taken[3:], "@sig")...)...)
		m.refused(exitUsage, "--key, --to-sign and --signature exclude each other", "", append(taken, "@sig", "--key", "@ci.pem")...)
		m.refused(exitUsage, "--signature and --public-key go together", "", "policy", "sign", "@pin.toml", "--signature", "@sig")
	}
}

func TestWhatNobodyCanSign(t *testing.T) {
	t.Parallel()
	m := offline(t)
	m.buildKey("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
	m.write("root.toml", "authorize = { signer = \"file:ci.pub\" }\n")
	m.write("open.toml", "pcr = { bank = \"sha256\", indices = [7] }\n")
	m.write("pin.toml", "pin = true\n")
	m.refused(exitFailed, "is no policy that a signer approves", "", "policy", "sign", "@root.toml", "--key", "@ci.pem")
	m.refused(exitFailed, "asks for current values", "", "policy", "sign", "@open.toml", "--key", "@ci.pem")
	m.refused(exitFailed, "no private key", "", "policy", "sign", "@pin.toml", "--key", "@ci.pub")
	m.refused(exitFailed, "systemd's files have room for signatures of RSA keys", "", "policy", "sign", "@pin.toml", "--key", "@ci.pem", "--format", "systemd")
	m.refused(exitUsage, "--key is missing", "", "policy", "sign", "@pin.toml")
	m.refused(exitUsage, "--ref has 32 bytes at most", "", "policy", "sign", "@pin.toml", "--key", "@ci.pem", "--ref", strings.Repeat("x", 33))
	m.buildKey("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048")
	m.refused(exitFailed, "systemd's files have room for the PCRs of one bank", "", "policy", "sign", "@pin.toml", "--key", "@ci.pem", "--format", "systemd")
}
