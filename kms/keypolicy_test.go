package kms_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tpm2-p11/tpm2-p11/kms"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s (-want +got):\n%s", name, d)
	}
}

func value(b byte) []byte { return bytes.Repeat([]byte{b}, 48) }

var (
	principals = kms.PolicyPrincipals{
		Machines:       []string{"arn:aws:iam::111122223333:role/web"},
		Encrypters:     []string{"arn:aws:iam::111122223333:role/release"},
		Administrators: []string{"arn:aws:iam::111122223333:role/keys"},
	}
	november = kms.Image{Name: "November", PCRs: map[int][]byte{4: value(0x4a), 7: value(0x7a), 12: value(0)}}
	december = kms.Image{Name: "December", PCRs: map[int][]byte{4: value(0x4b), 7: value(0x7a), 12: value(0x12)}}
)

func TestAKeyPolicyPairsThePCRsOfEachImage(t *testing.T) {
	t.Parallel()
	for name, images := range map[string][]kms.Image{"one-image.json": {november}, "two-images.json": {november, december}} {
		p, err := kms.KeyPolicy(principals, images...)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name, append(p, '\n'))
		findings, err := kms.Lint(p)
		if err != nil || len(findings) > 0 {
			t.Errorf("%s: it does not pass its own linter: %v %v", name, findings, err)
		}
		if !json.Valid(p) {
			t.Errorf("%s is no JSON", name)
		}
	}
}

