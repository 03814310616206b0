package tests

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"
)

// badPolicies are policies that nothing is made with, and what every door says of them.
var badPolicies = []struct {
	name, policy string
	says         []string
}{
	{"unknown node", "all = [\n  { pin = true },\n  { pim = true },\n]", []string{"policy.toml:3: ", "all[1].pim is no known node (known: all, any, "}},
	{"unknown member", `nv = { index = 0x01800010, op = "le", valu = 5 }`, []string{"policy.toml:1: ", "nv.valu is not known"}},
	{"any of one branch", "any = [\n  { pin = true },\n]", []string{"policy.toml:1: ", "any has one branch: it takes two or more"}},
	{"authorize within any", "any = [\n  { pin = true },\n  { authorize = { signer = \"file:ci.pub\" } },\n]",
		[]string{"policy.toml:3: ", "authorize can only be a policy's root, or the first node of an all there"}},
	{"authorize after another node", "all = [\n  { pin = true },\n  { authorize = { signer = \"file:ci.pub\" } },\n]",
		[]string{"policy.toml:3: ", "can only be a policy's root"}},
	{"a signer that is not there", `authorize = { signer = "file:nobody.pub" }`, []string{"nobody.pub: no such file"}},
	{"a signer that is none", `authorize = { signer = "file:policy.toml" }`, []string{"policy.toml: ", "a signer is one public key in PEM"}},
	{"inactive bank", `pcr = { bank = "sha512", indices = [0] }`, []string{"the PCR bank sha512 is not active", "active are "}},
	{"value in an inactive bank", `pcr = { bank = "sha512", "0" = "` + strings.Repeat("ab", 64) + `" }`, []string{"the PCR bank sha512 is not active"}},
	{"unknown bank", `pcr = { bank = "md5", indices = [0] }`, []string{"policy.toml:1: ", `unknown PCR bank "md5"`}},
	{"weak bank", `pcr = { bank = "sha1", indices = [0] }`, []string{"use sha256 or sha384"}},
	{"value of the wrong length", `pcr = { bank = "sha256", "7" = "` + strings.Repeat("ab", 48) + `" }`, []string{"policy.toml:1: ", "a value of sha256 PCR 7 has 32 bytes, not 48"}},
	{"boot that nothing measured", `pcr = { bank = "sha256", indices = [4] }`, []string{"PCR4 is all 00", "--force"}},
	{"value of no boot", `pcr = { bank = "sha256", "4" = "` + strings.Repeat("00", 32) + `" }`, []string{"PCR4 is all 00", "--force"}},
	{"value of no boot, by ones", `pcr = { bank = "sha256", "4" = "` + strings.Repeat("ff", 32) + `" }`, []string{"PCR4 is all ff", "--force"}},
	{"resettable PCR", `pcr = { bank = "sha256", indices = [16] }`, []string{"PCR16", "any program can reset it", "--force"}},
	{"absent NV index", `nv = { index = 0x01800099, op = "le", value = 5 }`, []string{"NV index 0x01800099", "there is no such NV index"}},
	{"absent NV index of approvals", `authorize_nv = { index = 0x01800099 }`, []string{"there is no such NV index"}},
	{"another hash", "hash = \"sha384\"\n[policy]\npin = true", []string{"policy.toml: its hash is sha384, and what is made here has sha256"}},
	{"no policy", `version = 1`, []string{"there is no [policy] in it"}},
}

func TestBadPolicies(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	withoutSHA512(m)
	m.write("in.txt", "the contract")
	for _, b := range badPolicies {
		m.write("policy.toml", b.policy)
		m.refuses([]mistake{
			{b.name + ", of a key", failed, b.says, []string{"key", "create", "new", "--type", "p256", "--policy", "policy.toml"}},
			{b.name + ", of sealed data", failed, b.says, []string{"seal", "--in", "in.txt", "--out", "sealed", "--policy", "policy.toml"}},
		})
		if _, err := os.Stat(m.path("sealed")); err == nil {
			t.Fatalf("%s: sealed", b.name)
		}
	}
	m.write("policy.toml", `pcr = { bank = "sha256", indices = [4] }`)
	m.tpm2p11("key", "create", "forced", "--type", "p256", "--policy", "policy.toml", "--force")
	m.signs("forced")
}

// withoutSHA512 is a machine with a key, whose TPM has no PCRs of SHA-512.
func withoutSHA512(m *machine) {
	m.t.Helper()
	m.run("tpm2_pcrallocate", "sha1:all+sha256:all+sha384:all+sha512:none")
	m.tpm.Restart(m.t)
	oneKey(m)
}

