package policy_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/policy"
)

// machine is a TPM whose sha256 PCR i holds 32 times the byte i+1.
func machine(bank tpm2.TPMIAlgHash, indices []uint) (map[uint][]byte, error) {
	values := make(map[uint][]byte)
	for _, i := range indices {
		if bank == tpm2.TPMAlgSHA256 {
			values[i] = []byte(strings.Repeat(string(rune(i+1)), 32))
		}
	}
	return values, nil
}

// pcrs is the state of a TPM of which only PCRs are asked.
func pcrs(read policy.Reader) policy.State { return policy.State{PCRs: read} }

func constant(b byte) policy.Reader {
	return func(_ tpm2.TPMIAlgHash, indices []uint) (map[uint][]byte, error) {
		values := make(map[uint][]byte)
		for _, i := range indices {
			values[i] = []byte(strings.Repeat(string([]byte{b}), 32))
		}
		return values, nil
	}
}

func TestResolvePutsCurrentValuesIn(t *testing.T) {
	t.Parallel()
	given := strings.Repeat("ab", 32)
	asked, err := policy.FromTree(map[string]any{"all": []any{
		map[string]any{"pcr": map[string]any{"bank": "sha256", "indices": []any{int64(0)}, "7": given}},
		map[string]any{"pin": true},
	}})
	if err != nil {
		t.Fatal(err)
	}
	before := asked.String()
	p, err := asked.Resolve(pcrs(machine), false)
	if want := "sha256:0=" + strings.Repeat("01", 32) + ",7=" + given + " + pin"; err != nil || p.String() != want {
		t.Errorf("%s, %v; want %s", p, err, want)
	}
	if asked.String() != before {
		t.Errorf("the policy asked for was changed to %s", asked)
	}
	if p, err := (policy.Policy{}).Resolve(policy.State{}, false); err != nil || !p.IsZero() {
		t.Errorf("the zero policy resolves to %v, %v", p, err)
	}
}

func TestResolveRefuses(t *testing.T) {
	t.Parallel()
	broken := errors.New("the line is cut")
	for name, c := range map[string]struct {
		pcrs string
		read policy.Reader
		want error
		text string
	}{
		"a bank that does not answer":    {"sha384:7", machine, policy.ErrBankInactive, "sha384 PCR7"},
		"a TPM that cannot be read":      {"sha256:7", func(tpm2.TPMIAlgHash, []uint) (map[uint][]byte, error) { return nil, broken }, broken, "reading sha256:7"},
		"a value of the wrong length":    {"sha512:7", constant(1), policy.ErrBankInactive, "sha512 PCR7"},
		"a boot measured in other banks": {"sha256:7,8", constant(0), policy.ErrUnmeasured, "sha256 PCR7 is all 00"},
		"a PCR for debugging":            {"sha256:16", constant(7), policy.ErrResettable, "PCR16"},
		"a PCR of applications":          {"sha256:23", constant(7), policy.ErrResettable, "PCR23"},
		"all ones":                       {"sha256:0", constant(0xff), policy.ErrUnmeasured, "sha256 PCR0 is all ff"},
	} {
		p, err := policy.Policy{Root: policy.All{parse(t, c.pcrs)}}.Resolve(pcrs(c.read), false)
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) || !p.IsZero() {
			t.Errorf("%s: %v, %v; want %v", name, p, err, c.want)
		}
	}
	if _, err := (policy.Policy{Root: parse(t, "sha256:0-7,16,23")}).Resolve(pcrs(constant(0)), true); err != nil {
		t.Errorf("forced: %v", err)
	}
	if _, err := (policy.Policy{Root: parse(t, "sha256:8-15,17-22")}).Resolve(pcrs(constant(0)), false); err != nil {
		t.Errorf("PCRs that a boot need not extend: %v", err)
	}
	selected := map[uint][]byte{7: nil, 23: nil}
	for name, pcr := range map[string]policy.PCR{
		"a digest over the values": {Bank: tpm2.TPMAlgSHA256, Values: selected, Digest: make([]byte, 32)},
		"a digest of their policy": {Bank: tpm2.TPMAlgSHA256, Values: selected, Policy: make([]byte, 32)},
	} {
		if _, err := (policy.Policy{Root: pcr}).Resolve(policy.State{}, false); !errors.Is(err, policy.ErrResettable) {
			t.Errorf("%s, of a PCR of applications: %v", name, err)
		}
		if _, err := (policy.Policy{Root: pcr}).Resolve(policy.State{}, true); err != nil {
			t.Errorf("%s, forced: %v", name, err)
		}
	}
	if _, err := (policy.Policy{Root: zeroPCRs(tpm2.TPMAlgSHA256, 32, 7)}).Resolve(pcrs(machine), false); !errors.Is(err, policy.ErrUnmeasured) {
		t.Errorf("zeros that were given: %v", err)
	}
}

