package main

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/simtest"
)

// instance is an attestable machine: its TPM is a NitroTPM.
type instance struct {
	*machine
	sim *simtest.Sim
}

func newInstance(t *testing.T, flags ...string) instance {
	t.Helper()
	i := instance{offline(t), simtest.Start(t, flags...)}
	i.write("tpm2-p11.conf", "tpm = \""+i.sim.Address()+"\"\nstore = \""+i.path("store")+"\"\n")
	i.write("root.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.sim.Root(t).Raw})))
	return i
}

// pcr reads a PCR's SHA-384 value in hex.
func (i instance) pcr(n string) string {
	i.t.Helper()
	pcrs := i.json("pcr", "read", "sha384:"+n)["pcrs"].(map[string]any)
	return pcrs["sha384"].(map[string]any)[n].(string)
}

func TestAnInstanceProvesWhatItRuns(t *testing.T) {
	t.Parallel()
	m := newInstance(t)
	m.run("init", "--no-pin")
	m.run("key", "create", "web", "--type", "p256")
	m.write("data", "what the caller says")
	m.write("nonce", "a challenge")
	pcr4, pcr7 := m.pcr("4"), m.pcr("7")

	m.run("attest", "document", "--nonce-file", "@nonce", "--user-data", "@data", "--public-key", "web", "--out", "@document")
	contains(t, "show", m.run("attest", "show", "@document"),
		"nothing here was verified", "the Nitro hypervisor's PKI, not the TPM's own key", "i-0123456789abcdef0",
		`nonce        "a challenge"`, `user data    "what the caller says"`, "public key   p256 3059", "issued by", "PCR4         "+pcr4, "PCR23")
	shown := m.json("attest", "show", "@document")
	if shown["verified"] != false || shown["pcrs"].(map[string]any)["7"] != pcr7 || len(shown["pcrs"].(map[string]any)) != 24 {
		t.Errorf("show --json: %v", shown)
	}

	contains(t, "verify", m.run("attest", "verify", "@document", "--root", "@root.pem", "--nonce-file", "@nonce", "--user-data", "@data",
		"--public-key", "web", "--instance", "i-0123456789abcdef0", "--pcr", "4="+pcr4, "--pcr", "7="+pcr7),
		"the document is valid", "PCR4, PCR7, nonce, user data, public key, instance")
	r := m.try("attest", "verify", "@document", "--root", "@root.pem")
	contains(t, "the notes", r.stderr, "no nonce was asked for", "no PCR was asked for")
	if verified := m.json("attest", "verify", "@document", "--root", "@root.pem"); verified["verified"] != true {
		t.Errorf("verify --json: %v", verified)
	}

	m.write("public.pem", m.run("key", "public", "web"))
	m.run("attest", "verify", "@document", "--root", "@root.pem", "--public-key", "@public.pem")
	m.run("key", "create", "other", "--type", "p256")
	for _, c := range []struct{ args, message, hint string }{
		{"", "certificate chain is not trusted", "needs the emulator's root"},
		{"--root @root.pem --nonce 00", "nonce is not the expected one", "ask for a fresh one, with this nonce"},
		{"--root @root.pem --user-data @nonce", "user data is not the expected one", ""},
		{"--root @root.pem --public-key other", "public key is not the expected one", ""},
		{"--root @root.pem --public-key @absent", "neither a key of the store nor a file", ""},
		{"--root @root.pem --instance i-1", "of another machine", ""},
		{"--root @root.pem --pcr 4=" + pcr7, "PCR4 is " + pcr4, "another image"},
		{"--root @root.pem --at 2020-01-01T00:00:00Z", "out of its time", "--at TIME"},
		{"--root @root.pem --max-age 1ns", "out of its time", "--max-age"},
	} {
		m.refused(exitFailed, c.message, c.hint, append([]string{"attest", "verify", "@document"}, strings.Fields(c.args)...)...)
	}
	m.run("attest", "verify", "@document", "--root", "@root.pem", "--at", time.Now().UTC().Add(2*time.Minute).Format(time.RFC3339))
}

func TestDocumentsInEveryForm(t *testing.T) {
	t.Parallel()
	m := newInstance(t)
	raw := m.run("attest", "document", "--nonce", "00ff")
	m.write("raw", raw)
	m.write("base64", m.run("attest", "document", "--nonce", "00ff", "--format", "base64"))
	m.write("hex", m.run("attest", "document", "--nonce", "00ff", "--format", "hex"))
	for _, file := range []string{"raw", "base64", "hex"} {
		m.run("attest", "verify", "@"+file, "--root", "@root.pem", "--nonce", "00ff")
		if nonce := m.json("attest", "show", "@"+file)["nonce"].(map[string]any); nonce["hex"] != "00ff" || nonce["text"] != nil {
			t.Errorf("%s: nonce %v", file, nonce)
		}
	}
	if b, err := base64.StdEncoding.DecodeString(m.json("attest", "document")["document"].(string)); err != nil || b[0] != 0x84 {
		t.Errorf("document --json: %v", err)
	}
	if b, err := hex.DecodeString(m.json("attest", "document", "--format", "hex")["document"].(string)); err != nil || b[0] != 0x84 {
		t.Errorf("document --format hex --json: %v", err)
	}
	m.stdin = raw
	contains(t, "show of standard input", m.run("attest", "show", "-"), "nonce        00ff", "user data    -", "public key   -")
	m.refused(exitFailed, "attestation document is malformed", "", "attest", "show", m.write("bad", "nonsense"))
	m.refused(exitFailed, "at most 512", "", "attest", "document", "--nonce-file", m.write("long", strings.Repeat("n", 513)))
}

func TestAServiceStartsOnTheExpectedImageOnly(t *testing.T) {
	t.Parallel()
	m := newInstance(t)
	args := []string{"attest", "self", "--root", "@root.pem", "--pcr", "4=" + m.pcr("4"), "--pcr", "12=" + m.pcr("12")}
	contains(t, "self", m.run(args...), "this machine is the expected image", "PCR4, PCR12, nonce")
	m.run(append(args, "--instance", "i-0123456789abcdef0")...)
	m.refused(exitFailed, "of another machine", "", append(args, "--instance", "i-00000000000000000")...)
	m.sim.Extend(t, "sha384", 12, []byte("another command line"))
	m.refused(exitFailed, "PCR12 is ", "another image", args...)
	m.refused(exitUsage, "--pcr is missing", "--help", "attest", "self")
}

func TestATPMThatIsNoNitroTPM(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	for _, args := range [][]string{{"attest", "document"}, {"attest", "self", "--pcr", "4=" + strings.Repeat("00", 48)}} {
		m.refused(exitFailed, "not an AWS NitroTPM", "`tpm2-p11 key attest", args...)
	}
}

func TestAKeyIsProvedToACA(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.write("pin", "a PIN")
	m.write("so", "another PIN")
	m.run("init", "--pin-file", "@pin", "--so-pin-file", "@so")
	m.tpm.Extend(t, "sha256", 7, []byte("boot"))
	m.run("key", "create", "web", "--type", "p256", "--pcr", "sha256:7", "--pin-file", "@pin")
	m.run("key", "create", "free", "--type", "p256", "--pin-file", "@pin")

	// The CA learns which attestation key is this TPM's.
	m.run("attest", "identity", "--out", "@identity")
	ak := m.json("attest", "identity")["identity"].(map[string]any)["ak_name"].(string)
	contains(t, "challenge", m.try("attest", "challenge", "@identity", "--secret-out", "@secret", "--out", "@challenge").stderr, ak)
	if answer := m.run("attest", "activate", "@challenge"); answer != string(m.read("secret")) {
		t.Errorf("the answer is %q, the secret %q", answer, m.read("secret"))
	}
	m.refused(exitFailed, "TPM2_ActivateCredential", "it opens only in the TPM", "attest", "activate", "@challenge", "--ak", "rsa2048")
	m.refused(exitUsage, "--secret-out is missing", "--help", "attest", "challenge", "@identity")
	m.tool("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca")
	m.refused(exitFailed, "endorsement key is not certified: there is no certificate", "leave out --ek-ca", "attest", "challenge", "@identity", "--ek-ca", "@ca.pem", "--secret-out", "@none")

	// And then what it signs.
	policyDigest := m.json("key", "show", "web")["auth_policy"].(string)
	pcr7 := m.json("pcr", "read", "sha256:7")["pcrs"].(map[string]any)["sha256"].(map[string]any)["7"].(string)
	m.run("key", "attest", "web", "--nonce", "0102", "--pcr", "sha256:7", "--out", "@web.evidence")
	verify := []string{"key", "verify-attestation", "@web.evidence", "--ak-name", ak, "--nonce", "0102"}
	contains(t, "verify-attestation", m.run(append(verify, "--public-key", "web", "--policy-digest", policyDigest, "--pcr", "sha256:7="+pcr7)...),
		"never leaves it", "p256", "fixedTPM fixedParent sensitiveDataOrigin", "policy       "+policyDigest, "sha256 PCR7  "+pcr7)
	if v := m.json(verify...); v["valid"] != true || v["policy_enforced"] != true || v["ak_name"] != ak {
		t.Errorf("verify-attestation --json: %v", v)
	}
	for _, c := range []struct{ args, message, hint string }{
		{"--public-key free", "public key is not the expected one", ""},
		{"--policy-digest " + ak[4:], "policy is not the expected one", ""},
		{"--pcr sha256:8=" + pcr7, "PCR8 was not quoted", ""},
		{"--pcr sha256:7=" + strings.Repeat("00", 32), "PCR7 is " + pcr7, ""},
	} {
		m.refused(exitFailed, c.message, c.hint, append(append([]string{}, verify...), strings.Fields(c.args)...)...)
	}
	m.refused(exitFailed, "nonce is not the expected one", "another challenge", "key", "verify-attestation", "@web.evidence", "--ak-name", ak, "--nonce", "0103")
	m.refused(exitFailed, "not the trusted one", "another TPM's", "key", "verify-attestation", "@web.evidence", "--ak-name", ak+"00", "--nonce", "0102")
	m.refused(exitFailed, "malformed", "", "key", "verify-attestation", m.write("bad", "{}"), "--ak-name", ak, "--nonce", "0102")

	// A key without a policy is certified under its authorisation, the token's secret.
	m.run("key", "attest", "free", "--nonce", "0102", "--pin-file", "@pin", "--out", "@free.evidence")
	m.run("key", "verify-attestation", "@free.evidence", "--ak-name", ak, "--nonce", "0102", "--public-key", "free")
	m.refused(exitUsage, "the PIN of token", "--pin-file", "key", "attest", "free", "--nonce", "0102")
	contains(t, "attest --json", m.run("key", "attest", "web", "--nonce", "0102", "--json"), `"evidence"`, `"ak_name": "`+ak)
}

func TestMistakesInAttestation(t *testing.T) {
	t.Parallel()
	m := offline(t)
	for _, c := range []struct{ args, message, hint string }{
		{"attest", "the verb is missing: there is activate, challenge, document", "--help"},
		{"attest document --format pem", "--format pem: there is raw, base64 and hex", "--help"},
		{"attest document --nonce 123", "--nonce 123: not hex digits in pairs", "--help"},
		{"attest document --nonce 12 --nonce-file x", "--nonce and --nonce-file exclude each other", "--help"},
		{"attest show", "FILE is missing", "--help"},
		{"attest verify x --pcr 4", "--pcr 4: write it as N=HEX", "--help"},
		{"attest verify x --pcr 24=" + strings.Repeat("00", 48), "--pcr 24=", "--help"},
		{"attest verify x --pcr 4=" + strings.Repeat("00", 32), "96 hex digits", "--help"},
		{"attest verify x --pcr 4=" + strings.Repeat("00", 48) + " --pcr 4=" + strings.Repeat("00", 48), "--pcr 4 is given twice", "--help"},
		{"attest verify x --at noon", "--at noon: write the time as", "--help"},
		{"attest verify x --max-age 0s", "--max-age 0s", "--help"},
		{"attest identity --ak dsa", "--ak dsa: there is p256 and rsa2048", "--help"},
		{"key attest web", "the nonce is missing", "--nonce HEX"},
		{"key attest web --nonce " + strings.Repeat("00", 33), "at most 32 fit", "--help"},
		{"key attest web --nonce 00 --pcr 7", "PCR selection", "--help"},
		{"key attest web --nonce 00 --ak-hierarchy null", "--ak-hierarchy null", "--help"},
		{"key verify-attestation x --nonce 00", "--ak-name is missing", "attest identity"},
		{"key verify-attestation x --nonce 00 --ak-name 00 --pcr sha256:7=00", "64 hex digits", "--help"},
		{"key verify-attestation x --nonce 00 --ak-name 00 --pcr sha256:7-8=" + strings.Repeat("00", 32), "BANK:N=HEX", "--help"},
	} {
		m.refused(exitUsage, c.message, c.hint, strings.Fields(c.args)...)
	}
}

// A variable that is not set must not make a verifier ask for less.
func TestAnEmptyDemandIsNoDemand(t *testing.T) {
	t.Parallel()
	m := offline(t)
	for _, flag := range []string{"nonce", "nonce-file", "user-data", "public-key", "instance", "root", "pcr", "at"} {
		m.refused(exitUsage, "--"+flag, "--help", "attest", "verify", "x", "--"+flag, "")
	}
	for _, flag := range []string{"nonce", "public-key", "policy-digest", "pcr"} {
		m.refused(exitUsage, "--"+flag, "--help", "key", "verify-attestation", "x", "--nonce", "00", "--ak-name", "00", "--"+flag, "")
	}
	m.refused(exitUsage, "--instance is empty", "--help", "attest", "self", "--pcr", "4="+strings.Repeat("00", 48), "--instance", "")
}

func TestJSONNamesOfAttestationAreStable(t *testing.T) {
	t.Parallel()
	m := newInstance(t)
	m.run("init", "--no-pin")
	m.run("key", "create", "web", "--type", "p256")
	m.run("attest", "document", "--public-key", "web", "--nonce", "00", "--out", "@document")
	m.run("attest", "identity", "--ek", "p256", "--out", "@identity")
	m.run("key", "attest", "web", "--nonce", "00", "--pcr", "sha384:7", "--out", "@evidence")
	ak := m.json("attest", "identity", "--ek", "p256")["identity"].(map[string]any)["ak_name"].(string)
	const claims = "cabundle certificate digest instance module_id nonce pcrs public_key signed_by timestamp user_data verified"
	for _, c := range []struct{ args, path, names string }{
		{"attest document", "", "document format"},
		{"attest document --out @x", "", "document file format"},
		{"attest show @document", "", claims},
		{"attest show @document", "certificate", "issuer not_after not_before sha256 subject"},
		{"attest show @document", "nonce", "hex"},
		{"attest show @document", "public_key", "hex type"},
		{"attest verify @document --root @root.pem", "", claims},
		{"attest self --root @root.pem --pcr 4=" + m.pcr("4"), "", claims},
		{"attest identity --ek p256", "identity", "ak ak_name ek ek_type"},
		{"attest challenge @identity --secret-out @x", "challenge", "credential ek_type secret"},
		{"key attest web --nonce 00", "", "ak_name evidence name"},
		{"key attest web --nonce 00 --pcr sha384:7", "evidence", "ak ak_hierarchy certify format key pcrs quote"},
		{"key verify-attestation @evidence --nonce 00 --ak-name " + ak, "", "ak_name attributes name pcrs policy_enforced type valid"},
	} {
		object := m.json(strings.Fields(c.args)...)
		if c.path != "" {
			object = object[c.path].(map[string]any)
		}
		if got := strings.Join(slices.Sorted(maps.Keys(object)), " "); got != c.names {
			t.Errorf("%s --json: %s holds %s, want %s", c.args, c.path, got, c.names)
		}
	}
}