// Through the module the same policies make nothing either. An application is told that the attribute is wrong, or, where the TPM is not as
// the policy takes it to be, that it failed; and the operator why.
func TestBadPoliciesOfApplications(t *testing.T) {
	story{
		ways:   transports[:1],
		before: withoutSHA512,
		events: map[string]func(m *machine) string{"held": func(m *machine) string { return fmt.Sprint(m.tpm.Count(m.t)) }},
		app: func(a *application) {
			held := a.happen("held")
			for policy, want := range map[string]uint{
				`{"pim":true}`: pkcs11.CKR_ATTRIBUTE_VALUE_INVALID, `{`: pkcs11.CKR_ATTRIBUTE_VALUE_INVALID, `sha256:99`: pkcs11.CKR_ATTRIBUTE_VALUE_INVALID,
				`{"any":[{"pin":true}]}`:                                    pkcs11.CKR_ATTRIBUTE_VALUE_INVALID,
				`{"all":[{"pin":true},{"authorize":{"signer":"file:/x"}}]}`: pkcs11.CKR_ATTRIBUTE_VALUE_INVALID,
				`{"pcr":{"bank":"sha256","7":"abab"}}`:                      pkcs11.CKR_ATTRIBUTE_VALUE_INVALID,
				`{"pcr":{"bank":"sha512","indices":[0]}}`:                   pkcs11.CKR_FUNCTION_FAILED,
				`{"pcr":{"bank":"sha256","indices":[4]}}`:                   pkcs11.CKR_FUNCTION_FAILED,
				`{"pcr":{"bank":"sha256","indices":[16]}}`:                  pkcs11.CKR_FUNCTION_FAILED,
				`{"nv":{"index":"0x01800099","op":"le","value":5}}`:         pkcs11.CKR_FUNCTION_FAILED,
				`{"authorize":{"signer":"file:/no/such.pub"}}`:              pkcs11.CKR_FUNCTION_FAILED,
			} {
				const ckaTPM2Policy = 0x80544B11
				bound := pkcs11.NewAttribute(ckaTPM2Policy, []byte(policy))
				public, private := pair("new", pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, curveP256))
				_, _, err := a.p11().GenerateKeyPair(a.session, []*pkcs11.Mechanism{mechanism(pkcs11.CKM_EC_KEY_PAIR_GEN)}, public, append(private, bound))
				a.refused("C_GenerateKeyPair with "+policy, want, err)
				_, err = a.p11().CreateObject(a.session, []*pkcs11.Attribute{
					pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_DATA), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
					pkcs11.NewAttribute(pkcs11.CKA_VALUE, []byte("the contract")), bound,
				})
				a.refused("C_CreateObject with "+policy, want, err)
			}
			if now := a.happen("held"); now != held {
				a.t.Errorf("the TPM holds %s now, %s before", now, held)
			}
			a.works("web")
		},
		after: func(m *machine, log string) {
			for _, want := range []string{
				"pim is no known node", "any has one branch", "authorize can only be a policy's root", "has 32 bytes, not 2", "there is no PCR 99",
				"sha512 is not active", "sha256 PCR4 is all 00", "PCR16", "there is no such NV index", "/no/such.pub: no such file",
			} {
				if !strings.Contains(log, want) {
					m.t.Errorf("the log does not say %q:\n%s", want, log)
				}
			}
		},
	}.tell(t)
}

