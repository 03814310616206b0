package policy_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/policy"
)

// What no branch wants is told in one breath where it is one PCR, as after an update, and else branch by branch.
func TestWhyNoBranchIsMet(t *testing.T) {
	t.Parallel()
	want := func(pcr uint, b byte) policy.PCR {
		return policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{pcr: bytes.Repeat([]byte{b}, 32)}}
	}
	for name, c := range map[string]struct {
		root policy.Node
		text string
	}{
		"one PCR":  {policy.Any{want(7, 0xaa), policy.All{want(7, 0xbb), policy.PIN{}}}, "policy: sha256 PCR7 is 08080808…, approved: aaaaaaaa…, bbbbbbbb…"},
		"two PCRs": {policy.Any{want(7, 0xaa), want(8, 0xbb)}, "policy: no branch is met: branch 1: sha256 PCR7 is 08080808…, approved: aaaaaaaa…; branch 2: sha256 PCR8 is 09090909…, approved: bbbbbbbb…"},
		"a bank": {policy.Any{want(7, 0xaa), policy.PCR{Bank: tpm2.TPMAlgSHA384, Values: map[uint][]byte{7: make([]byte, 48)}}},
			"policy: no branch is met: branch 1: sha256 PCR7 is 08080808…, approved: aaaaaaaa…; branch 2: sha384 PCR7: the PCR bank is not active"},
	} {
		err := policy.Policy{Root: c.root}.Check(pcrs(machine))
		var unmet *policy.UnsatisfiedError
		if !errors.As(err, &unmet) || len(unmet.Branches) != 2 || !strings.HasPrefix(err.Error(), c.text) {
			t.Errorf("%s\n got %v\nwant %s", name, err, c.text)
		}
		if _, err := (policy.Policy{Root: c.root}).Plan(tpm2.TPMAlgSHA256, pcrs(machine)); !errors.As(err, &unmet) {
			t.Errorf("%s: planned, %v", name, err)
		}
	}
}

// A TPM that cannot be asked is not a TPM that refuses.
func TestAnErrorOfTheTPMEndsTheChoice(t *testing.T) {
	t.Parallel()
	cut := errors.New("the line is cut")
	p := policy.Policy{Root: policy.Any{parseDigest(), policy.PIN{}}}
	_, err := p.Plan(tpm2.TPMAlgSHA256, pcrs(func(tpm2.TPMIAlgHash, []uint) (map[uint][]byte, error) { return nil, cut }))
	if !errors.Is(err, cut) {
		t.Errorf("%v", err)
	}
	if _, err := p.Plan(tpm2.TPMAlgSHA256, policy.State{}); !errors.Is(err, policy.ErrUnknown) {
		t.Errorf("without a TPM: %v", err)
	}
	if _, err := p.Steps(tpm2.TPMAlgSHA256); !errors.Is(err, policy.ErrChoice) {
		t.Errorf("steps of a policy with branches: %v", err)
	}
	if _, err := (policy.Policy{Root: policy.Any{policy.PIN{}}}).Digest(tpm2.TPMAlgSHA256); !errors.Is(err, policy.ErrInvalid) {
		t.Errorf("an any of one branch: %v", err)
	}
	if _, err := (policy.Policy{Root: make(policy.Any, 600)}).Digest(tpm2.TPMAlgSHA256); !errors.Is(err, policy.ErrInvalid) {
		t.Errorf("an any of 600 branches: %v", err)
	}
}

func parseDigest() policy.PCR {
	return policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{7: bytes.Repeat([]byte{1}, 32)}}
}