func TestKeyPoliciesThatWouldBindNothingAreRefused(t *testing.T) {
	t.Parallel()
	with := func(change func(*kms.PolicyPrincipals)) kms.PolicyPrincipals {
		p := principals
		change(&p)
		return p
	}
	named := func(name string, pcrs map[int][]byte) kms.Image { return kms.Image{Name: name, PCRs: pcrs} }
	for name, c := range map[string]struct {
		principals kms.PolicyPrincipals
		images     []kms.Image
	}{
		"no image":               {principals, nil},
		"no machine":             {with(func(p *kms.PolicyPrincipals) { p.Machines = nil }), []kms.Image{november}},
		"no administrator":       {with(func(p *kms.PolicyPrincipals) { p.Administrators = nil }), []kms.Image{november}},
		"everybody":              {with(func(p *kms.PolicyPrincipals) { p.Machines = []string{"*"} }), []kms.Image{november}},
		"every role":             {with(func(p *kms.PolicyPrincipals) { p.Encrypters = []string{"arn:aws:iam::111122223333:role/*"} }), []kms.Image{november}},
		"an image twice":         {principals, []kms.Image{november, november}},
		"an image without name":  {principals, []kms.Image{named("", november.PCRs)}},
		"a name with a space":    {principals, []kms.Image{named("of November", november.PCRs)}},
		"PCR 12 alone":           {principals, []kms.Image{named("a", map[int][]byte{12: value(1)})}},
		"PCR 4 that is zero":     {principals, []kms.Image{named("a", map[int][]byte{4: value(0)})}},
		"PCR 7 of any machine":   {principals, []kms.Image{named("a", map[int][]byte{7: noSecureBoot(t)})}},
		"a SHA-256 value":        {principals, []kms.Image{named("a", map[int][]byte{4: make([]byte, 32)})}},
		"PCR 24":                 {principals, []kms.Image{named("a", map[int][]byte{4: value(1), 24: value(1)})}},
		"PCR -1":                 {principals, []kms.Image{named("a", map[int][]byte{4: value(1), -1: value(1)})}},
		"no PCR":                 {principals, []kms.Image{named("a", nil)}},
		"one image without PCRs": {principals, []kms.Image{november, named("a", nil)}},
	} {
		if _, err := kms.KeyPolicy(c.principals, c.images...); !errors.Is(err, kms.ErrInput) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Without secure boot PCR 7 binds nothing, but does no harm beside PCR 4.
func TestAKeyPolicyWithoutSecureBootIsOfPCR4(t *testing.T) {
	t.Parallel()
	p, err := kms.KeyPolicy(principals, kms.Image{Name: "November", PCRs: map[int][]byte{4: value(4), 7: noSecureBoot(t), 12: value(0)}})
	if err != nil {
		t.Fatal(err)
	}
	if findings, err := kms.Lint(p); err != nil || len(findings) > 0 {
		t.Errorf("%v %v", findings, err)
	}
}

// hex7 is PCR 7 of machines of AWS that boot without secure boot, as their documents show it.
const hex7 = "98441c7f7625d10058c47683aec486ce311c633235eb555593a7ee791121e3578ae72d04ecef661f272d59058b77af35"

func noSecureBoot(t *testing.T) []byte {
	t.Helper()
	b, err := hex.DecodeString(hex7)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const hex4 = "4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a"

func TestTheLinterFindsEachWayPastAttestation(t *testing.T) {
	t.Parallel()
	const deny = `{"Sid":"D","Effect":"Deny","Principal":{"AWS":"*"},"Action":["kms:Decrypt","kms:DeriveSharedSecret","kms:GenerateDataKey","kms:GenerateDataKeyPair","kms:ReEncryptFrom"],` +
		`"Resource":"*","Condition":{"Null":{"kms:RecipientAttestation:NitroTPMPCR4":"true"}}}`
	pcr := func(operator, key, value string) string {
		return `,"Condition":{"` + operator + `":{"kms:RecipientAttestation:` + key + `":` + value + `}}`
	}
	allow := func(action, condition string) string {
		return `{"Sid":"A","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:role/web"},"Action":` + action + `,"Resource":"*"` + condition + `}`
	}
	image := func(pcr4, pcr12 string) string {
		return `,"Condition":{"StringEqualsIgnoreCase":{"kms:RecipientAttestation:NitroTPMPCR4":"` + pcr4 + `","kms:RecipientAttestation:NitroTPMPCR12":"` + pcr12 + `"}}`
	}
	zero := strings.Repeat("0", 96)
	right := image(hex4, zero)
	warned := "warning: statement A: does not name PCR 12"
	for name, c := range map[string]struct {
		statements string
		finds      string // "" for nothing
	}{
		"all is well":                  {allow(`"kms:Decrypt"`, right), ""},
		"a command line is measured":   {allow(`"kms:Decrypt"`, image(hex4, hex4)), ""},
		"PCR 4 alone":                  {allow(`"kms:Decrypt"`, pcr("StringEqualsIgnoreCase", "NitroTPMPCR4", `"`+hex4+`"`)), warned},
		"StringEquals is as good":      {allow(`"kms:Decrypt"`, pcr("StringEquals", "NitroTPMPCR7", `["`+hex4+`"]`)), warned},
		"names of keys have no case":   {allow(`"KMS:decrypt"`, pcr("StringEquals", "nitrotpmpcr4", `"`+hex4+`"`)), warned},
		"half a value of PCR 12":       {allow(`"kms:Decrypt"`, image(hex4, "4a4a")), "not a SHA-384 value"},
		"encryption is for anybody":    {allow(`["kms:Encrypt","kms:GenerateDataKeyWithoutPlaintext","kms:DescribeKey"]`, ""), ""},
		"no condition":                 {allow(`"kms:Decrypt"`, ""), "without naming an image"},
		"the default policy":           {`{"Sid":"Enable IAM User Permissions","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"}`, "without naming an image"},
		"everything":                   {allow(`"*"`, ""), "without naming an image"},
		"Decrypt by pattern":           {allow(`"kms:De*"`, ""), "without naming an image"},
		"Decrypt by question marks":    {allow(`"kms:??rypt"`, ""), ""},
		"Decrypt by seven of them":     {allow(`"kms:???????"`, ""), "kms:Decrypt"},
		"all but something":            {`{"Effect":"Allow","Principal":"*","NotAction":"kms:DeleteAlias","Resource":"*"}`, "statement #1: allows kms:Decrypt"},
		"all but somebody":             {`{"Effect":"Allow","NotPrincipal":{"AWS":"x"},"Action":"kms:Decrypt","Resource":"*"}`, "without naming an image"},
		"data keys":                    {allow(`"kms:GenerateDataKey"`, ""), "allows kms:GenerateDataKey to"},
		"data keys by pattern":         {allow(`"kms:GenerateDataKey*"`, ""), "kms:GenerateDataKeyPair"},
		"grants":                       {allow(`"kms:CreateGrant"`, right), "a grant lets its grantee"},
		"replicas":                     {allow(`"kms:ReplicateKey"`, right), "a replica of a multi-Region key"},
		"replicas by pattern":          {allow(`"kms:Re*Key"`, right), "a replica of a multi-Region key"},
		"re-encryption":                {allow(`"kms:ReEncrypt*"`, right), "takes no attestation document"},
		"another condition":            {allow(`"kms:Decrypt"`, `,"Condition":{"StringEquals":{"kms:EncryptionContext:stage":"production"}}`), "without naming an image"},
		"any attested machine":         {allow(`"kms:Decrypt"`, pcr("Null", "NitroTPMPCR4", `"false"`)), "without naming an image"},
		"only if it exists":            {allow(`"kms:Decrypt"`, pcr("StringEqualsIfExists", "NitroTPMPCR4", `"`+hex4+`"`)), "met by a request without attestation"},
		"for all values":               {allow(`"kms:Decrypt"`, pcr("ForAllValues:StringEquals", "NitroTPMPCR4", `"`+hex4+`"`)), "met by a request without attestation"},
		"by pattern":                   {allow(`"kms:Decrypt"`, pcr("StringLike", "NitroTPMPCR4", `"*"`)), "not a comparison with one value"},
		"not one image":                {allow(`"kms:Decrypt"`, pcr("StringNotEquals", "NitroTPMPCR4", `"`+hex4+`"`)), "not a comparison with one value"},
		"PCR 12 alone":                 {allow(`"kms:Decrypt"`, pcr("StringEquals", "NitroTPMPCR12", `"`+hex4+`"`)), "without naming an image"},
		"PCR 4 that is zero":           {allow(`"kms:Decrypt"`, pcr("StringEquals", "NitroTPMPCR4", `"`+strings.Repeat("0", 96)+`"`)), "without naming an image"},
		"PCR 7 without secure boot":    {allow(`"kms:Decrypt"`, pcr("StringEquals", "NitroTPMPCR7", `"`+hex7+`"`)), "without naming an image"},
		"the same in capital letters":  {allow(`"kms:Decrypt"`, pcr("StringEqualsIgnoreCase", "NitroTPMPCR7", `"`+strings.ToUpper(hex7)+`"`)), "without naming an image"},
		"the same as a choice":         {allow(`"kms:Decrypt"`, pcr("StringEquals", "NitroTPMPCR7", `["`+hex4+`","`+hex7+`"]`)), "without naming an image"},
		"zero as a choice":             {allow(`"kms:Decrypt"`, pcr("StringEquals", "NitroTPMPCR4", `["`+strings.Repeat("0", 96)+`","`+hex4+`"]`)), "without naming an image"},
		"no value":                     {allow(`"kms:Decrypt"`, pcr("StringEquals", "NitroTPMPCR4", `[]`)), "without naming an image"},
		"half a value":                 {allow(`"kms:Decrypt"`, pcr("StringEquals", "NitroTPMPCR4", `"4a4a"`)), "not a SHA-384 value"},
		"a value that is not hex":      {allow(`"kms:Decrypt"`, pcr("StringEquals", "NitroTPMPCR4", `"`+strings.Repeat("zz", 48)+`"`)), "not a SHA-384 value"},
		"capital letters":              {allow(`"kms:Decrypt"`, pcr("StringEquals", "NitroTPMPCR4", `"`+strings.ToUpper(hex4)+`"`)), "never matches"},
		"an enclave's PCR":             {allow(`"kms:Decrypt"`, pcr("StringEquals", "PCR4", `"`+hex4+`"`)), "of Nitro Enclaves"},
		"an enclave's image":           {allow(`"kms:Decrypt"`, pcr("StringEquals", "ImageSha384", `"`+hex4+`"`)), "of Nitro Enclaves"},
		"two images in one statement":  {allow(`"kms:Decrypt"`, `,"Condition":{"StringEquals":{"kms:RecipientAttestation:NitroTPMPCR4":["`+hex4+`","`+hex4+`"],"kms:RecipientAttestation:NitroTPMPCR7":["`+hex4+`","`+hex4+`"]}}`), "parts of different images"},
		"all who run it but somebody":  {`{"Sid":"A","Effect":"Allow","NotPrincipal":{"AWS":"x"},"Action":"kms:Decrypt","Resource":"*"` + right + `}`, "in every account"},
		"everybody who runs the image": {`{"Sid":"A","Effect":"Allow","Principal":"*","Action":"kms:Decrypt","Resource":"*"` + right + `}`, "in every account"},
	} {
		findings, err := kms.Lint([]byte(`{"Version":"2012-10-17","Statement":[` + c.statements + `,` + deny + `]}`))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var text []string
		for _, f := range findings {
			text = append(text, f.String())
		}
		got := strings.Join(text, "\n")
		if c.finds == "" && got != "" || !strings.Contains(got, c.finds) || c.finds == warned && (len(findings) != 1 || !findings[0].Warning) {
			t.Errorf("%s: found %q, want %q", name, got, c.finds)
		}
	}
}

func TestTheLinterMissesTheDenial(t *testing.T) {
	t.Parallel()
	const null = `"Condition":{"Null":{"kms:RecipientAttestation:NitroTPMPCR4":"true"}}`
	const all = `["kms:Decrypt","kms:DeriveSharedSecret","kms:GenerateDataKey*","kms:ReEncryptFrom"]`
	for name, c := range map[string]struct{ statement, finds string }{
		"there":               {`{"Effect":"Deny","Principal":"*","Action":` + all + `,"Resource":"*",` + null + `}`, ""},
		"of all actions":      {`{"Effect":"Deny","Principal":{"AWS":["*"]},"Action":"kms:*","Resource":"*","Condition":{"Null":{"kms:RecipientAttestation:NitroTPMPCR7":true}}}`, ""},
		"without condition":   {`{"Effect":"Deny","Principal":"*","Action":"kms:DeleteAlias","Resource":"*"}`, "no statement denies kms:Decrypt"},
		"of one action":       {`{"Effect":"Deny","Principal":"*","Action":"kms:Decrypt","Resource":"*",` + null + `}`, "no statement denies kms:DeriveSharedSecret"},
		"of one role":         {`{"Effect":"Deny","Principal":{"AWS":"arn:aws:iam::111122223333:role/web"},"Action":` + all + `,"Resource":"*",` + null + `}`, "no statement denies kms:Decrypt"},
		"of all but one role": {`{"Effect":"Deny","NotPrincipal":{"AWS":"*"},"Action":` + all + `,"Resource":"*",` + null + `}`, "no statement denies kms:Decrypt"},
		"the wrong way":       {`{"Effect":"Deny","Principal":"*","Action":` + all + `,"Resource":"*","Condition":{"Null":{"kms:RecipientAttestation:NitroTPMPCR4":"false"}}}`, "no statement denies kms:Decrypt"},
		"of an enclave's":     {`{"Effect":"Deny","Principal":"*","Action":` + all + `,"Resource":"*","Condition":{"Null":{"kms:RecipientAttestation:PCR4":"true"}}}`, "no statement denies kms:Decrypt"},
		"of services":         {`{"Effect":"Deny","Principal":{"Service":"*"},"Action":` + all + `,"Resource":"*",` + null + `}`, "no statement denies kms:Decrypt"},
		"without resource":    {`{"Effect":"Deny","Principal":"*","Action":"kms:*",` + null + `}`, "no statement denies kms:Decrypt"},
		"of other resources":  {`{"Effect":"Deny","Principal":"*","Action":"kms:*","NotResource":"*",` + null + `}`, "no statement denies kms:Decrypt"},
		"of another key":      {`{"Effect":"Deny","Principal":"*","Action":"kms:*","Resource":"arn:aws:kms:eu-central-1:111122223333:key/other",` + null + `}`, "no statement denies kms:Decrypt"},
		"also of services":    {`{"Effect":"Deny","Principal":{"AWS":"*","Service":"*"},"Action":` + all + `,"Resource":["*"],` + null + `}`, ""},
		"with more conditions": {`{"Effect":"Deny","Principal":"*","Action":` + all + `,"Resource":"*","Condition":{"Null":{"kms:RecipientAttestation:NitroTPMPCR4":"true","kms:GranteePrincipal":"true"}}}`,
			"no statement denies kms:Decrypt"},
	} {
		findings, err := kms.Lint([]byte(`{"Statement":` + c.statement + `}`))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := len(findings); c.finds == "" && got != 0 || c.finds != "" && (got != 1 || !strings.HasPrefix(findings[0].String(), c.finds)) {
			t.Errorf("%s: found %v, want %q", name, findings, c.finds)
		}
	}
}

func TestWhatIsNoKeyPolicyIsRefused(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		``, `null`, `[]`, `{}`, `{"statement":[]}`, `{"Statement":"x"}`, `{"Statement":[null]}`, `{"Statement":[{}]}`,
		`{"Statement":[{"Effect":"Permit","Principal":"*","Action":"kms:*"}]}`,
		`{"Statement":[{"Effect":"Allow","Principal":"*"}]}`,
		`{"Statement":[{"Effect":"Allow","Action":"kms:*"}]}`,
		`{"Statement":[{"Effect":"Allow","Principal":"*","Action":7}]}`,
		`{"Statement":[{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":7}]}`,
		`{"Statement":[{"Effect":"Allow","Principal":7,"Action":"kms:*"}]}`,
		`{"Statement":[{"Effect":"Allow","Principal":"*","Action":"kms:*","condition":{}}]}`,
		`{"Statement":[{"Effect":"Allow","Principal":"*","Action":"kms:*","Condition":{"Null":7}}]}`,
		`{"Statement":[{"Effect":"Allow","Principal":"*","NotPrincipal":"x","Action":"kms:*"}]}`,
		`{"Statement":[{"Effect":"Allow","Principal":"*","Action":"kms:*","NotAction":"kms:Decrypt"}]}`,
	} {
		if findings, err := kms.Lint([]byte(text)); !errors.Is(err, kms.ErrPolicy) {
			t.Errorf("%s: %v %v", text, findings, err)
		}
	}
}

func FuzzLint(f *testing.F) {
	p, err := kms.KeyPolicy(principals, november, december)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p)
	f.Add([]byte(`{"Statement":{"Effect":"Allow","NotPrincipal":"*","NotAction":"k*m?s","Condition":{"Null":{"a":[true]}}}}`))
	f.Fuzz(func(t *testing.T, policy []byte) {
		if _, err := kms.Lint(policy); err != nil && !errors.Is(err, kms.ErrPolicy) {
			t.Errorf("%v", err)
		}
	})
}
