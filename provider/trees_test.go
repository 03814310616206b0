package provider_test

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// grove makes random policies that a TPM can meet.
type grove struct {
	*provider.TPM
	t       *testing.T
	random  *rand.Rand
	counter uint64 // in NV index counterIndex
	pcrs    map[tpm2.TPMIAlgHash]map[uint][]byte
	clock   policy.ClockInfo
	signers []builder
}

const (
	counterIndex  tpm2.TPMHandle = 0x01800010
	approvalIndex tpm2.TPMHandle = 0x01800001
)

// leaf is met by the TPM as it is if met is set, and else is not.
func (g *grove) leaf(met bool) policy.Node {
	wrong := []policy.Node{policy.Clock{Before: 1}, policy.Clock{Boot: &policy.Boot{Resets: 1 << 30}}, g.pcr(false), g.nv(false)}
	if !met {
		return wrong[g.random.IntN(len(wrong))]
	}
	right := []policy.Node{
		policy.Clock{Before: 1 << 50}, policy.Clock{Boot: &policy.Boot{Resets: g.clock.Resets, Restarts: g.clock.Restarts}, Before: 1 << 51},
		g.pcr(true), g.pcr(true), g.nv(true), policy.PIN{}, policy.Command{Code: tpm2.TPMCCSign},
		policy.Secret{Hierarchy: tpm2.TPMRHOwner}, policy.Secret{Hierarchy: tpm2.TPMRHEndorsement},
	}
	return right[g.random.IntN(len(right))]
}

func (g *grove) pcr(met bool) policy.Node {
	bank := []tpm2.TPMIAlgHash{tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384}[g.random.IntN(2)]
	p := policy.PCR{Bank: bank, Values: map[uint][]byte{}}
	for range 1 + g.random.IntN(6) {
		i := uint(g.random.IntN(24))
		p.Values[i] = g.pcrs[bank][i]
		if !met {
			p.Values[i] = bytes.Repeat([]byte{byte(1 + g.random.IntN(250))}, len(p.Values[i]))
		}
	}
	return p
}

func (g *grove) nv(met bool) policy.Node {
	value := binary.BigEndian.AppendUint64(nil, g.counter)
	right := []tpm2.TPMEO{tpm2.TPMEOEq, tpm2.TPMEOUnsignedGE, tpm2.TPMEOUnsignedLE, tpm2.TPMEOBitSet}
	wrong := []tpm2.TPMEO{tpm2.TPMEONeq, tpm2.TPMEOUnsignedGT, tpm2.TPMEOUnsignedLT, tpm2.TPMEOBitClear}
	n := policy.NV{Index: counterIndex, Op: right[g.random.IntN(len(right))]}
	if !met {
		n.Op = wrong[g.random.IntN(len(wrong))]
	}
	n.Offset = uint16(g.random.IntN(8))
	if n.Op == tpm2.TPMEOBitClear {
		n.Offset = 0 // elsewhere there may be no bit that is set
	}
	n.Value = value[n.Offset:]
	return n
}

func (g *grove) tree(depth int, met bool) policy.Node {
	switch kind := g.random.IntN(3); {
	case depth == 0 || kind == 0:
		return g.leaf(met)
	case kind == 1:
		all := make(policy.All, 1+g.random.IntN(4))
		bad := g.random.IntN(len(all))
		for i := range all {
			all[i] = g.tree(depth-1, met || i != bad)
		}
		return all
	default:
		sizes := []int{2, 3, 7, 8, 9, 17}
		branches := make(policy.Any, sizes[g.random.IntN(len(sizes))])
		good := g.random.IntN(len(branches))
		for i := range branches {
			branches[i] = g.tree(depth-1, met && i == good)
		}
		return branches
	}
}

// policy is a random tree, or one that approves random trees.
func (g *grove) policy(alg tpm2.TPMIAlgHash) (policy.Policy, []policy.Approved) {
	p := g.resolved(g.tree(3, true))
	digest, err := p.Digest(alg)
	if err != nil {
		g.t.Fatal(err)
	}
	approved := policy.Approved{Name: "it", Policy: p}
	switch g.random.IntN(4) {
	case 0:
		s := g.signers[g.random.IntN(len(g.signers))]
		if approved.Signature, err = policy.Sign(s.key, digest, s.ref); err != nil {
			g.t.Fatal(err)
		}
		return s.root().And(policy.PIN{}), []policy.Approved{{Name: "another", Policy: g.resolved(g.leaf(false))}, approved}
	case 1:
		if alg != tpm2.TPMAlgSHA256 {
			break // the index holds a digest of SHA-256
		}
		if err := g.WritePolicyIndex(g.t.Context(), approvalIndex, digest); err != nil {
			g.t.Fatal(err)
		}
		return g.resolved(policy.All{policy.AuthorizeNV{Index: approvalIndex}, g.leaf(true)}), []policy.Approved{approved}
	}
	return p, nil
}

func (g *grove) resolved(root policy.Node) policy.Policy {
	p, err := policy.Policy{Root: root}.Resolve(g.PolicyState(g.t.Context()), true)
	if err != nil {
		g.t.Fatal(err)
	}
	return p
}

// What is computed here is what a TPM computes: for random trees, in both hashes, in trial sessions and real ones, in
// two implementations of a TPM.
func TestDigestsOfRandomPoliciesAreTheTPMs(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T) *provider.TPM{
		"swtpm":                    func(t *testing.T) *provider.TPM { return newStore(t).TPM },
		"reference implementation": func(t *testing.T) *provider.TPM { return newInstance(t, nil).TPM },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := &grove{TPM: start(t), t: t, random: rand.New(rand.NewPCG(2, 0)), signers: []builder{rsaBuilder(t), ecBuilder(t, elliptic.P256()), ecBuilder(t, elliptic.P384())}}
			g.look(t.Context())
			for n := range 300 {
				alg := []tpm2.TPMIAlgHash{tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384}[n%2]
				p, approved := g.policy(alg)
				text, err := json.Marshal(p)
				if err != nil {
					t.Fatal(err)
				}
				want, err := p.Digest(alg)
				if err != nil {
					t.Fatalf("%s: %v", text, err)
				}
				trial, real, err := g.PolicyDigests(t.Context(), alg, provider.Auth{Policy: p, Approved: listed(approved...), Value: pin("12345678")})
				if err != nil || !bytes.Equal(trial, want) || !bytes.Equal(real, want) {
					t.Fatalf("policy %d, %s: computed %x, a trial session has %x, a real one %x, %v", n, text, want, trial, real, err)
				}
				var again policy.Policy
				if err := json.Unmarshal(text, &again); err != nil || !again.Equal(p) {
					t.Fatalf("%s is read as %v, %v", text, again, err)
				}
			}
		})
	}
}

// look reads what the policies will be about.
func (g *grove) look(ctx context.Context) {
	g.pcrs = make(map[tpm2.TPMIAlgHash]map[uint][]byte)
	var err error
	all := make([]uint, 24)
	for i := range all {
		all[i] = uint(i)
	}
	for _, bank := range []tpm2.TPMIAlgHash{tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384} {
		if g.pcrs[bank], err = g.ReadPCRs(ctx, bank, all); err != nil {
			g.t.Fatal(err)
		}
	}
	if g.clock, err = g.PolicyState(ctx).Clock(); err != nil {
		g.t.Fatal(err)
	}
	if g.counter, err = g.AdvanceCounter(ctx, counterIndex); err != nil {
		g.t.Fatal(err)
	}
}
