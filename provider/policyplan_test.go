package provider_test

import (
	"crypto"
	"crypto/elliptic"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

func approvedBy(list ...policy.Approved) provider.Auth {
	return provider.Auth{Approved: listed(list...)}
}

// How a policy is satisfied is not found out anew for each use; but once something else would come of it, it is. Each change comes after one
// use, when the next one has its steps before it, and after three, when they were taken ahead.
func TestAPlanEndsWithTheApprovalsAndThePINThatLedToIt(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	ci, other := ecBuilder(t, elliptic.P256()), ecBuilder(t, elliptic.P256())
	here, withPIN := b.bound(t, currentPCRs(7)), b.bound(t, currentPCRs(7), policy.PIN{})
	today, absent := ci.approve(t, "today", here), ci.approve(t, "absent", elsewhere())
	newer := ci.approve(t, "newer", b.bound(t, currentPCRs(8)))
	cut, swapped := today, today
	cut.Signature, swapped.Policy = today.Signature[1:], withPIN
	ways := policy.Policy{Root: policy.Any{withPIN.Root, here.Root}}
	signed, branches := b.persisted(t, b.boundKey(t, ci.root(), "")), b.persisted(t, b.boundKey(t, ways, "12345678"))

	for name, c := range map[string]struct {
		before, after provider.Auth
		want          []tpm2.TPMCC // of the use after the change, where all was taken ahead
		refused       string
	}{
		"nothing changed":               {approvedBy(today), approvedBy(today), []tpm2.TPMCC{ccSign}, ""},
		"another machine's besides":     {approvedBy(today), approvedBy(absent, today), []tpm2.TPMCC{ccSign}, ""},
		"a newer one besides":           {approvedBy(today), approvedBy(newer, today), []tpm2.TPMCC{ccPCRRead, ccRestart, ccPCRRead, ccPCR, ccAuthorize, ccSign}, ""},
		"the newer one is removed":      {approvedBy(newer, today), approvedBy(today), []tpm2.TPMCC{ccRestart, ccPCRRead, ccPCR, ccAuthorize, ccSign}, ""},
		"it is removed":                 {approvedBy(today), approvedBy(), nil, "no approved policy was found"},
		"another machine's instead":     {approvedBy(today), approvedBy(absent), nil, "approved: absent"},
		"another signer's instead":      {approvedBy(today), approvedBy(other.approve(t, "today", here)), nil, "none of 1 approved policies bears its signature"},
		"its signature is cut":          {approvedBy(today), approvedBy(cut), nil, "none of 1 approved policies bears its signature"},
		"its policy is another one":     {approvedBy(today), approvedBy(swapped), nil, "none of 1 approved policies bears its signature"},
		"the PIN is not given any more": {provider.Auth{Value: pin("12345678")}, provider.Auth{}, []tpm2.TPMCC{ccRestart, ccPCRRead, ccFlush, ccStart, ccPCR, ccOr, ccSign}, ""},
		"the PIN is given":              {provider.Auth{}, provider.Auth{Value: pin("12345678")}, []tpm2.TPMCC{ccRestart, ccPCRRead, ccReadPublic, ccFlush, ccStart, ccPCR, ccAuthValue, ccOr, ccSign}, ""},
	} {
		key := signed
		c.before.Policy, c.after.Policy, c.after.Label = ci.root(), ci.root(), "web"
		if c.before.Approved == nil {
			key, c.before.Policy, c.after.Policy = branches, ways, ways
		}
		b.codes(t, signed, provider.Auth{Policy: ci.root(), Approved: listed(newer)}) // the TPM verified it
		for _, uses := range []int{1, 3} {
			b.Release()
			for range uses {
				b.codes(t, key, c.before)
			}
			b.wire.Reset()
			err := b.trySign(t.Context(), key, c.after)
			codes := b.wire.Codes()
			switch {
			case c.refused != "":
				if !errors.Is(err, provider.ErrPolicy) || !strings.Contains(err.Error(), c.refused) || slices.Contains(codes, ccSign) {
					t.Errorf("%s, after %d uses: %v, commands %x", name, uses, err, codes)
				}
			case err != nil:
				t.Errorf("%s, after %d uses: %v", name, uses, err)
			case uses == 3 && !slices.Equal(codes[:min(len(codes), len(c.want))], c.want):
				t.Errorf("%s: the commands were %x, want %x", name, codes, c.want)
			}
		}
	}
}

// PCRs that changed lead to the branch, and the approval, that is theirs now, and then to none.
func TestAPlanEndsWithThePCRsThatLedToIt(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	ci := ecBuilder(t, elliptic.P256())
	extend := func() {
		t.Helper()
		provider.Rest(b.TPM)
		if _, err := b.wire.Aside(extendPCR10); err != nil {
			t.Fatal(err)
		}
	}
	for _, uses := range []int{1, 3} {
		for _, how := range []string{"branches", "branches of which the digest is known", "approvals"} {
			before := b.bound(t, currentPCRs(10)).Root.(policy.All)[0].(policy.PCR)
			next := sha256.Sum256(slices.Concat(before.Values[10], extendPCR10[len(extendPCR10)-sha256.Size:]))
			after := policy.PCR{Bank: before.Bank, Values: map[uint][]byte{10: next[:]}}
			auth, has := provider.Auth{Policy: policy.Policy{Root: policy.Any{before, after}}, Label: "web"}, "is"
			switch how {
			case "branches of which the digest is known":
				for _, pcr := range []*policy.PCR{&before, &after} {
					*pcr = policy.PCR{Bank: pcr.Bank, Values: map[uint][]byte{10: nil}, Policy: digestOf(t, policy.Policy{Root: *pcr})}
				}
				others := slices.Repeat(policy.Any{elsewhere().Root}, 7) // so that a PolicyOR has one of the two alone
				auth.Policy.Root, has = append(append(policy.Any{before}, others...), after), "has digest"
			case "approvals":
				auth.Policy = ci.root()
				auth.Approved = listed(ci.approve(t, "before", policy.Policy{Root: before}), ci.approve(t, "after", policy.Policy{Root: after}))
			}
			key := b.boundKey(t, auth.Policy, "")
			for range uses {
				b.codes(t, key, auth)
			}
			extend()
			if err := b.trySign(t.Context(), key, auth); err != nil {
				t.Errorf("%s, with the other PCRs after %d uses: %v", how, uses, err)
			}
			extend()
			if err := b.trySign(t.Context(), key, auth); !errors.Is(err, provider.ErrPolicy) || !strings.Contains(err.Error(), "sha256 PCR10 "+has) {
				t.Errorf("%s, with PCRs that nobody approved after %d uses: %v", how, uses, err)
			}
		}
	}
}

// A PCR policy of which the digest alone is known takes any PCRs in its session, and the TPM refuses the use: that too is told with what is
// not as it was, at once.
func TestARefusalAfterAPlanThatWasKeptHasItsName(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	for _, uses := range []int{1, 3} {
		here := b.bound(t, currentPCRs(10)).Root.(policy.All)[0].(policy.PCR)
		here = policy.PCR{Bank: here.Bank, Values: map[uint][]byte{10: nil}, Policy: digestOf(t, policy.Policy{Root: here})}
		auth := provider.Auth{Policy: policy.Policy{Root: here}, Label: "web"}
		key := b.boundKey(t, auth.Policy, "")
		for range uses {
			b.codes(t, key, auth)
		}
		provider.Rest(b.TPM)
		if _, err := b.wire.Aside(extendPCR10); err != nil {
			t.Fatal(err)
		}
		if err := b.trySign(t.Context(), key, auth); !errors.Is(err, provider.ErrPolicy) || !strings.Contains(err.Error(), "sha256 PCR10") {
			t.Errorf("after %d uses: %v", uses, err)
		}
	}
}

// A policy that tells commands apart is another one for each of them.
func TestAPlanIsForOneCommand(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	here := b.bound(t, currentPCRs(7)).Root
	p := policy.Policy{Root: policy.Any{
		policy.All{policy.Command{Code: tpm2.TPMCCSign}, here}, policy.All{policy.Command{Code: tpm2.TPMCCRSADecrypt}, here},
	}}
	key := b.key(t, provider.Template{Type: provider.RSA2048, Use: provider.Use{Sign: true, Decrypt: true}, AuthPolicy: digestOf(t, p)}, "")
	digest, block := sha256.Sum256([]byte("a message")), make([]byte, 256)
	block[255] = 2
	for _, uses := range []int{1, 3} {
		for range uses {
			if _, err := b.Sign(t.Context(), key, provider.Auth{Policy: p}, provider.RSASSA, crypto.SHA256, digest[:]); err != nil {
				t.Fatalf("signing: %v", err)
			}
			provider.Rest(b.TPM)
		}
		for range uses {
			out, err := b.RawRSA(t.Context(), key, provider.Auth{Policy: p}, block)
			if err != nil {
				t.Fatalf("decrypting after %d signatures: %v", uses, err)
			}
			out.Wipe()
			provider.Rest(b.TPM)
		}
	}
}

// What an index or the clock says is asked at each use, also where it only led to a branch that does without: it may be revoked, or come true, at
// any time.
func TestAPlanThatAnIndexOrTheClockLedToIsForOneUse(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	const index = 0x01800001
	here, other := b.bound(t, currentPCRs(7)), b.bound(t, currentPCRs(8))
	if err := b.WritePolicyIndex(t.Context(), index, policy.NoPolicy(32)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		first policy.Node // which is not met at first
		asked tpm2.TPMCC
	}{
		"an index": {policy.AuthorizeNV{Index: index}, tpm2.TPMCCNVRead},
		"a term":   {policy.All{policy.Clock{Before: 1}, other.Root}, tpm2.TPMCCReadClock},
	} {
		p, err := policy.Policy{Root: policy.Any{c.first, here.Root}}.Resolve(b.PolicyState(t.Context()), true)
		if err != nil {
			t.Fatal(err)
		}
		key := b.persisted(t, b.boundKey(t, p, ""))
		auth := provider.Auth{Policy: p, Approved: listed(policy.Approved{Name: "other", Policy: other})}
		b.Release()
		for i := range 4 {
			if codes := b.codes(t, key, auth); count(codes, c.asked) != 1 {
				t.Errorf("%s: use %d took the commands %x", name, i+1, codes)
			}
		}
		if c.asked != tpm2.TPMCCNVRead {
			continue
		}
		if err := b.WritePolicyIndex(t.Context(), index, digestOf(t, other)); err != nil {
			t.Fatal(err)
		}
		if codes := b.codes(t, key, auth); count(codes, tpm2.TPMCCPolicyAuthorizeNV) != 1 {
			t.Errorf("once the index approved it: the commands were %x", codes)
		}
	}
}

// A use whose plan holds takes little memory: nothing is planned, decoded or verified again.
func TestAUseOfAPolicyTakesLittleMemory(t *testing.T) {
	// Not parallel: allocations are counted.
	b := newStore(t)
	ci := ecBuilder(t, elliptic.P256())
	here := b.bound(t, currentPCRs(0, 7))
	for name, c := range map[string]struct {
		auth provider.Auth
		most float64
	}{
		"no policy":         {provider.Auth{}, 45},
		"PCRs":              {provider.Auth{Policy: here}, 95},
		"one of two images": {provider.Auth{Policy: policy.Policy{Root: policy.Any{elsewhere().Root, here.Root}}}, 115},
		"an approved image": {provider.Auth{Policy: ci.root(), Approved: listed(ci.approve(t, "today", here))}, 125},
	} {
		key := b.persisted(t, b.boundKey(t, c.auth.Policy, ""))
		sign := func() {
			if err := b.trySign(t.Context(), key, c.auth); err != nil {
				t.Fatal(err)
			}
		}
		for range 3 {
			sign()
		}
		if n := testing.AllocsPerRun(100, sign); n > c.most {
			t.Errorf("%s: %v allocations a signature", name, n)
		}
	}
}
