package tests

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"
)

// The words that docs/pkcs11.md has for a mechanism's flags.
var flagWords = map[string]uint{
	"tpm": pkcs11.CKF_HW, "encrypt": pkcs11.CKF_ENCRYPT, "decrypt": pkcs11.CKF_DECRYPT, "digest": pkcs11.CKF_DIGEST,
	"sign": pkcs11.CKF_SIGN, "sign_recover": pkcs11.CKF_SIGN_RECOVER, "verify": pkcs11.CKF_VERIFY, "verify_recover": pkcs11.CKF_VERIFY_RECOVER,
	"generate": pkcs11.CKF_GENERATE, "generate_key_pair": pkcs11.CKF_GENERATE_KEY_PAIR, "wrap": pkcs11.CKF_WRAP, "unwrap": pkcs11.CKF_UNWRAP,
	"derive": pkcs11.CKF_DERIVE,
}

// The flags that the page has sentences for.
const (
	messageSign, messageVerify, multiMessage = 0x8, 0x10, 0x20
	ecFlags                                  = pkcs11.CKF_EC_F_P | pkcs11.CKF_EC_NAMEDCURVE | pkcs11.CKF_EC_UNCOMPRESS
)

// pageRow is a row of the page's table of mechanisms.
type pageRow struct{ name, keys, does, more string }

var pageRows = regexp.MustCompile("(?m)^\\| `(CKM_\\w+)` \\| (0x[0-9a-f]{8}) \\| ([^|]*) \\| ([^|]*) \\| ([^|]*) ?\\|$")

func mechanismsOfThePage(t *testing.T) map[uint]pageRow {
	t.Helper()
	page, err := os.ReadFile("../docs/pkcs11.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[uint]pageRow{}
	for _, cells := range pageRows.FindAllStringSubmatch(string(page), -1) {
		number, err := strconv.ParseUint(cells[2], 0, 64)
		if err != nil {
			t.Fatal(err)
		}
		rows[uint(number)] = pageRow{cells[1], cells[3], strings.TrimSpace(cells[4]), strings.TrimSpace(cells[5])}
	}
	if len(rows) < 40 {
		t.Fatalf("the page has a table of %d mechanisms", len(rows))
	}
	return rows
}

// flags are what a mechanism does where the configuration has these words.
func (r pageRow) flags(t *testing.T, configured ...string) (flags uint) {
	t.Helper()
	words := strings.Fields(strings.Trim(r.does, "–"))
	for _, word := range configured {
		if more, ok := strings.CutPrefix(r.more, "`"+word+"`: "); ok {
			words = append(words, strings.Fields(more)...)
		}
	}
	for _, word := range words {
		if flagWords[word] == 0 {
			t.Errorf("%s: the page says %q, which is no flag", r.name, word)
		}
		flags |= flagWords[word]
	}
	if flags&pkcs11.CKF_SIGN != 0 {
		flags |= messageSign | multiMessage
	}
	if flags&pkcs11.CKF_VERIFY != 0 {
		flags |= messageVerify | multiMessage
	}
	if r.keys == "EC" && flags != 0 {
		flags |= ecFlags
	}
	return flags
}

// sizes tells whether keys are as large as the page says; the TPM's are as large as it makes them.
func (r pageRow) sizes(least, most uint) bool {
	var first, last uint
	switch {
	case r.keys == "none":
		return least == 0 && most == 0
	case r.keys == "RSA":
		return least == 2048 && (most == 2048 || most == 3072 || most == 4096)
	case r.keys == "EC":
		return least == 256 && (most == 256 || most == 384 || most == 521)
	}
	n, _ := fmt.Sscanf(r.keys, "%d to %d", &first, &last)
	return n == 2 && least == first && most == last
}

// The page's table is what the module says of itself, with every switch and without any.
func TestMechanismsAreThoseOfThePage(t *testing.T) {
	for name, c := range map[string]struct {
		config string
		words  []string
	}{
		"plain":  {"", nil},
		"legacy": {"legacy = [\"raw-rsa\", \"sha1-signatures\", \"pkcs1-decryption\"]\n", []string{"raw-rsa", "sha1-signatures", "pkcs1-decryption"}},
		"kms":    {"[kms]\nregion = \"us-east-1\"\n", []string{"[kms]"}},
	} {
		t.Run(name, func(t *testing.T) {
			rows := mechanismsOfThePage(t)
			story{
				config: c.config,
				ways:   transports[:1],
				before: func(m *machine) { m.tpm2p11("init", "--no-pin") },
				app: func(a *application) {
					offered, err := a.p11().GetMechanismList(0)
					a.ok("C_GetMechanismList", err)
					got := map[uint]bool{}
					for _, m := range offered {
						row, known := rows[m.Mechanism]
						info, err := a.p11().GetMechanismInfo(0, []*pkcs11.Mechanism{m})
						a.ok("C_GetMechanismInfo", err)
						if want := row.flags(a.t, c.words...); !known || info.Flags != want || !row.sizes(info.MinKeySize, info.MaxKeySize) {
							a.t.Errorf("mechanism 0x%08x: keys of %d to %d, flags 0x%x; the page has %+v, flags 0x%x", m.Mechanism, info.MinKeySize, info.MaxKeySize, info.Flags, row, want)
						}
						got[m.Mechanism] = true
					}
					for id, row := range rows {
						if row.flags(a.t, c.words...) != 0 && !got[id] {
							a.t.Errorf("the page has %s, which the module does not offer", row.name)
						}
					}
				},
			}.tell(t)
		})
	}
}
