package main

import (
	"crypto"
	"encoding/hex"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/internal/imagetest"
	"github.com/tpm2-p11/tpm2-p11/policy/predict"
	"github.com/tpm2-p11/tpm2-p11/policy/predict/pe"
)

const (
	roleOfMachines = "arn:aws:iam::111122223333:role/web"
	roleOfKeys     = "arn:aws:iam::111122223333:role/keys"
)

// releases writes two images that a build made, as november.efi and december.efi.
func (m *machine) releases() {
	m.t.Helper()
	for _, month := range []string{"november", "december"} {
		m.write(month+".efi", string(imagetest.UKI(m.t, imagetest.Parts(m.t, "month="+month)...)))
	}
}

// measured is a PCR of an image, in hex, by way of the package.
func (m *machine) measured(file string, pcr uint, secureBoot predict.Variables) string {
	m.t.Helper()
	image, err := pe.Parse(m.read(file))
	if err != nil {
		m.t.Fatal(err)
	}
	values, err := predict.Boot{Image: image, SecureBoot: secureBoot}.PCRs(crypto.SHA384)
	if err != nil {
		m.t.Fatal(err)
	}
	return hex.EncodeToString(values[pcr])
}

// From the images of two releases to a policy and a key policy for both, on a machine without a TPM.
func TestFromImagesToPolicies(t *testing.T) {
	t.Parallel()
	m := offline(t)
	m.releases()
	november, december := m.measured("november.efi", 4, predict.Variables{}), m.measured("december.efi", 4, predict.Variables{})
	const pcr7 = "98441c7f7625d10058c47683aec486ce311c633235eb555593a7ee791121e3578ae72d04ecef661f272d59058b77af35"

	contains(t, "text", m.run("policy", "predict", "@november.efi", "--events"),
		"november: ", "sha384 PCR4  "+november, "sha384 PCR7  "+pcr7, "section .cmdline", "the kernel in the image")

	var aws struct{ Measurements map[string]string }
	if err := json.Unmarshal([]byte(m.run("policy", "predict", "@november.efi", "--format", "aws")), &aws); err != nil {
		t.Fatal(err)
	}
	if got := aws.Measurements; len(got) != 4 || got["HashAlgorithm"] != "SHA384 { ... }" || got["PCR4"] != november || got["PCR7"] != pcr7 ||
		got["PCR12"] != strings.Repeat("0", 96) {
		t.Errorf("AWS's form: %v", got)
	}

	if text := m.run("policy", "predict", "@november.efi", "--format", "aws", "--json"); !strings.Contains(text, november) {
		t.Errorf("AWS's form with --json: %s", text)
	}

	both := m.json("policy", "predict", "@november.efi", "@december.efi")
	m.run("policy", "predict", "@november.efi", "@december.efi", "--format", "policy", "--out", "@fleet.json")
	if got := strings.TrimSpace(m.run("policy", "digest", "@fleet.json")); got != both["policy_digest"] {
		t.Errorf("the policy's digest is %s, predicted was %s", got, both["policy_digest"])
	}
	contains(t, "the policy in words", m.run("policy", "show", "@fleet.json"), "one of", november, december)
	// A signer approves each image by itself.
	m.buildKey("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
	m.run("policy", "predict", "@november.efi", "@december.efi", "--sign", "@ci.pem", "--ref", "tls/v1", "--out", "@signed.json")
	contains(t, "what is signed", m.run("policy", "show", "@signed.json"), `approved "november":`, november, `approved "december":`, december)
	m.refused(exitUsage, "--sign and --format exclude each other", "", "policy", "predict", "@november.efi", "--sign", "@ci.pem", "--format", "kms")
	m.refused(exitUsage, "--ref goes with --sign", "", "policy", "predict", "@november.efi", "--ref", "x")
	m.refused(exitFailed, "--sign nobody is no file, and as a key's name: ", "", "policy", "predict", "@november.efi", "--sign", "nobody")
	// Images that look the same are one branch.
	if one := m.json("policy", "predict", "@november.efi", "again="+m.path("november.efi")); one["policy_digest"] !=
		m.json("policy", "predict", "@november.efi")["policy_digest"] {
		t.Errorf("the same image twice: %v", one["policy"])
	}

	m.run("policy", "predict", "@november.efi", "@december.efi", "--format", "kms", "--machine", roleOfMachines, "--admin", roleOfKeys, "--out", "@kms.json")
	contains(t, "lint", m.run("kms", "key-policy", "--lint", "@kms.json"), "nothing in it bypasses attestation")
	pairs := map[string]map[string]string{}
	var document struct {
		Statement []struct {
			Sid       string
			Condition struct{ StringEqualsIgnoreCase map[string]string }
		}
	}
	if err := json.Unmarshal(m.read("kms.json"), &document); err != nil {
		t.Fatal(err)
	}
	for _, s := range document.Statement {
		pairs[s.Sid] = s.Condition.StringEqualsIgnoreCase
	}
	const key = "kms:RecipientAttestation:NitroTPMPCR"
	if pairs["Imagenovember"][key+"4"] != november || pairs["Imagedecember"][key+"4"] != december || len(pairs["Imagenovember"]) != 3 ||
		pairs["Imagedecember"][key+"7"] != pcr7 {
		t.Errorf("statements: %v", pairs)
	}

	// The long way gives the same: AWS's form, then a key policy of it.
	m.run("policy", "predict", "@november.efi", "--format", "aws", "--out", "@november.json")
	m.run("kms", "key-policy", "--machine", roleOfMachines, "--admin", roleOfKeys, "--pcr-file", "@november.json", "--out", "@long.json")
	m.run("policy", "predict", "@november.efi", "--format", "kms", "--machine", roleOfMachines, "--admin", roleOfKeys, "--out", "@short.json")
	if string(m.read("long.json")) != string(m.read("short.json")) {
		t.Error("the key policies differ")
	}
}

// Under secure boot PCR 7 stands for whoever signs images, and a key policy of PCR 7 alone outlives updates.
func TestSignedImagesUnderSecureBoot(t *testing.T) {
	t.Parallel()
	m := offline(t)
	m.releases()
	owner := imagetest.NewAuthority(t, "owner", nil)
	for _, month := range []string{"november", "december"} {
		m.write(month+"-signed.efi", string(owner.Sign(t, m.read(month+".efi"))))
	}
	m.write("db.esl", string(imagetest.Read(t, imagetest.Database(t, owner))))
	list := m.read("db.esl")
	on := []string{"--pk", "@db.esl", "--kek", "@db.esl", "--db", "@db.esl", "--pcr", "sha384:7"}
	predicted := func(image string) any {
		return m.json(append([]string{"policy", "predict", image}, on...)...)["policy_digest"]
	}
	if november, december := predicted("@november-signed.efi"), predicted("@december-signed.efi"); november != december {
		t.Errorf("an update changes the policy: %v and %v", november, december)
	}
	policy := m.run(append([]string{"policy", "predict", "@november-signed.efi", "--format", "policy"}, on...)...)
	contains(t, "policy", policy, m.measured("november-signed.efi", 7, predict.Variables{PK: list, KEK: list, DB: list}))
	m.refused(exitFailed, "it is not signed", "", append([]string{"policy", "predict", "@november.efi"}, on...)...)
}

func TestPredictionsThatBindNothingOrMakeNoSense(t *testing.T) {
	t.Parallel()
	m := offline(t)
	m.releases()
	m.write("text", "no image")
	m.write("nameless.efi", strings.Replace(string(m.read("november.efi")), ".sdmagic", ".nomagic", 1))
	if err := os.WriteFile(m.path("empty.esl"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const image = "policy predict @november.efi "
	for _, c := range []struct {
		code                int
		args, message, hint string
	}{
		{exitUsage, "policy predict", "IMAGE is missing", "--help"},
		{exitUsage, image + "--pcr sha384:7", "without secure boot is the same for every image", "--pk"},
		{exitUsage, image + "--pcr sha384:11,12", "bind nothing", "PCR 4"},
		{exitUsage, image + "--pcr sha384:4,8", "PCR 8 does not follow from an image", "--help"},
		{exitUsage, image + "--pcr sha512:4", "sha256 and sha384", "--help"},
		{exitUsage, image + "--pcr sha1:4", "sha1", "--help"},
		{exitUsage, image + "--hash sha1", "there is sha256 and sha384", "--help"},
		{exitUsage, image + "--format xml", "there is aws, policy and kms", "--help"},
		{exitUsage, image + "--out x", "--out goes with --format and --sign", "--help"},
		{exitUsage, image + "--machine " + roleOfMachines, "go with --format kms", "--help"},
		{exitUsage, image + "--format kms", "--machine is missing", "--help"},
		{exitUsage, image + "--format kms --machine " + roleOfMachines, "--admin is missing", "--help"},
		{exitUsage, image + "--format kms --pcr sha256:4 --admin " + roleOfKeys + " --machine " + roleOfMachines, "attestation documents have sha384", "--help"},
		{exitUsage, image + "@december.efi --format aws", "room for one image", "--help"},
		{exitUsage, image + "--pk @empty.esl", "it holds no key", "--help"},
		{exitUsage, image + "--db @empty.esl", "on with a platform key only", "--pk"},
		{exitFailed, image + "--pk @text", "not a UEFI signature database", "cert-to-efi-sig-list"},
		{exitFailed, image + "--pk @missing", "missing", ""},
		{exitFailed, image + "--loader @text", "not a PE image", ""},
		{exitFailed, "policy predict @text", "not a PE image", ""},
		{exitFailed, "policy predict " + imagetest.Loader, "is no unified kernel image", "ukify"},
		{exitFailed, "policy predict @missing", "missing", ""},
		{exitFailed, "policy predict @nameless.efi", "does not tell the version of its systemd-stub", "--stub-version"},
		{exitFailed, image + "--format kms --admin " + roleOfKeys + " --machine *", "principal", ""},
		{exitFailed, image + "@november.efi --format kms --admin " + roleOfKeys + " --machine " + roleOfMachines, "each name once", "NAME=IMAGE"},
		{exitFailed, image + "--phase enter-initrd::ready", "is no phase", ""},
	} {
		m.refused(c.code, c.message, c.hint, strings.Fields(c.args)...)
	}
	m.run(strings.Fields("policy predict @nameless.efi --stub-version 252")...)

	// What a choice of PCRs leaves open is said.
	for args, note := range map[string]string{
		image + "--pcr sha256:4,11":            "any kernel command line",
		image + "--loader " + imagetest.Loader: "a loader may measure into PCR 12",
		image:                                  "",
	} {
		if r := m.try(strings.Fields(args)...); r.code != exitOK || !strings.Contains(r.stderr, note) || note == "" && r.stderr != "" {
			t.Errorf("%s: exit code %d, %q", args, r.code, r.stderr)
		}
	}
}
