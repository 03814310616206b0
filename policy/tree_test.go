package policy_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/policy"
)

var (
	zero32 = strings.Repeat("00", 32)
	ones32 = strings.Repeat("ff", 32)
	a48    = strings.Repeat("a5", 48)
)

func TestTreesAreReadAndWritten(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, out, text string }{
		{`{"pin":true}`, ``, "pin"},
		{`{"pcr":{"bank":"sha256","indices":[7,0]}}`, `{"pcr":{"bank":"sha256","indices":[0,7]}}`, "sha256:0,7"},
		{`{"pcr":{"10":"` + zero32 + `","9":"` + strings.ToUpper(ones32) + `","bank":"sha256"}}`,
			`{"pcr":{"bank":"sha256","9":"` + ones32 + `","10":"` + zero32 + `"}}`, "sha256:9=" + ones32 + ",10=" + zero32},
		{`{"pcr":{"bank":"sha384","indices":[4],"7":"` + a48 + `"}}`, ``, "sha384:4,7=" + a48},
		{`{"pcr":{"bank":"sha512","indices":[0,7],"digest":"` + zero32 + `"}}`, ``, "sha512:0,7 digest " + zero32},
		{`{"all":[{"pin":true}]}`, ``, "pin"},
		{`{"all":[{"pcr":{"bank":"sha256","7":"` + zero32 + `"}},{"pin":true}]}`, ``, "sha256:7=" + zero32 + " + pin"},
		{`{"all":[{"all":[{"pin":true}]},{"pin":true}]}`, ``, "pin + pin"},
		{`{"any":[{"pin":true},{"pcr":{"bank":"sha256","indices":[7]}}]}`, ``, "(pin | sha256:7)"},
		{`{"clock":{"before":86400000}}`, ``, "clock below 86400000 ms"},
		{`{"clock":{"within":"48h"}}`, `{"clock":{"within":"2d"}}`, "within 2d"},
		{`{"clock":{"within":"1h30m"}}`, `{"clock":{"within":"1h30m0s"}}`, "within 1h30m0s"},
		{`{"clock":{"boot":"current","within":"1d"}}`, `{"clock":{"within":"1d","boot":"current"}}`, "within 1d + this boot"},
		{`{"clock":{"before":5,"boot":"17.2"}}`, ``, "clock below 5 ms + boot 17.2"},
		{`{"command":"sign"}`, ``, "sign alone"},
		{`{"command":"0x15D"}`, `{"command":"sign"}`, "sign alone"},
		{`{"command":"0x999"}`, ``, "0x999 alone"},
		{`{"secret":"endorsement"}`, ``, "endorsement authorisation"},
		{`{"nv":{"index":25165840,"op":"le","value":5}}`, `{"nv":{"index":"0x01800010","op":"le","value":"0000000000000005"}}`, "nv 0x01800010 ≤ 5"},
		{`{"nv":{"index":"0x01800010","name":"000b","offset":2,"op":"bits_set","value":"80ff"}}`, ``, "nv 0x01800010 at 2 has all bits of 80ff"},
		{`{"authorize_nv":{"index":"0x01800001"}}`, ``, "approved in nv 0x01800001"},
		{`{"authorize_nv":{"index":"0x01800001","name":"000b"}}`, ``, "approved in nv 0x01800001"},
		{`{"authorize":{"ref":"tls/v1","signer":"file:/etc/ci.pub"}}`, `{"authorize":{"signer":"file:/etc/ci.pub","ref":"tls/v1"}}`, `signed by /etc/ci.pub for "tls/v1"`},
		{`{"authorize":{"signer":"file:ci.pub","ref_hex":"ff00"}}`, ``, `signed by ci.pub for "\xff\x00"`},
		{`{"all":[{"authorize":{"signer":"file:ci.pub"}},{"pin":true}]}`, ``, `signed by ci.pub + pin`},
		{`{"pcr":{"bank":"sha256","indices":[11],"policy":"` + zero32 + `"}}`, ``, "sha256:11 policy " + zero32},
		{`null`, ``, ""},
	} {
		if c.out == "" {
			c.out = c.in
		}
		var p policy.Policy
		if err := json.Unmarshal([]byte(c.in), &p); err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		if out, err := json.Marshal(p); err != nil || string(out) != c.out {
			t.Errorf("%s is written %s, %v", c.in, out, err)
		}
		if p.String() != c.text {
			t.Errorf("%s reads %q, want %q", c.in, p, c.text)
		}
		var again policy.Policy
		if err := json.Unmarshal([]byte(c.out), &again); err != nil || !again.Equal(p) {
			t.Errorf("%s: %v, %v the second time", c.out, again, err)
		}
	}
}

// TOML decoders give other types than JSON's.
func TestTreeFromTOMLTypes(t *testing.T) {
	t.Parallel()
	tree := map[string]any{"all": []map[string]any{
		{"pcr": map[string]any{"bank": "sha256", "indices": []any{int64(0), int64(7)}}},
		{"pin": true},
	}}
	p, err := policy.FromTree(tree)
	if err != nil || p.String() != "sha256:0,7 + pin" {
		t.Errorf("%v, %v", p, err)
	}
	if p, err := policy.FromTree(map[string]any{"pcr": map[string]any{"bank": "sha256", "indices": []any{7.0}}}); err != nil || p.String() != "sha256:7" {
		t.Errorf("%v, %v", p, err)
	}
}

