package tests

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"
)

// pcrPolicy is a policy file that wants a PCR to be what it is.
func (m *machine) pcrPolicy(pcr uint) string {
	m.t.Helper()
	var read struct {
		PCRs map[string]map[string]string `json:"pcrs"`
	}
	if err := json.Unmarshal([]byte(m.tpm2p11("pcr", "read", fmt.Sprintf("sha256:%d", pcr), "--json").stdout), &read); err != nil {
		m.t.Fatal(err)
	}
	return fmt.Sprintf("pcr = { bank = \"sha256\", \"%d\" = %q }\n", pcr, read.PCRs["sha256"][fmt.Sprint(pcr)])
}

// signPolicy approves the machine as it is, as a build machine does before an image is rolled out; the file is
// copied into the store by hand.
func (m *machine) signPolicy(name string) {
	m.t.Helper()
	m.write(name+".toml", m.pcrPolicy(7))
	m.tpm2p11("policy", "sign", name+".toml", "--key", "ci.pem", "--ref", "tls/v1", "--out", name+".json")
	if err := os.MkdirAll(m.path("store/approved.d"), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(m.path("store/approved.d/"+name+".json"), m.read(name+".json"), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// A server that runs on takes what is approved meanwhile, and refuses what is not; the operator finds out why.
func TestSignedPoliciesInARunningApplication(t *testing.T) {
	story{
		before: func(m *machine) {
			m.run("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "ci.pem")
			m.run("openssl", "pkey", "-in", "ci.pem", "-pubout", "-out", "ci.pub")
			m.write("web.toml", `authorize = { signer = "file:ci.pub", ref = "tls/v1" }`)
			m.write("term.toml", `clock = { before = 1 }`)
			m.write("decrypt.toml", `command = "decrypt"`)
			m.tpm2p11("init", "--no-pin")
			m.tpm2p11("key", "create", "web", "--type", "p256", "--policy", "web.toml")
			m.tpm2p11("key", "create", "expired", "--type", "p256", "--policy", "term.toml")
			m.tpm2p11("key", "create", "other", "--type", "p256", "--policy", "decrypt.toml")
			m.signPolicy("today")
		},
		events: map[string]func(m *machine) string{
			"update": func(m *machine) string { m.tpm.Extend(m.t, "sha256", 7, []byte("a new kernel")); return "" },
			"approve": func(m *machine) string {
				m.write("store/approved.d/broken.json", `{"approved":[`)
				m.signPolicy("tomorrow")
				return ""
			},
		},
		app: func(a *application) {
			a.works("web")
			a.happen("update")
			_, err := a.sign(a.session, ecdsaSHA256(), a.private("web"), message)
			a.refused("after an update that nobody approved", pkcs11.CKR_FUNCTION_REJECTED, err)
			a.happen("approve")
			a.works("web")
			for _, key := range []string{"expired", "other"} {
				_, err := a.sign(a.session, ecdsaSHA256(), a.private(key), message)
				a.refused(key, pkcs11.CKR_FUNCTION_REJECTED, err)
			}
		},
		after: func(m *machine, log string) {
			for _, want := range []string{
				"sha256 PCR7 is ", "approved: today (", "broken.json:1: ", "the TPM's clock is at ", "it is to be used to sign, approved: decrypt alone",
			} {
				if !strings.Contains(log, want) {
					m.t.Errorf("the log does not say %q:\n%s", want, log)
				}
			}
		},
	}.tell(t)
}
