package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

const (
	arnOfMachines = "arn:aws:iam::111122223333:role/web"
	arnOfKeys     = "arn:aws:iam::111122223333:role/keys"
)

func TestMistakesInAskingKMS(t *testing.T) {
	t.Parallel()
	m := offline(t)
	m.write("in", "a ciphertext")
	m.write("crt", "no certificate")
	importKey := "kms import-key web --no-context "
	for _, c := range []struct {
		code                int
		args, message, hint string
	}{
		{exitUsage, "kms", "the verb is missing: there is data-key, decrypt", "--help"},
		{exitUsage, "kms encrypt --no-context -i @in --base64", "the KMS key is missing", "key_id in the configuration's [kms]"},
		{exitUsage, "kms encrypt --key-id k --context =x -i @in", "write NAME=VALUE", "--help"},
		{exitUsage, "kms decrypt --key-id= -i @in", "--key-id is empty", "--help"},
		{exitUsage, "kms decrypt --recipient= -i @in", "--recipient is empty", "--help"},
		{exitUsage, "kms data-key --no-context --key-id k", "--ciphertext-out is missing", "without its ciphertext"},
		{exitUsage, "kms data-key --no-context --key-id k --out d --ciphertext-out ./d", "are one file", "keep the ciphertext"},
		{exitUsage, "kms data-key --no-context --ciphertext-out @c", "the KMS key is missing", "--key-id KEY"},
		{exitUsage, "kms open-cms -i @in", "the recipient key is missing", "--recipient KEY"},
		{exitUsage, importKey, "import-key takes --in FILE or --generate SPEC", "--help"},
		{exitUsage, importKey + "--in @in --generate RSA_2048", "import-key takes --in FILE or --generate SPEC", "--help"},
		{exitUsage, importKey + "--in @in", "--certificate is missing", "KMS's answer is not signed"},
		{exitUsage, importKey + "--in @in --certificate @crt --public-key @crt", "--certificate is missing", ""},
		{exitUsage, importKey + "--in @in --certificate @crt --ciphertext-out @c", "--ciphertext-out is for a pair", "--help"},
		{exitUsage, importKey + "--generate RSA_1024 --ciphertext-out @c", "there is ECC_NIST_P256, ECC_NIST_P384, ECC_NIST_P521, RSA_2048", "--help"},
		{exitUsage, importKey + "--generate RSA_2048", "--ciphertext-out is missing", "no other machine"},
		{exitUsage, importKey + "--generate RSA_2048 --certificate @crt --ciphertext-out @c", "there is no certificate of it", "--help"},
		{exitFailed, importKey + "--generate RSA_2048 --ciphertext-out @in", "is there already", "the only copy"},
		{exitFailed, importKey + "--in @in --certificate @crt", "no certificate in PEM form", ""},
		{exitUsage, "kms key-policy", "--machine is missing", "--help"},
		{exitUsage, "kms key-policy --machine " + arnOfMachines, "--admin is missing", "--help"},
		{exitUsage, "kms key-policy --machine " + arnOfMachines + " --admin " + arnOfKeys, "no image: give --pcr-file FILE or --current NAME", "--help"},
		{exitUsage, "kms key-policy --lint @in --current Now", "takes no other flag", "--help"},
		{exitFailed, "kms key-policy --lint @in", "not a key policy", "aws kms get-key-policy"},
	} {
		m.refused(c.code, c.message, c.hint, strings.Fields(c.args)...)
	}
}

func TestAKeyPolicyOfSeveralImages(t *testing.T) {
	t.Parallel()
	m := offline(t)
	image := func(name, format string, digit int) {
		m.write(name, strings.ReplaceAll(format, "VALUE", fmt.Sprintf("%096d", digit)))
	}
	image("november.json", `{"Measurements": {"HashAlgorithm": "SHA384 { ... }", "PCR4": "VALUE", "PCR7": "VALUE"}}`, 4)
	image("read.json", `{"pcrs": {"sha384": {"4": "VALUE", "12": "VALUE"}}}`, 5)
	args := []string{"kms", "key-policy", "--machine", arnOfMachines, "--admin", arnOfKeys}
	var policy struct{ Statement []struct{ Sid string } }
	if err := json.Unmarshal([]byte(m.run(append(args, "--pcr-file", "@november.json", "--pcr-file", "December="+m.path("read.json"))...)), &policy); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range policy.Statement {
		names = append(names, s.Sid)
	}
	if got := strings.Join(names, " "); got != "Administration Imagenovember ImageDecember NobodyWithoutAttestation" {
		t.Errorf("statements %s", got)
	}
	m.run(append(args, "--pcr-file", "@read.json", "--out", "@policy.json")...)
	contains(t, "lint", m.run("kms", "key-policy", "--lint", "@policy.json", "--json"), `"attested": true`, `"findings": []`)
	said := m.try(append(args, "--pcr-file", "@november.json", "--out", "@policy.json")...).stderr
	contains(t, "an image without PCR 12", said, "image november has no PCR 12: it is the same to the policy with any kernel command line")
	contains(t, "lint", m.run("kms", "key-policy", "--lint", "@policy.json"),
		"warning: statement Imagenovember: does not name PCR 12, where another kernel command line shows", "nothing in it bypasses attestation")
	contains(t, "lint", m.run("kms", "key-policy", "--lint", "@policy.json", "--json"), `"attested": true`, `"warning": true`)

	for text, want := range map[string]string{
		`{"Measurements": {"HashAlgorithm": "SHA256", "PCR4": "00"}}`: "attestation documents have SHA384",
		`{"Measurements": {"PCRx": "00"}}`:                            `"PCRx" is not the name of a PCR`,
		`{"Measurements": {"PCR4": "zz"}}`:                            "PCR4: ",
		`{"Measurements": {"PCR4": "00", "4": "01"}}`:                 "PCR4 is there twice",
		`{"Measurements": {"PCR4": "00"}}`:                            "PCR4 of 1 bytes",
		`{"Measurements": {"PCR12": "VALUE"}}`:                        "neither PCR 4 nor PCR 7",
		`{}`:                                                          "no PCR values of SHA-384",
		`text`:                                                        "not PCR values in JSON",
	} {
		image("bad.json", text, 1)
		m.refused(exitFailed, want, "`tpm2-p11 policy predict IMAGE --format aws`", append(args, "--pcr-file", "@bad.json")...)
	}
}

// A data key is not written to a terminal, and a missing context is told to programs too.
func TestWhatIsSaidBesideTheAnswer(t *testing.T) {
	t.Parallel()
	m := offline(t)
	_, terminal := openPTY(t)
	for _, args := range [][]string{
		{"kms", "data-key", "--no-context", "--key-id", "k", "--ciphertext-out", m.path("c")},
		{"kms", "encrypt", "--no-context", "--key-id", "k", "--in", m.write("in", "secret")},
		{"kms", "decrypt", "--no-context", "--key-id", "k", "--recipient", "r", "--in", m.path("in"), "--cms-out", "-"},
	} {
		var said bytes.Buffer
		a := &app{in: strings.NewReader(""), out: terminal.f, err: &said, ask: m.ask}
		if code := a.run(context.Background(), append(args, "--config", m.config)); code != exitUsage || !strings.Contains(said.String(), "standard output is a terminal") {
			t.Errorf("%v: %d %s", args, code, said.String())
		}
	}
	r := m.try("kms", "encrypt", "--in", "@in", "--json")
	if !strings.HasPrefix(r.stderr, `{"warning":"there is no encryption context`) {
		t.Errorf("said %s", r.stderr)
	}
}
