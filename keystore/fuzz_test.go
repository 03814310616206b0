package keystore

import (
	"bytes"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/policy"
)

func FuzzSidecar(f *testing.F) {
	public := softPublic(f, policy.Policy{})
	side := sideOf(f, public, "web")
	text, err := side.encode()
	must(f, err)
	f.Add(text)
	side.Handle, side.Public, side.State = 0x81000100, public.Marshal(), Evicting
	side.Policy = policy.Policy{Root: policy.All{policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{7: make([]byte, 32)}}, policy.PIN{}}}
	text, err = side.encode()
	must(f, err)
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		samePlain(t, text)
		side, err := parseSidecar(text)
		if err != nil {
			return
		}
		written, err := side.encode()
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if _, err := parseSidecar(written); err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
	})
}

// FuzzAnchor: the file of a token is one, or an error. The seeds are files that init wrote.
func FuzzAnchor(f *testing.F) {
	f.Fuzz(func(t *testing.T, text []byte) {
		a, err := parseAnchor(text)
		if (err == nil) == (a == nil) {
			t.Fatalf("%v, %v", a, err)
		}
		if err != nil {
			return
		}
		written, err := encodeJSON(a)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if again, err := parseAnchor(written); err != nil || !bytes.Equal(again.srk.Public.Name(), a.srk.Public.Name()) {
			t.Fatalf("what was written cannot be read: %v", err)
		}
	})
}
