package policy_test

import (
	"encoding/hex"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/policy"
)

// Computed from TPM 2.0 Part 3 by another program; the PIN's is also the one that other tools print for PolicyAuthValue.
func TestDigestKnownAnswers(t *testing.T) {
	t.Parallel()
	const realPCR7 = "98441c7f7625d10058c47683aec486ce311c633235eb555593a7ee791121e3578ae72d04ecef661f272d59058b77af35"
	zeros := zeroPCRs(tpm2.TPMAlgSHA256, 32, 0, 1, 2, 7)
	secureBoot := policy.PCR{Bank: tpm2.TPMAlgSHA384, Values: map[uint][]byte{7: unhex(t, realPCR7)}}
	for name, c := range map[string]struct {
		root policy.Node
		alg  tpm2.TPMIAlgHash
		want string
	}{
		"pin, sha256":               {policy.PIN{}, tpm2.TPMAlgSHA256, "8fcd2169ab92694e0c633f1ab772842b8241bbc20288981fc7ac1eddc1fddb0e"},
		"pin, sha384":               {policy.PIN{}, tpm2.TPMAlgSHA384, "0eb13321e885c9603d394e1c33976d4660517111f440d377585f66a94a0eee0a7f73d10b68edc48f61bd3c8385dcddf5"},
		"zeros":                     {zeros, tpm2.TPMAlgSHA256, "d56c07d61458cb3b62bf318206cbbe9a8dc0fdc5fa63a1b811c1cfee311502a8"},
		"all of one":                {policy.All{zeros}, tpm2.TPMAlgSHA256, "d56c07d61458cb3b62bf318206cbbe9a8dc0fdc5fa63a1b811c1cfee311502a8"},
		"zeros and pin":             {policy.All{zeros, policy.PIN{}}, tpm2.TPMAlgSHA256, "b95de905b757c04e9aac4853a77693a9ef6dcb8db7ca71510837795419d09cb9"},
		"nested":                    {policy.All{policy.All{zeros}, policy.PIN{}}, tpm2.TPMAlgSHA256, "b95de905b757c04e9aac4853a77693a9ef6dcb8db7ca71510837795419d09cb9"},
		"sha384 bank in a sha256":   {secureBoot, tpm2.TPMAlgSHA256, "c5609c7a46a03fc37a305ddaaae2492b0b06af70183ba7281c0b0e3aa046fd22"},
		"sha384 bank in a sha384":   {secureBoot, tpm2.TPMAlgSHA384, "4fb154fac2e3c87cbccd524754bedc89b93ae01dc57b651036d042e59abf93a34932f5a239ebf311e0a17b345bd0588e"},
		"no requirement, no digest": {nil, tpm2.TPMAlgSHA256, ""},
	} {
		got, err := policy.Policy{Root: c.root}.Digest(c.alg)
		if err != nil || hex.EncodeToString(got) != c.want {
			t.Errorf("%s: digest %x, %v; want %s", name, got, err, c.want)
		}
	}
}

// A PEM holds the digest over the values only: the policy is the same.
func TestDigestOfDigestOnlyPCRs(t *testing.T) {
	t.Parallel()
	values := policy.Policy{Root: zeroPCRs(tpm2.TPMAlgSHA256, 32, 0, 7)}
	steps, err := values.Steps(tpm2.TPMAlgSHA256)
	if err != nil {
		t.Fatal(err)
	}
	known := policy.Policy{Root: policy.PCR{
		Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{0: nil, 7: nil}, Digest: steps[0].(policy.PCRStep).Digest}}
	want, _ := values.Digest(tpm2.TPMAlgSHA256)
	got, err := known.Digest(tpm2.TPMAlgSHA256)
	if err != nil || string(got) != string(want) {
		t.Errorf("digest %x, %v; want %x", got, err, want)
	}
	if _, err := known.Digest(tpm2.TPMAlgSHA384); !errors.Is(err, policy.ErrInvalid) {
		t.Errorf("a SHA-256 digest in a SHA-384 policy: %v", err)
	}
}

func TestDigestRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		root policy.Node
		alg  tpm2.TPMIAlgHash
		want error
	}{
		"values not read yet":  {policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{7: nil}}, tpm2.TPMAlgSHA256, policy.ErrUnresolved},
		"a sha1 bank":          {zeroPCRs(tpm2.TPMAlgSHA1, 20, 7), tpm2.TPMAlgSHA256, policy.ErrInvalid},
		"an unknown bank":      {zeroPCRs(tpm2.TPMAlgSHA3256, 32, 7), tpm2.TPMAlgSHA256, policy.ErrInvalid},
		"no PCR":               {policy.PCR{Bank: tpm2.TPMAlgSHA256}, tpm2.TPMAlgSHA256, policy.ErrInvalid},
		"PCR 24":               {zeroPCRs(tpm2.TPMAlgSHA256, 32, 24), tpm2.TPMAlgSHA256, policy.ErrInvalid},
		"a short value":        {zeroPCRs(tpm2.TPMAlgSHA256, 31, 7), tpm2.TPMAlgSHA256, policy.ErrInvalid},
		"an empty value":       {zeroPCRs(tpm2.TPMAlgSHA256, 0, 7), tpm2.TPMAlgSHA256, policy.ErrInvalid},
		"values and a digest":  {policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{7: make([]byte, 32)}, Digest: make([]byte, 32)}, tpm2.TPMAlgSHA256, policy.ErrInvalid},
		"a digest of 20 bytes": {policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{7: nil}, Digest: make([]byte, 20)}, tpm2.TPMAlgSHA256, policy.ErrInvalid},
		"an empty all":         {policy.All{}, tpm2.TPMAlgSHA256, policy.ErrInvalid},
		"nothing in an all":    {policy.All{nil}, tpm2.TPMAlgSHA256, policy.ErrInvalid},
		"a sha1 policy":        {policy.PIN{}, tpm2.TPMAlgSHA1, policy.ErrInvalid},
	} {
		p := policy.Policy{Root: c.root}
		if d, err := p.Digest(c.alg); !errors.Is(err, c.want) || d != nil {
			t.Errorf("%s: digest %x, %v; want %v", name, d, err, c.want)
		}
		if s, err := p.Steps(c.alg); !errors.Is(err, c.want) || s != nil {
			t.Errorf("%s: steps %v, %v; want %v", name, s, err, c.want)
		}
	}
}

func zeroPCRs(bank tpm2.TPMIAlgHash, size int, indices ...uint) policy.PCR {
	p := policy.PCR{Bank: bank, Values: make(map[uint][]byte)}
	for _, i := range indices {
		p.Values[i] = make([]byte, size)
	}
	return p
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