func TestTreesRefused(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`[]`:                                        `it is a table such as {pin=true}, not a list`,
		`"sha256:0"`:                                `not a string`,
		`{}`:                                        `has one member (all, any, authorize, authorize_nv, clock, command, nv, pcr, pin, secret), not 0`,
		`{"pin":true,"all":[]}`:                     `not 2`,
		`{"pin":true,"pin":true}`:                   `member "pin" is there twice`,
		`{"pin":false}`:                             `pin can only be true`,
		`{"pin":1}`:                                 `pin can only be true`,
		`{"none":[]}`:                               `none is no known node (known: all, any, authorize, authorize_nv, clock, command, nv, pcr, pin, secret)`,
		`{"any":[]}`:                                `any is empty`,
		`{"any":[{"pin":true}]}`:                    `any has one branch`,
		`{"all":[]}`:                                `all is empty`,
		`{"all":{}}`:                                `all is a list of nodes, not a table`,
		`{"all":[null]}`:                            `all[0] is a table such as {pin=true}, not nothing`,
		`{"all":[{"pin":true},{"p w":1}]}`:          `all[1]."p w" is no known node`,
		`{"all":[{"pin":true},{"p\"w":1}]}`:         `all[1]."p\"w" is no known node`,
		`{"pcr":[]}`:                                `pcr is a table {bank=…, …}, not a list`,
		`{"pcr":{"indices":[0]}}`:                   `pcr has no bank`,
		`{"pcr":{"bank":1,"indices":[0]}}`:          `pcr.bank is a name`,
		`{"pcr":{"bank":"md5","indices":[0]}}`:      `unknown PCR bank "md5" (known: sha1, sha256, sha384, sha512)`,
		`{"pcr":{"bank":"sha1","indices":[0]}}`:     `use sha256 or sha384`,
		`{"pcr":{"bank":"sha256"}}`:                 `no PCR is named`,
		`{"pcr":{"bank":"sha256","indices":[]}}`:    `pcr.indices is empty`,
		`{"pcr":{"bank":"sha256","indices":7}}`:     `pcr.indices is a list of PCR indices, not 7`,
		`{"pcr":{"bank":"sha256","indices":[24]}}`:  `pcr.indices[0] is a PCR index from 0 to 23, not 24`,
		`{"pcr":{"bank":"sha256","indices":[-1]}}`:  `not -1`,
		`{"pcr":{"bank":"sha256","indices":[1.5]}}`: `not 1.5`,
		`{"pcr":{"bank":"sha256","indices":["0"]}}`: `pcr.indices[0] is a PCR index`,
		`{"pcr":{"bank":"sha256","indices":[0,0]}}`: `pcr.indices[1] names PCR 0 a second time`,
		`{"pcr":{"bank":"sha256","indices":[0],"0":"` + zero32 + `"}}`:             `PCR 0 a second time`,
		`{"pcr":{"bank":"sha256","07":"` + zero32 + `"}}`:                          `pcr.07 is neither bank, indices, digest, policy nor a PCR index from 0 to 23`,
		`{"pcr":{"bank":"sha256","24":"` + zero32 + `"}}`:                          `pcr.24 is neither`,
		`{"pcr":{"bank":"sha256","value":"` + zero32 + `"}}`:                       `pcr.value is neither`,
		`{"pcr":{"bank":"sha256","7":7}}`:                                          `pcr.7 is a value in hexadecimal, not 7`,
		`{"pcr":{"bank":"sha256","7":""}}`:                                         `pcr.7 is a value in hexadecimal, not ""`,
		`{"pcr":{"bank":"sha256","7":"xy"}}`:                                       `pcr.7 is a value in hexadecimal, not "xy"`,
		`{"pcr":{"bank":"sha256","7":"` + a48 + `"}}`:                              `a value of sha256 PCR 7 has 32 bytes, not 48`,
		`{"pcr":{"bank":"sha256","indices":[7],"digest":"00"}}`:                    `32 or 48 bytes, not 1`,
		`{"pcr":{"bank":"sha256","7":"` + zero32 + `","digest":"` + zero32 + `"}}`: `PCR 7 has a value beside a digest`,
		`{"command":1}`:                                                                               `command is a command such as "sign", not 1`,
		`{"command":"frobnicate"}`:                                                                    `"frobnicate" is no command that is known (known: certify, change-auth, decrypt`,
		`{"secret":"lockout"}`:                                                                        `secret is one of endorsement and owner, not lockout`,
		`{"nv":[]}`:                                                                                   `nv is a table {index=…, …}`,
		`{"nv":{"op":"le","value":1}}`:                                                                `nv has no index`,
		`{"nv":{"index":"0x01800001","value":1}}`:                                                     `nv has no op`,
		`{"nv":{"index":"0x01800001","op":"le"}}`:                                                     `nv has no value`,
		`{"nv":{"index":"0x81000001","op":"le","value":1}}`:                                           `nv.index is an NV index such as 0x01800001, not 0x81000001`,
		`{"nv":{"index":"0x01800001","op":"<","value":1}}`:                                            `nv.op is one of eq, ne, gt`,
		`{"nv":{"index":"0x01800001","op":"le","value":-1}}`:                                          `nv.value is a value in hexadecimal`,
		`{"nv":{"index":"0x01800001","op":"le","value":"` + zero32 + `00"}}`:                          `1 to 32 bytes, not 33`,
		`{"nv":{"index":"0x01800001","op":"le","value":1,"offset":70000}}`:                            `nv.offset is a number of bytes`,
		`{"nv":{"index":"0x01800001","op":"le","value":1,"size":1}}`:                                  `nv.size is not known (known: index, name, op, value, offset)`,
		`{"authorize_nv":{"index":"0x01800001","op":"le"}}`:                                           `authorize_nv.op is not known (known: index, name)`,
		`{"authorize":{}}`:                                                                            `authorize names one signer`,
		`{"authorize":{"signer":""}}`:                                                                 `authorize.signer is text`,
		`{"authorize":{"signer":"ci.pub"}}`:                                                           `a signer is file:PATH, a public key in PEM or its DER in Base64`,
		`{"authorize":{"signer":"AAAA"}}`:                                                             `the signer's public key`,
		`{"authorize":{"public":"0023"}}`:                                                             `the signer's public area`,
		`{"authorize":{"signer":"file:x","ref":"` + zero32 + `"}}`:                                    `a ref has 32 bytes at most, not 64`,
		`{"authorize":{"signer":"file:x","key":"y"}}`:                                                 `authorize.key is not known`,
		`{"all":[{"pin":true},{"authorize":{"signer":"file:x"}}]}`:                                    `all[1].authorize can only be a policy's root, or the first node of an all there`,
		`{"any":[{"authorize":{"signer":"file:x"}},{"pin":true}]}`:                                    `any[0].authorize can only be a policy's root`,
		`{"all":[{"all":[{"authorize":{"signer":"file:x"}}]}]}`:                                       `all[0].all[0].authorize can only be a policy's root`,
		`{"pcr":{"bank":"sha256","indices":[7],"digest":"` + zero32 + `","policy":"` + zero32 + `"}}`: `exclude each other`,
		`{"clock":{}}`:                         `a clock without an end`,
		`{"clock":"1d"}`:                       `clock is a table such as {within="30d"}, not a string`,
		`{"clock":{"before":0}}`:               `clock.before is a number of milliseconds, not 0`,
		`{"clock":{"before":"1d"}}`:            `clock.before is a number of milliseconds`,
		`{"clock":{"before":1.5}}`:             `clock.before is a number of milliseconds`,
		`{"clock":{"within":5}}`:               `clock.within is a time such as "30d"`,
		`{"clock":{"within":"tomorrow"}}`:      `clock.within is a time`,
		`{"clock":{"within":"-1h"}}`:           `a clock's term is a positive number of milliseconds`,
		`{"clock":{"within":"1ns"}}`:           `a clock's term is a positive number of milliseconds`,
		`{"clock":{"within":"1d","before":5}}`: `a clock with two ends of one kind`,
		`{"clock":{"boot":true}}`:              `clock.boot is "current" or a TPM's counters`,
		`{"clock":{"boot":"017.2"}}`:           `clock.boot is "current" or a TPM's counters`,
		`{"clock":{"until":5}}`:                `clock.until is neither before, within nor boot`,
		strings.Repeat(`{"all":[`, 20) + `{"pin":true}` + strings.Repeat(`]}`, 20): `nests deeper than 16`,
	} {
		var p policy.Policy
		err := json.Unmarshal([]byte(in), &p)
		if !errors.Is(err, policy.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n got: %v\nwant: %s", in, err, want)
		}
		if !p.IsZero() {
			t.Errorf("%s: something was read: %v", in, p)
		}
	}
}

func FuzzJSON(f *testing.F) {
	for _, s := range []string{
		`null`, `{"pin":true}`, `{"pcr":{"bank":"sha256","indices":[7,0]}}`,
		`{"all":[{"pcr":{"bank":"sha256","7":"` + zero32 + `"}},{"pin":true}]}`,
		`{"pcr":{"bank":"sha384","indices":[0,7],"digest":"` + zero32 + `"}}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		var p, again policy.Policy
		if json.Unmarshal([]byte(in), &p) != nil {
			return
		}
		out, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(out, &again); err != nil || !again.Equal(p) {
			t.Fatalf("%s was written %s and read %v, %v", in, out, again, err)
		}
		if _, err := p.Digest(tpm2.TPMAlgSHA256); errors.Is(err, policy.ErrInvalid) && !strings.Contains(err.Error(), "of another hash") {
			t.Fatalf("%s was read and has no digest: %v", in, err)
		}
	})
}
