package keystore

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/policy"
)

// samePlain fails a test where readPlain understands a sidecar in another way than the strict decoder. It tells whether readPlain read it.
func samePlain(t *testing.T, text []byte) bool {
	t.Helper()
	got, said, plain := readPlain(text)
	if !plain || said != nil && got.Policy.UnmarshalJSON(said) != nil {
		return false
	}
	var want sidecar
	if err := decodeStrict(text, &want); err != nil {
		t.Errorf("readPlain takes what is none: %v\n%s", err, text)
	} else if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, and strictly %+v\n%s", got, want, text)
	}
	return true
}

func TestSidecarsAreReadTheQuickWayAsTheyAreStrictly(t *testing.T) {
	t.Parallel()
	public := softPublic(t, policy.Policy{})
	whole := sideOf(t, public, "wéb “1”")
	whole.Handle, whole.Public, whole.State, whole.Subject, whole.SRK = 0x81000100, public.Marshal(), Evicting, []byte("subject"), hexText("srk")
	whole.Policy = policy.Policy{Root: policy.Any{
		policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{7: make([]byte, 32)}}, policy.All{policy.PIN{}},
	}}
	text, err := whole.encode()
	must(t, err)
	if !samePlain(t, text) {
		t.Errorf("a sidecar of this package's is not read so:\n%s", text)
	}
	if !samePlain(t, bytes.ReplaceAll(text, []byte("\n"), []byte(" \r\n\t "))) {
		t.Error("spaces matter")
	}
	for end := range text {
		if samePlain(t, text[:end]) && end < len(text)-1 {
			t.Errorf("half of a sidecar is one:\n%s", text[:end])
		}
	}
	simple, err := sideOf(t, public, "web").encode()
	must(t, err)
	for _, c := range [][2]string{
		{`"web"`, `"w\u0065b"`}, {`"web"`, "\"w\x00b\""}, {`"web"`, "\"w\xffb\""}, {`"web"`, `null`}, {`"web"`, `7`}, {`"web"`, `"web" "web"`},
		{`"label"`, `"Label"`}, {`"label"`, `"lable"`}, {`"label"`, `"state"`}, {`"label"`, `label`}, {`"label":`, `"label"`},
		{`"version": 1`, `"version": 10`}, {`"version": 1`, `"version": 1.0`}, {`"version": 1`, `"version": 2`}, {`"version": 1`, `"version": "1"`},
		{`"version": 1,`, ``}, {`"version": 1`, `"version": 1,`}, {`"version": 1`, `"version": 1, "policy": {"a": [}}`},
		{`"version": 1`, `"version": 1, "policy": null`}, {`"version": 1`, `"version": 1, "policy": {"a": "}"`},
		{`"version": 1`, `"version": 1, "subject": "!"`}, {`"version": 1`, `"version": 1, "subject": ""`}, {`"version": 1`, `"version": 1, "handle": "7"`},
		{`"created": "`, `"created": "0`}, {"}\n", "} {}"}, {"}\n", "}\x00"}, {"}\n", "},"}, {"}\n", ""},
	} {
		changed := strings.Replace(string(simple), c[0], c[1], 1)
		if changed == string(simple) {
			t.Fatalf("%q is not in\n%s", c[0], simple)
		}
		if samePlain(t, []byte(changed)) {
			t.Errorf("it is read with %q", c[1])
		}
	}
}
