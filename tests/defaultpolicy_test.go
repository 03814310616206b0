package tests

import (
	"strings"
	"testing"
)

// Tools that know nothing of policies make and bring keys and data, which the configuration binds to PCR 8. When it changes, none of
// them opens, and after the next boot all do.
func TestTheConfigurationsPolicyBindsWhatToolsMake(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "policy = \"sha256:8\"\n")
	m.write("in.txt", "the contract")
	m.tpm2p11("init", "--label", "web", "--no-pin")
	m.tpm.Extend(t, "sha256", 8, []byte("the right image")) // bound to what no PCR is at first
	m.pkcs11Tool("--keypairgen", "--key-type", "EC:prime256v1", "--label", "made", "--id", "01")
	m.run("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-outform", "DER", "-out", "old.der")
	m.pkcs11Tool("--write-object", "old.der", "--type", "privkey", "--label", "brought", "--id", "02")
	m.pkcs11Tool("--write-object", "in.txt", "--type", "data", "--label", "text", "--private")

	signed := func(id string) []string {
		return []string{"--module", module, "--sign", "--id", id, "--mechanism", "ECDSA-SHA256", "-i", "in.txt", "-o", "in.sig"}
	}
	read := []string{"--module", module, "--read-object", "--type", "data", "--label", "text", "--output-file", "read.txt"}
	for _, works := range [][]string{signed("01"), signed("02"), read} {
		m.run("pkcs11-tool", works...)
	}
	if got := string(m.read("read.txt")); got != "the contract" {
		t.Errorf("the data is %q", got)
	}
	m.tpm.Extend(t, "sha256", 8, []byte("something else"))
	for _, refused := range [][]string{signed("01"), signed("02")} {
		m.refused([]string{"PCR8"}, "pkcs11-tool", refused...)
	}
	m.write("read.txt", "")
	said := m.start("pkcs11-tool", read...).all() // it is content with any answer
	if !strings.Contains(said, "PCR8") || string(m.read("read.txt")) == "the contract" {
		t.Errorf("the data was read:\n%s", said)
	}
	m.tpm.Restart(t)
	m.tpm.Extend(t, "sha256", 8, []byte("the right image"))
	for _, works := range [][]string{signed("01"), signed("02"), read} {
		m.run("pkcs11-tool", works...)
	}
}