func TestCheckNamesThePCR(t *testing.T) {
	t.Parallel()
	p, err := policy.Policy{Root: policy.All{parse(t, "sha256:0,2,7"), policy.PIN{}}}.Resolve(pcrs(machine), false)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Check(pcrs(machine)); err != nil {
		t.Errorf("nothing changed: %v", err)
	}
	changed := func(bank tpm2.TPMIAlgHash, indices []uint) (map[uint][]byte, error) {
		values, err := machine(bank, indices)
		values[7] = []byte(strings.Repeat("\x8c\x10", 16))
		return values, err
	}
	err = p.Check(pcrs(changed))
	var unsatisfied *policy.UnsatisfiedError
	if !errors.As(err, &unsatisfied) || unsatisfied.PCR != 7 || unsatisfied.Bank != tpm2.TPMAlgSHA256 {
		t.Fatalf("PCR 7 changed: %v", err)
	}
	if got, want := err.Error(), "policy: sha256 PCR7 is 8c108c10…, approved: 08080808…"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	unsatisfied.Label = "web"
	if got, want := err.Error(), `policy "web": sha256 PCR7 is 8c108c10…, approved: 08080808…`; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

// Where only a digest over the values is known, the error names the selection.
func TestCheckOfDigestOnlyPCRs(t *testing.T) {
	t.Parallel()
	for _, alg := range []tpm2.TPMIAlgHash{tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384} {
		values, err := policy.Policy{Root: parse(t, "sha256:0,7")}.Resolve(pcrs(machine), false)
		if err != nil {
			t.Fatal(err)
		}
		steps, err := values.Steps(alg)
		if err != nil {
			t.Fatal(err)
		}
		pcr := parse(t, "sha256:0,7")
		pcr.Digest = steps[0].(policy.PCRStep).Digest
		p, err := policy.Policy{Root: pcr}.Resolve(pcrs(machine), false)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Check(pcrs(machine)); err != nil {
			t.Errorf("nothing changed: %v", err)
		}
		if err := p.Check(pcrs(constant(3))); err == nil || !strings.HasPrefix(err.Error(), "policy: sha256 PCRs 0,7 have digest ") {
			t.Errorf("both changed: %v", err)
		}
	}
}

func TestCheckRefusesWhatItCannotCompare(t *testing.T) {
	t.Parallel()
	var unsatisfied *policy.UnsatisfiedError
	for name, c := range map[string]struct {
		root policy.Node
		want error
	}{
		"values not read yet": {parse(t, "sha256:7"), policy.ErrUnresolved},
		"an inactive bank":    {zeroPCRs(tpm2.TPMAlgSHA384, 48, 7), policy.ErrBankInactive},
		"an empty all":        {policy.All{}, policy.ErrInvalid},
	} {
		if err := (policy.Policy{Root: c.root}).Check(pcrs(machine)); !errors.Is(err, c.want) || errors.As(err, &unsatisfied) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnd(t *testing.T) {
	t.Parallel()
	pcr := parse(t, "sha256:7")
	for _, c := range []struct {
		root policy.Node
		want string
	}{
		{nil, "pin"},
		{policy.PIN{}, "pin"},
		{pcr, "sha256:7 + pin"},
		{policy.All{pcr}, "sha256:7 + pin"},
		{policy.All{pcr, policy.PIN{}}, "sha256:7 + pin"},
		{policy.All{policy.PIN{}, pcr}, "pin + sha256:7 + pin"},
	} {
		if got := (policy.Policy{Root: c.root}).And(policy.PIN{}).String(); got != c.want {
			t.Errorf("%v and pin is %s, want %s", c.root, got, c.want)
		}
	}
	shared := policy.Policy{Root: append(make(policy.All, 0, 4), pcr)}
	one, two := shared.And(policy.PIN{}), shared.And(parse(t, "sha256:8"))
	if one.String() != "sha256:7 + pin" || two.String() != "sha256:7 + sha256:8" {
		t.Errorf("two policies made of one: %s, %s", one, two)
	}
}

func TestWhatAPolicyAsksFor(t *testing.T) {
	t.Parallel()
	p := policy.Policy{Root: policy.All{parse(t, "sha256:7"), policy.All{policy.PIN{}, parse(t, "sha384:4")}}}
	if pcrs := p.PCRs(); len(pcrs) != 2 || pcrs[0].Bank != tpm2.TPMAlgSHA256 || pcrs[1].Bank != tpm2.TPMAlgSHA384 {
		t.Errorf("%v", pcrs)
	}
	if !p.NeedsPIN() {
		t.Error("the PIN is overlooked")
	}
	if bare := (policy.Policy{Root: parse(t, "sha256:7")}); bare.NeedsPIN() || (policy.Policy{}).NeedsPIN() {
		t.Error("a PIN is seen where none is")
	}
}
