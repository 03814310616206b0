package policyfile_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/policy/policyfile"
)

func TestTheSamePolicyInEverySpelling(t *testing.T) {
	t.Parallel()
	const want = "sha256:7 + pin"
	for name, text := range map[string]string{
		"TOML":        "version = 1\nhash = \"sha256\"\n[policy]\nall = [ { pcr = { bank = \"sha256\", indices = [7] } }, { pin = true } ]\n",
		"TOML tables": "[[all]]\npcr.bank = \"sha256\"\npcr.indices = [7]\n[[all]]\npin = true\n",
		"JSON":        `{"version":1,"policy":{"all":[{"pcr":{"bank":"sha256","indices":[7]}},{"pin":true}]}}`,
		"JSON node":   "\n" + `{"all":[{"pcr":{"bank":"sha256","indices":[7]}},{"pin":true}]}`,
	} {
		f, err := policyfile.Parse(name, []byte(text))
		if err != nil || f.Policy.String() != want || f.Hash != tpm2.TPMAlgSHA256 {
			t.Errorf("%s: %v, %v", name, f, err)
		}
	}
	f, err := policyfile.Parse("p.toml", []byte("hash = \"sha384\"\npolicy.pin = true\n"))
	if err != nil || f.Hash != tpm2.TPMAlgSHA384 {
		t.Errorf("%v, %v", f, err)
	}
}

func TestMistakesAreNamedWithTheirLine(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"version = 2":             "p:1: version 2 of the format is not known: it is 1",
		"hash = \"sha1\"":         `p:1: hash is "sha256" or "sha384", not sha1`,
		"\nkeys = 1\nversion = 1": `p:2: "keys" is not known here (known: `,
		"version = 1":             "there is no [policy] in it",
		"a = ":                    "p:1: ",
		"x = \"\xff\"":            "it is not UTF-8 text",
		"all = [\n  { pin = true },\n  { pim = true },\n]":                    "p:3: invalid policy: all[1].pim is no known node",
		"[policy]\nany = [\n  { all = [\n  { pin = 1 } ] }, { pin = true } ]": "p:4: invalid policy: any[0].all[0].pin can only be true",
		"[[all]]\npin = true\n[[all]]\npcr.bank = \"md5\"\npcr.indices = [7]": `p:4: all[1].pcr.bank: invalid policy: unknown PCR bank "md5"`,
		"{\n\"all\": [\n{\"pin\": 1}]}":                                       "p:3: invalid policy: all[0].pin can only be true",
		"{\n\"pin\": true,\n\"pin\": true}":                                   `p:3: member "pin" is there twice`,
		"{\"pin\":\ntrue":                                                     "unexpected EOF",
		"":                                                                    "there is no [policy] in it",
	} {
		_, err := policyfile.Parse("p", []byte(text))
		var where *policyfile.Error
		if !errors.As(err, &where) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q\n got: %v\nwant: %s", text, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"all = [ { pin = true } ]", `{"policy":{"pin":true}}`, "[policy]\nclock.within = \"1d\""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := policyfile.Parse("p", text)
		if err == nil && file.Policy.Equal(policy.Policy{}) {
			t.Fatal("nothing was read")
		}
	})
}
