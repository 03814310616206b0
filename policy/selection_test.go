package policy_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/policy"
)

func TestParsePCR(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"sha256:0,1,2,7": "sha256:0,1,2,7",
		"sha256:7,2,0":   "sha256:0,2,7",
		"sha384:0-2,7":   "sha384:0,1,2,7",
		"sha512:23":      "sha512:23",
		"sha256:5-5":     "sha256:5",
	} {
		p, err := policy.ParsePCR(in)
		if got := (policy.Policy{Root: p}).String(); err != nil || got != want {
			t.Errorf("%s reads %s, %v; want %s", in, got, err, want)
		}
	}
}

func TestParsePCRRefuses(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                              "written bank:indices",
		"0,1,2,7":                       "written bank:indices",
		"sha256:":                       "no PCR is named",
		"sha256:0,":                     `"" is not a PCR index`,
		"sha256:0,,1":                   `"" is not a PCR index`,
		"sha256:0, 1":                   `" 1" is not a PCR index`,
		"sha256:-1":                     `"" is not a PCR index`,
		"sha256:+1":                     `"+1" is not a PCR index`,
		"sha256:01":                     `"01" is not a PCR index`,
		"sha256:24":                     "there is no PCR 24 (0 to 23)",
		"sha256:0-24":                   "there is no PCR 24 (0 to 23)",
		"sha256:0-99999999999999999999": "is not a PCR index",
		"sha256:7-2":                    `the range "7-2" runs backwards`,
		"sha256:1,0-2":                  "PCR 1 is named twice",
		"sha256:7,7":                    "PCR 7 is named twice",
		"sha224:7":                      `unknown PCR bank "sha224"`,
		"SHA256:7":                      `unknown PCR bank "SHA256"`,
		"sha1:7":                        "use sha256 or sha384",
	} {
		_, err := policy.ParsePCR(in)
		if !errors.Is(err, policy.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %s", in, err, want)
		}
	}
}

// Reading sha1 PCRs is allowed; binding to them is not.
func TestParseSelectionTakesSHA1(t *testing.T) {
	t.Parallel()
	bank, indices, err := policy.ParseSelection("sha1:7,0-1")
	if err != nil || bank != tpm2.TPMAlgSHA1 || len(indices) != 3 {
		t.Errorf("%v %v %v", bank, indices, err)
	}
}

func TestBankNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"sha1", "sha256", "sha384", "sha512"} {
		if h, err := policy.ParseBank(name); err != nil || policy.BankName(h) != name {
			t.Errorf("%s: %v, %v", name, h, err)
		}
	}
	if got := policy.BankName(tpm2.TPMAlgSHA3256); got != "0x0027" {
		t.Errorf("a bank without a name: %s", got)
	}
}

// A selection lies in a command as go-tpm lays it.
func TestASelectionAsCommandsHaveIt(t *testing.T) {
	t.Parallel()
	for _, s := range []tpm2.TPMLPCRSelection{
		{},
		{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA384, PCRSelect: []byte{0x87, 0, 0x80}}}},
		{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA1, PCRSelect: []byte{1, 2, 3, 4}}, {Hash: tpm2.TPMAlgSHA256, PCRSelect: []byte{0, 0, 0}}}},
	} {
		if got, want := (policy.PCRStep{Selection: s}).AppendSelection([]byte{9}), append([]byte{9}, tpm2.Marshal(s)...); !bytes.Equal(got, want) {
			t.Errorf("%x, want %x", got, want)
		}
	}
}
