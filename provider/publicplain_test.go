package provider

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

// plainAreas are public areas as keys of a store have them.
func plainAreas(t testing.TB) map[string][]byte {
	t.Helper()
	areas := map[string][]byte{}
	for _, kind := range KeyTypes() {
		for name, use := range map[string]Use{"signs": {Sign: true}, "decrypts": {Decrypt: true}, "does both": {Sign: true, Decrypt: true}} {
			for policy, digest := range map[string][]byte{"": nil, " by a policy": bytes.Repeat([]byte{7}, 32)} {
				algorithm, parms, err := kind.parameters()
				if err != nil {
					t.Fatal(err)
				}
				area, err := Template{Use: use, AuthPolicy: digest}.keyArea(algorithm, parms)
				if err != nil {
					t.Fatal(err)
				}
				if algorithm == tpm2.TPMAlgRSA {
					area.Unique = tpm2.NewTPMUPublicID(algorithm, &tpm2.TPM2BPublicKeyRSA{Buffer: bytes.Repeat([]byte{0xF1}, 256)})
				} else {
					area.Unique = tpm2.NewTPMUPublicID(algorithm, &tpm2.TPMSECCPoint{
						X: tpm2.TPM2BECCParameter{Buffer: make([]byte, 32)}, Y: tpm2.TPM2BECCParameter{Buffer: make([]byte, 31)},
					})
				}
				areas[string(kind)+" "+name+policy] = tpm2.Marshal(area)
			}
		}
	}
	return areas
}

// A store of a thousand keys is read without go-tpm's reflection; what is read is the same.
func TestOrdinaryKeysAreReadAsGoTPMReadsThem(t *testing.T) {
	// Not parallel: allocations are counted.
	for name, b := range plainAreas(t) {
		got, plain := readPlain(b)
		if !plain {
			t.Errorf("%s: it is not plain", name)
			continue
		}
		same(t, b, got)
		if n := testing.AllocsPerRun(100, func() { readPlain(b) }); n > 12 {
			t.Errorf("%s: reading it allocates %v times", name, n)
		}
	}
}

// same fails the test when go-tpm does not read bytes as an area.
func same(t *testing.T, b []byte, got tpm2.TPMTPublic) {
	t.Helper()
	want, err := Unmarshal[tpm2.TPMTPublic](b)
	if err != nil {
		t.Fatalf("%x: go-tpm does not read it: %v", b, err)
	}
	if !bytes.Equal(tpm2.Marshal(got), b) {
		t.Errorf("%x becomes %x", b, tpm2.Marshal(got))
	}
	if !reflect.DeepEqual(got, *want) {
		t.Errorf("%x is read as\n%+v\nand by go-tpm as\n%+v", b, got, *want)
	}
}

func FuzzPlainPublic(f *testing.F) {
	for _, b := range plainAreas(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, plain := readPlain(b); plain {
			same(t, b, got)
		}
	})
}