// What is wrong with a file of approved policies keeps neither the others from being tried nor the key from working by them.
func TestApprovedFilesThatDoNotCount(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.tpm2p11("init", "--no-pin")
	m.write("in.txt", "the contract")
	for _, who := range []string{"ci", "stranger"} {
		m.run("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", who+".pem")
	}
	m.run("openssl", "pkey", "-in", "ci.pem", "-pubout", "-out", "ci.pub")
	m.write("web.toml", `authorize = { signer = "file:ci.pub", ref = "tls/v1" }`)
	m.tpm2p11("key", "create", "web", "--type", "p256", "--policy", "web.toml")
	m.write("now.toml", m.pcrPolicy(7))
	sign := func(policy, key, ref, out string) {
		t.Helper()
		m.tpm2p11("policy", "sign", policy, "--key", key, "--ref", ref, "--out", out)
	}
	sign("now.toml", "ci.pem", "tls/v1", "good.json")
	good := string(m.read("good.json"))

	sign("now.toml", "stranger.pem", "tls/v1", "another key.json")
	sign("now.toml", "ci.pem", "tls/v2", "another ref.json")
	m.write("sha384.toml", "hash = \"sha384\"\n[policy]\n"+m.pcrPolicy(7))
	sign("sha384.toml", "ci.pem", "tls/v1", "another hash.json")
	m.write("another policy.json", strings.Replace(good, `"bank":"sha256","7":"`, `"bank":"sha256","8":"`, 1))
	m.write("no signature.json", good[:strings.Index(good, `,"sig"`)]+"}]}\n")
	unreadable := map[string]string{"cut short": good[:len(good)/2], "empty": "", "no text": "\xff\xfe"}
	for name, text := range unreadable {
		m.write(name+".json", text)
		m.refused([]string{name + ".json"}, command, "policy", "approve", name+".json")
	}
	copied := func(name string) {
		t.Helper()
		if err := os.MkdirAll(m.path("store/approved.d"), 0o755); err != nil {
			t.Fatal(err)
		}
		m.write("store/approved.d/"+name+".json", string(m.read(name+".json")))
	}
	for _, name := range []string{"another key", "another ref", "another hash", "another policy", "no signature"} {
		copied(name)
		m.refused([]string{"none of ", "approved policies bears its signature", "policy approve FILE"}, command, "sign", "web", "--in", "in.txt")
	}
	for name := range unreadable {
		copied(name)
	}
	said := m.refused([]string{"none of 5 approved policies bears its signature"}, command, "-v", "sign", "web", "--in", "in.txt").stderr
	for name := range unreadable {
		if !strings.Contains(said, name+".json") {
			t.Errorf("%s: no word of it in\n%s", name, said)
		}
	}
	copied("good")
	for _, name := range []string{"another key", "cut short"} { // newer ones again
		copied(name)
	}
	m.signs("web")
}

// A key of another tool's that has a policy and works by its authorisation too is not taken for one that is bound.
func TestPoliciesThatTheTPMDoesNotGoBy(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.tpm2p11("init", "--no-pin")
	m.run("tpm2_createprimary", "-Q", "-C", "o", "-G", "ecc", "-c", "parent")
	m.run("tpm2_createpolicy", "-Q", "--policy-pcr", "-l", "sha256:7", "-L", "pcr.policy")
	m.run("tpm2_flushcontext", "-l")
	m.run("tpm2_create", "-Q", "-C", "parent", "-G", "ecc", "-L", "pcr.policy", "-u", "key.pub", "-r", "key.priv",
		"-a", "sign|fixedtpm|fixedparent|sensitivedataorigin|userwithauth")
	m.run("tpm2_flushcontext", "-t")
	m.run("tpm2_evictcontrol", "-Q", "-C", "o", "-c", "parent", "0x81000010")
	m.run("tpm2_flushcontext", "-t")
	m.run("tpm2_load", "-Q", "-C", "parent", "-u", "key.pub", "-r", "key.priv", "-c", "key")
	m.run("tpm2_flushcontext", "-t")
	m.run("tpm2_evictcontrol", "-Q", "-C", "o", "-c", "key", "0x81000300")
	m.run("tpm2_flushcontext", "-t")
	said := []string{"userWithAuth", "--force takes the key all the same"}
	imported := []string{"key", "import", "--public", "key.pub", "--private", "key.priv", "--parent", "0x81000010", "--label", "file", "--pcr", "sha256:7", "--wrapped"}
	linked := []string{"key", "link", "0x81000300", "--label", "handle", "--pcr", "sha256:7"}
	m.refuses([]mistake{{"import", failed, said, imported}, {"link", failed, said, linked}})
	for label, taken := range map[string][]string{"file": imported, "handle": linked} {
		m.tpm.Restart(t)
		m.tpm.Extend(t, "sha256", 7, []byte("measured boot"))
		m.tpm2p11(append(taken, "--force")...)
		m.tpm.Extend(t, "sha256", 7, []byte("an update"))
		m.signs(label) // PCR 7 or not
		for want, args := range map[string][]string{
			"not enforced": {"key", "show", label}, "(not enforced)": {"key", "list"},
			"there is no policy that the TPM goes by": {"policy", "check", label}, "its policy is not enforced: userWithAuth is set": {"doctor"},
		} {
			if got := m.start(command, args...).all(); !strings.Contains(got, want) {
				t.Errorf("%v does not say %q:\n%s", args, want, got)
			}
		}
		m.tpm2p11("key", "delete", label, "--yes")
	}
}
