package policy_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
	"github.com/tpm2-p11/tpm2-p11/internal/tpmtest"
	"github.com/tpm2-p11/tpm2-p11/policy"
)

// What is computed here is what a TPM computes, in a trial session and in a real one.
func TestDigestIsTheTPMs(t *testing.T) {
	t.Parallel()
	machine := tpmtest.Start(t)
	for _, pcr := range []uint{0, 4, 7, 23} {
		machine.Extend(t, "sha256", pcr, []byte("event"))
		machine.Extend(t, "sha384", pcr, []byte("event"))
	}
	device := dial(t, machine)
	now := pcrs(reader(device))

	sha256 := parse(t, "sha256:0,1,2,7")
	sha384 := parse(t, "sha384:4-7,23")
	for name, root := range map[string]policy.Node{
		"pcr sha256":         sha256,
		"pcr sha384":         sha384,
		"every pcr":          parse(t, "sha256:0-23"),
		"pin":                policy.PIN{},
		"pcr and pin":        policy.All{sha256, policy.PIN{}},
		"pin before pcr":     policy.All{policy.PIN{}, sha384},
		"two banks and pin":  policy.All{sha256, sha384, policy.PIN{}},
		"nested alls":        policy.All{policy.All{sha256}, policy.All{sha384, policy.PIN{}}},
		"one pcr in an all":  policy.All{parse(t, "sha256:16")},
		"the same pcr twice": policy.All{sha256, sha256},
	} {
		for _, alg := range []tpm2.TPMIAlgHash{tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384} {
			t.Run(name+" in "+policy.BankName(alg), func(t *testing.T) {
				p, err := policy.Policy{Root: root}.Resolve(now, true)
				if err != nil {
					t.Fatal(err)
				}
				if err := p.Check(now); err != nil {
					t.Fatalf("what was just read is not met: %v", err)
				}
				want, err := p.Digest(alg)
				if err != nil {
					t.Fatal(err)
				}
				steps, err := p.Steps(alg)
				if err != nil {
					t.Fatal(err)
				}
				if got := runSteps(t, device, alg, steps, tpm2.Trial()); !bytes.Equal(got, want) {
					t.Errorf("a trial session has %x, computed %x", got, want)
				}
				if got := runSteps(t, device, alg, steps); !bytes.Equal(got, want) {
					t.Errorf("a policy session has %x, computed %x", got, want)
				}
			})
		}
	}
}

// A policy binds: after an event in a bound PCR the TPM refuses its step, and Check says so before.
func TestPolicyBinds(t *testing.T) {
	t.Parallel()
	machine := tpmtest.Start(t)
	device := dial(t, machine)
	p, err := policy.Policy{Root: parse(t, "sha256:0,1,2,7")}.Resolve(pcrs(reader(device)), true)
	if err != nil {
		t.Fatal(err)
	}
	steps, err := p.Steps(tpm2.TPMAlgSHA256)
	if err != nil {
		t.Fatal(err)
	}
	machine.Extend(t, "sha256", 7, []byte("another boot loader"))

	sess, flush, err := tpm2.PolicySession(device, tpm2.TPMAlgSHA256, 16)
	if err != nil {
		t.Fatal(err)
	}
	defer flush()
	if err := runStep(device, sess.Handle(), steps[0]); err == nil {
		t.Error("the TPM took a step whose PCR changed")
	}
	if err := p.Check(pcrs(reader(device))); err == nil || !strings.Contains(err.Error(), "sha256 PCR7 is ") {
		t.Errorf("check: %v", err)
	}
}

func dial(t *testing.T, machine *tpmtest.TPM) transport.TPM {
	t.Helper()
	device, err := linuxudstpm.Open(strings.TrimPrefix(machine.Address(), "swtpm:path="))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { device.Close() })
	return device
}

func parse(t *testing.T, s string) policy.PCR {
	t.Helper()
	p, err := policy.ParsePCR(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// reader reads one PCR a command: slow and plain.
func reader(device transport.TPM) policy.Reader {
	return func(bank tpm2.TPMIAlgHash, indices []uint) (map[uint][]byte, error) {
		values := make(map[uint][]byte)
		for _, i := range indices {
			rsp, err := tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
				{Hash: bank, PCRSelect: tpm2.PCClientCompatible.PCRs(i)}}}}.Execute(device)
			if err != nil {
				return nil, err
			}
			if len(rsp.PCRValues.Digests) == 1 {
				values[i] = rsp.PCRValues.Digests[0].Buffer
			}
		}
		return values, nil
	}
}

func runSteps(t *testing.T, device transport.TPM, alg tpm2.TPMIAlgHash, steps []policy.Step, o ...tpm2.AuthOption) []byte {
	t.Helper()
	sess, flush, err := tpm2.PolicySession(device, alg, 16, o...)
	if err != nil {
		t.Fatal(err)
	}
	defer flush()
	for _, s := range steps {
		if err := runStep(device, sess.Handle(), s); err != nil {
			t.Fatal(err)
		}
	}
	rsp, err := tpm2.PolicyGetDigest{PolicySession: sess.Handle()}.Execute(device)
	if err != nil {
		t.Fatal(err)
	}
	return rsp.PolicyDigest.Buffer
}

func runStep(device transport.TPM, session tpm2.TPMISHPolicy, s policy.Step) (err error) {
	switch s := s.(type) {
	case policy.PCRStep:
		_, err = tpm2.PolicyPCR{PolicySession: session, Pcrs: s.Selection, PcrDigest: tpm2.TPM2BDigest{Buffer: s.Digest}}.Execute(device)
	case policy.AuthValueStep:
		_, err = tpm2.PolicyAuthValue{PolicySession: session}.Execute(device)
	}
	return err
}