// The TPM's comparisons, as they are made here before it is asked.
func TestComparisonsOfNV(t *testing.T) {
	t.Parallel()
	name := bytes.Repeat([]byte{1}, 34)
	index := func(data ...byte) policy.State {
		return policy.State{NV: func(tpm2.TPMHandle) (policy.NVIndex, error) { return policy.NVIndex{Name: name, Data: data}, nil }}
	}
	for _, c := range []struct {
		op   tpm2.TPMEO
		have byte
		met  bool
	}{
		{tpm2.TPMEOEq, 0x55, true}, {tpm2.TPMEOEq, 0x54, false}, {tpm2.TPMEONeq, 0x54, true}, {tpm2.TPMEONeq, 0x55, false},
		{tpm2.TPMEOUnsignedGT, 0x56, true}, {tpm2.TPMEOUnsignedGT, 0x55, false}, {tpm2.TPMEOUnsignedLT, 0x54, true}, {tpm2.TPMEOUnsignedLT, 0x55, false},
		{tpm2.TPMEOUnsignedGE, 0x55, true}, {tpm2.TPMEOUnsignedGE, 0x54, false}, {tpm2.TPMEOUnsignedLE, 0x55, true}, {tpm2.TPMEOUnsignedLE, 0xff, false},
		{tpm2.TPMEOBitSet, 0xf5, true}, {tpm2.TPMEOBitSet, 0x54, false}, {tpm2.TPMEOBitClear, 0xaa, true}, {tpm2.TPMEOBitClear, 0x01, false},
	} {
		p := policy.Policy{Root: policy.NV{Index: 0x01800001, Name: name, Offset: 1, Op: c.op, Value: []byte{0x55}}}
		if err := p.Check(index(0, c.have, 0)); (err == nil) != c.met {
			t.Errorf("%v with %#x: %v", p, c.have, err)
		}
	}
	p := policy.Policy{Root: policy.NV{Index: 0x01800001, Name: name, Offset: 1, Op: tpm2.TPMEOEq, Value: []byte{0x55}}}
	var unmet *policy.UnsatisfiedError
	if err := p.Check(index(0)); !errors.As(err, &unmet) {
		t.Errorf("an index that is too short: %v", err)
	}
	gone := policy.State{NV: func(tpm2.TPMHandle) (policy.NVIndex, error) { return policy.NVIndex{}, policy.ErrNoIndex }}
	if err := p.Check(gone); !errors.As(err, &unmet) || !strings.Contains(err.Error(), "there is no NV index 0x01800001") {
		t.Errorf("no index: %v", err)
	}
	asked := policy.Policy{Root: policy.NV{Index: 0x01800001, Op: tpm2.TPMEOEq, Value: []byte{0x55}, Offset: 9}}
	if _, err := asked.Resolve(index(0), false); !errors.Is(err, policy.ErrInvalid) {
		t.Errorf("an index that is too short to be bound to: %v", err)
	}
	if _, err := asked.Resolve(gone, false); !errors.Is(err, policy.ErrNoIndex) {
		t.Errorf("binding to no index: %v", err)
	}
}

func TestExplanations(t *testing.T) {
	t.Parallel()
	p, err := policy.FromTree(map[string]any{"all": []any{
		map[string]any{"authorize": map[string]any{"signer": "file:ci.pub", "ref": "tls/v1"}},
		map[string]any{"any": []any{map[string]any{"pin": true}, map[string]any{"secret": "owner"}}},
		map[string]any{"command": "decrypt"},
		map[string]any{"nv": map[string]any{"index": "0x01800010", "op": "le", "value": int64(5)}},
		map[string]any{"pcr": map[string]any{"bank": "sha256", "indices": []any{int64(7)}}},
		map[string]any{"clock": map[string]any{"within": "1d", "boot": "current"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := `all of:
  one of the policies that were approved, for "tls/v1" by the signer whose public key is in ci.pub
  one of:
    the PIN is given
    the owner hierarchy's authorisation is given (one that is empty requires nothing)
  it is used to decrypt, and for nothing else
  the content of NV index 0x01800010 ≤ 5
  sha256 PCR 7 is what it is when the object is made
  it is less than 1d of the TPM's running time since the object was made
  the machine has neither restarted nor slept since the object was made
`
	if got := p.Explain(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if got := (policy.Policy{}).Explain(); got != "nothing is required\n" {
		t.Error(got)
	}
}
