package policyfile_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/policy/policyfile"
)

func TestApprovedPoliciesAreReadAndWritten(t *testing.T) {
	t.Parallel()
	text := `version = 1
[[approved]]
name = "two"
pin = true
sig = "c2lnbmF0dXJl"
[[approved]]
name = "one"
policy.all = [ { pin = true }, { command = "sign" } ]
`
	for name, text := range map[string]string{
		"TOML": text,
		"JSON": `{"approved":[{"name":"two","pin":true,"sig":"c2lnbmF0dXJl"},{"name":"one","policy":{"all":[{"pin":true},{"command":"sign"}]}}]}`,
	} {
		all, err := policyfile.ParseApproved(name, []byte(text))
		if err != nil || len(all) != 2 || all[0].Name != "two" || string(all[0].Signature) != "signature" || all[1].Policy.String() != "pin + sign alone" || all[1].Signature != nil {
			t.Fatalf("%s: %v, %v", name, all, err)
		}
		written, err := policyfile.EncodeApproved(all)
		if err != nil {
			t.Fatal(err)
		}
		again, err := policyfile.ParseApproved(name, written)
		if err != nil || len(again) != 2 || !again[1].Policy.Equal(all[1].Policy) || string(again[0].Signature) != "signature" {
			t.Errorf("%s: %s is read as %v, %v", name, written, again, err)
		}
	}
}

func TestWhatIsNoApproval(t *testing.T) {
	t.Parallel()
	area := `{"authorize":{"signer":"file:x"}}`
	for text, want := range map[string]string{
		`{"approved":[]}`:                                                                  "approved is written [[approved]], and is not empty",
		`{"approved":{"name":"x"}}`:                                                        "approved is written [[approved]]",
		`{"approved":[{"pin":true}]}`:                                                      "an approved policy has a name",
		`{"approved":[{"name":"x"}]}`:                                                      `approved policy "x" requires nothing`,
		`{"approved":[{"name":"x","pin":true,"policy":{"pin":true}}]}`:                     "an approved policy is there once",
		"{\n\"approved\":[\n{\"name\":\"x\",\n\"pim\":true}]}":                             `p:4: "pim" is not known here`,
		"{\n\"approved\":[\n{\"name\":\"x\",\n\"pin\":false}]}":                            "p:4: invalid policy: pin can only be true",
		`{"approved":[{"name":"x","pin":true,"sig":"§"}]}`:                                 "sig is a signature in Base64",
		`{"approved":[{"name":"x","policy":` + area + `}]}`:                                `approved policy "x" asks for approval itself`,
		`{"approved":[{"name":"x","authorize_nv":{"index":"0x01800001"}}]}`:                `asks for approval itself`,
		`{"policy":{"pin":true}}`:                                                          "there is no [[approved]] in it",
		`{"sha256":{}}`:                                                                    "sha256 is a list",
		`{"sha256":[1]}`:                                                                   "it is no table of pcrs, pkfp, pol and sig",
		`{"sha256":[{"pcrs":[11],"pol":"00","sig":"AA=="}]}`:                               "32 or 48 bytes, not 1",
		`{"sha256":[{"pcrs":[11],"sig":"AA=="}]}`:                                          "is a value in hexadecimal",
		`{"sha256":[{"pcrs":[99],"pol":"` + strings.Repeat("00", 32) + `","sig":"AA=="}]}`: "is a PCR index from 0 to 23",
		`{"sha256":[{"pcrs":[11],"pol":"` + strings.Repeat("00", 32) + `","sig":""}]}`:     "sig is a signature in Base64",
	} {
		if all, err := policyfile.ParseApproved("p", []byte(text)); err == nil || !strings.Contains(err.Error(), want) || all != nil {
			t.Errorf("%s\n got: %v, %v\nwant: %s", text, all, err, want)
		}
	}
}

func TestSystemdsFile(t *testing.T) {
	t.Parallel()
	pol := strings.Repeat("ab", 32)
	text := `{"sha1":[{"pcrs":[11],"pkfp":"x","pol":"` + pol + `","sig":"AA=="}],"sha256":[{"pcrs":[11],"pkfp":"x","pol":"` + pol + `","sig":"c2lnbmF0dXJl"}]}`
	all, err := policyfile.ParseApproved("/run/systemd/tpm2-pcr-signature.json", []byte(text))
	if err != nil || len(all) != 1 || all[0].Name != "tpm2-pcr-signature.json sha256[0]" || string(all[0].Signature) != "signature" {
		t.Fatalf("%v, %v", all, err)
	}
	if digest, err := all[0].Policy.Digest(tpm2.TPMAlgSHA256); err != nil || len(digest) != 32 || digest[0] != 0xab {
		t.Errorf("digest %x, %v", digest, err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := policy.NewSigner(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := policyfile.EncodeSystemd(all, s); err == nil || !strings.Contains(err.Error(), "RSA") {
		t.Errorf("an ECDSA signer: %v", err)
	}
}

// Folders are looked at each time: files come, go and change, and one that is broken does not keep the others away.
func TestFoldersOfApprovedPolicies(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var complaints []string
	f := policyfile.NewFolders(func(err error) { complaints = append(complaints, err.Error()) },
		filepath.Join(dir, "approved.d"), filepath.Join(dir, "one.json"), filepath.Join(dir, "absent"))
	names := func() string {
		t.Helper()
		all, err := f.Approved()
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, a := range all {
			names = append(names, a.Name)
		}
		return strings.Join(names, " ")
	}
	put := func(file, name string, age time.Duration) {
		t.Helper()
		text := `{"approved":[{"name":"` + name + `","pin":true,"sig":"` + base64.StdEncoding.EncodeToString([]byte(name)) + `"}]}`
		if name == "" {
			text = `{"approved":[{"name":`
		}
		path := filepath.Join(dir, file)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if when := time.Now().Add(-age); age > 0 {
			if err := os.Chtimes(path, when, when); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := names(); got != "" {
		t.Errorf("nothing is there: %q", got)
	}
	if err := os.Mkdir(filepath.Join(dir, "approved.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	put("approved.d/a.json", "old", 3*time.Hour)
	put("approved.d/b.json", "new", time.Hour)
	put("approved.d/notes.txt", "never", time.Hour)
	put("approved.d/broken.json", "", time.Hour)
	put("one.json", "middle", 2*time.Hour)
	for range 2 {
		if got := names(); got != "new middle old" {
			t.Errorf("%q", got)
		}
	}
	if len(complaints) != 1 || !strings.Contains(complaints[0], "broken.json:1: ") {
		t.Errorf("complaints: %q", complaints)
	}
	put("approved.d/a.json", "renewed", 0)
	if err := os.Remove(filepath.Join(dir, "one.json")); err != nil {
		t.Fatal(err)
	}
	if got := names(); got != "renewed new" {
		t.Errorf("%q", got)
	}
	put("approved.d/a.json", "RENEWED", 0) // of the same size, and perhaps at the same time
	if got := names(); got != "RENEWED new" {
		t.Errorf("%q", got)
	}
}

// A file of some kilobytes that would take its reader gigabytes is passed over like any broken one.
func TestAFileThatWouldExhaustItsReader(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"good.json":  `{"approved":[{"name":"good","pin":true,"sig":"AAAA"}]}`,
		"names.toml": strings.Repeat("a.", 20000) + "a = 1",
		"lists.toml": "a = " + strings.Repeat("[", 1<<15),
		"names.json": `{"` + strings.Repeat("a", 1<<15) + `":{` + strings.Repeat(`"a":{`, 90),
		"size.toml":  strings.Repeat("[", policyfile.MaxSize+1),
		"many.json":  `{"approved":[` + strings.Repeat(`{"name":"x","pin":true},`, policyfile.MaxApproved) + `{"name":"x","pin":true}]}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f := policyfile.NewFolders(nil, dir)
	all, err := f.Approved()
	if err != nil || len(all) != 1 || all[0].Name != "good" {
		t.Errorf("%v, %v", all, err)
	}
	for i, want := range []string{
		"lists.toml:1: values nest deeper than 100", "many.json:1: a file has 256 approved policies at most, not 257",
		"names.json:1: the names of its tables", "names.toml:1: the names of its tables", "size.toml: it is too long: more than 65536 bytes",
	} {
		if problems := f.Problems(); len(problems) != 5 || !strings.Contains(problems[i].Error(), want) {
			t.Errorf("%q, want %s", problems, want)
		}
	}
}

// A policy that is too long is refused before anything decodes it, wherever it comes from; and what would be is not written.
func TestATextOrListThatIsTooLong(t *testing.T) {
	t.Parallel()
	if _, err := policyfile.Parse("p", []byte(strings.Repeat("{", policyfile.MaxSize+1))); err == nil || err.Error() != "p: a policy file has 65536 bytes at most, not 65537" {
		t.Errorf("too long: %v", err)
	}
	entry := `{"pcrs":[11],"pol":"` + strings.Repeat("ab", 32) + `","sig":"AAAA"},`
	systemd := `{"sha256":[` + strings.Repeat(entry, policyfile.MaxApproved) + strings.TrimSuffix(entry, ",") + "]}"
	if _, err := policyfile.ParseApproved("p", []byte(systemd)); err == nil || err.Error() != "p:1: a file has 256 approved policies at most, not 257" {
		t.Errorf("too many in systemd's: %v", err)
	}
	one := policy.Approved{Name: "x", Policy: policy.Policy{Root: policy.PIN{}}}
	if _, err := policyfile.EncodeApproved(slices.Repeat([]policy.Approved{one}, policyfile.MaxApproved)); err != nil {
		t.Errorf("as many as there may be: %v", err)
	}
	long := one
	long.Name = strings.Repeat("x", policyfile.MaxSize)
	for _, list := range [][]policy.Approved{slices.Repeat([]policy.Approved{one}, policyfile.MaxApproved+1), {long}} {
		if _, err := policyfile.EncodeApproved(list); err == nil || !strings.Contains(err.Error(), "write several files") {
			t.Errorf("%d are written: %v", len(list), err)
		}
	}
}

// Whoever fills a folder does not make each use of a key read it all: the newest files count, and doctor is told of the others.
func TestAFolderThatIsTooFull(t *testing.T) {
	t.Parallel()
	approvals := func(n int) string {
		one := `{"name":"x","pin":true},`
		return `{"approved":[` + strings.Repeat(one, n-1) + strings.TrimSuffix(one, ",") + "]}"
	}
	for name, c := range map[string]struct {
		files, want int
		text        string
		ext         string
	}{
		"all there may be": {256, 256, approvals(1), ".json"},
		"files":            {257, 256, approvals(1), ".json"},
		"bytes":            {9, 8, approvals(1) + strings.Repeat(" ", 32<<10-len(approvals(1))), ".json"},
		"approvals":        {6, 250, approvals(50), ".json"},
		"entries":          {4096 + 1, 0, "", ".txt"},
	} {
		dir, other := t.TempDir(), t.TempDir()
		now := time.Now().Add(-time.Hour)
		for i := range c.files {
			path := filepath.Join(dir, fmt.Sprint(i)+c.ext)
			if err := errors.Join(os.WriteFile(path, []byte(c.text), 0o644), os.Chtimes(path, now, now.Add(-time.Duration(i)*time.Second))); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(other, "other.json"), []byte(strings.Replace(approvals(1), "x", "other", 1)), 0o644); err != nil {
			t.Fatal(err)
		}
		complaints := 0
		f := policyfile.NewFolders(func(error) { complaints++ }, dir, other)
		for range 2 {
			all, err := f.Approved()
			if err != nil || len(all) != c.want+1 || all[0].Name != "other" {
				t.Errorf("%s: %d, %v, want %d and those of the other folder", name, len(all), err, c.want)
			}
		}
		problems := f.Problems()
		if name == "all there may be" {
			if len(problems)+complaints != 0 {
				t.Errorf("%s: %q", name, problems)
			}
			continue
		}
		want := fmt.Sprintf("approved policies: %s holds more than 256 files, 256 KiB or 256 approved policies: its oldest files are passed over", dir)
		if len(problems) != 1 || problems[0].Error() != want || complaints != 1 {
			t.Errorf("%s: %q, told %d times", name, problems, complaints)
		}
	}
}

// Each mistake is refused by the check that is for it, and what follows does not make it good.
func TestEachMistakeOfAnApproval(t *testing.T) {
	t.Parallel()
	pol := strings.Repeat("ab", 32)
	for text, want := range map[string]string{
		`{"approved":[7]}`: "approved is written [[approved]]",
		`{"approved":[{"name":"x","pin":true,"sig":"AAAA*"}]}`:               "sig is a signature in Base64",
		`{"approved":[{"name":"x","pin":true,"sig":""}]}`:                    "sig is a signature in Base64",
		`{"approved":[{"name":"x","policy":{"pin":7},"sig":"AAAA"}]}`:        "pin can only be true",
		`{"sha256":[{"pcrs":[11],"pol":"` + pol + `","sig":"AAAA*"}]}`:       "sig is a signature in Base64",
		`{"pin":true,"command":"sign","approved":[{"name":"x","pin":true}]}`: `"command" is not known here`,
	} {
		if all, err := policyfile.ParseApproved("p", []byte(text)); err == nil || !strings.Contains(err.Error(), want) || all != nil {
			t.Errorf("%s\n got: %v, %v\nwant: %s", text, all, err, want)
		}
	}
	if _, err := policyfile.Parse("p", []byte(`{"pin":true,"command":"sign"}`)); err == nil || !strings.Contains(err.Error(), `"command" is not known here`) {
		t.Errorf("two nodes: %v", err)
	}
}

// What systemd's files cannot say is not written into one.
func TestWhatSystemdsFilesHaveNoRoomFor(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := policy.NewSigner(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	open := policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{11: nil}}
	if _, err := policyfile.EncodeSystemd([]policy.Approved{{Policy: policy.Policy{Root: open}}}, policy.Signer{}); !errors.Is(err, policy.ErrInvalid) {
		t.Errorf("nobody's: %v", err)
	}
	if _, err := policyfile.EncodeSystemd([]policy.Approved{{Policy: policy.Policy{Root: open}}}, signer); !errors.Is(err, policy.ErrUnresolved) {
		t.Errorf("values that are to be read yet: %v", err)
	}
	pcr := policy.Policy{Root: policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{11: make([]byte, 32)}}}
	for alg, fits := range map[tpm2.TPMIAlgHash]bool{tpm2.TPMAlgSHA256: true, tpm2.TPMAlgSHA384: false} {
		digest, err := pcr.Digest(alg)
		if err != nil {
			t.Fatal(err)
		}
		for ref, fits := range map[string]bool{"": fits, "tls/v1": false} {
			signature, err := policy.Sign(key, digest, []byte(ref))
			if err != nil {
				t.Fatal(err)
			}
			_, err = policyfile.EncodeSystemd([]policy.Approved{{Name: "x", Policy: pcr, Signature: signature}}, signer)
			if said := err != nil && strings.Contains(err.Error(), `of SHA-256 without a ref, and that of "x" is another one`); said == fits || fits != (err == nil) {
				t.Errorf("signed in %s for %q: %v", policy.BankName(alg), ref, err)
			}
		}
	}
	if _, err := policyfile.EncodeSystemd([]policy.Approved{{Policy: policy.Policy{Root: policy.PIN{}}}}, signer); err == nil || !strings.Contains(err.Error(), "the PCRs of one bank") {
		t.Errorf("a PIN: %v", err)
	}
}

// FuzzApproved: any file of approved policies, ours or systemd's, is an error of its own or something that can be written and read again.
func FuzzApproved(f *testing.F) {
	pol := strings.Repeat("ab", 32)
	for _, text := range []string{
		`{"sha256":[{"pcrs":[11],"pkfp":"x","pol":"` + pol + `","sig":"c2lnbmF0dXJl"}],"sha384":[]}`,
		`{"sha1":[{}],"sha384":[{"pcrs":[4,7,11],"pol":"` + pol + `","sig":"AA=="},{"pcrs":[23],"pol":"","sig":""}]}`,
		`{"version":1,"approved":[{"name":"two","pin":true,"sig":"c2lnbmF0dXJl"},{"name":"one","policy":{"all":[{"pin":true},{"command":"sign"}]}}]}`,
		"[[approved]]\nname = \"two\"\npcr = { bank = \"sha256\", 11 = \"" + pol + "\" }\nsig = \"AA==\"\n",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		all, err := policyfile.ParseApproved("p", text)
		if err != nil {
			if where := new(policyfile.Error); !errors.As(err, &where) || all != nil {
				t.Fatalf("%v with an error that has no place: %v", all, err)
			}
			return
		}
		written, err := policyfile.EncodeApproved(all)
		if err != nil {
			t.Fatal(err)
		}
		again, err := policyfile.ParseApproved("p", written)
		if len(all) > 0 && (err != nil || len(again) != len(all)) {
			t.Fatalf("%s came back as %v, %v", written, again, err)
		}
		for i, a := range again {
			if a.Name != all[i].Name || !bytes.Equal(a.Signature, all[i].Signature) || !a.Policy.Equal(all[i].Policy) {
				t.Fatalf("%+v came back as %+v", all[i], a)
			}
		}
	})
}
