package tss2_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/keystore/tss2"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

func again(t *testing.T, k tss2.Key) (tss2.Key, error) {
	t.Helper()
	k.Object.Public = ecPublic(t, k.Policy)
	k.Object.Private = []byte("what the TPM wrapped")
	text, err := tss2.Encode(k)
	if err != nil {
		t.Fatal(err)
	}
	return tss2.Decode(text)
}

func TestEveryNodeButBranchesComesBack(t *testing.T) {
	t.Parallel()
	for _, root := range []policy.Node{
		policy.Command{Code: tpm2.TPMCCSign}, policy.Secret{Hierarchy: tpm2.TPMRHOwner},
		policy.NV{Index: 0x01800010, Name: bytes.Repeat([]byte{1}, 34), Offset: 2, Op: tpm2.TPMEOUnsignedLE, Value: []byte{1, 2}},
		policy.AuthorizeNV{Index: 0x01800001, Name: bytes.Repeat([]byte{1}, 34)},
		policy.All{policy.Command{Code: tpm2.TPMCCSign}, digestOnly(), policy.PIN{}, policy.Clock{Before: 1 << 40}},
	} {
		p := policy.Policy{Root: root}
		k, err := again(t, tss2.Key{Policy: p})
		if err != nil || !k.Policy.Equal(p) {
			t.Errorf("%v came back as %v, %v", p, k.Policy, err)
		}
	}
}

// The format has no branches: a reader that knows no more than it refuses the key.
func TestBranchesAreMarked(t *testing.T) {
	t.Parallel()
	p := policy.Policy{Root: policy.All{digestOnly(), policy.Any{policy.PIN{}, policy.Command{Code: tpm2.TPMCCSign}}}}
	_, err := again(t, tss2.Key{Policy: p})
	var unusable *tss2.PolicyError
	if !errors.As(err, &unusable) {
		t.Errorf("read without its branches: %v", err)
	}
}

// A signed policy is found in the file, with what its signer approved.
func TestSignedPoliciesComeBackWithTheirApprovals(t *testing.T) {
	t.Parallel()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, curve := range []elliptic.Curve{nil, elliptic.P256(), elliptic.P384()} {
		var key crypto.Signer = rsaKey
		if curve != nil {
			if key, err = ecdsa.GenerateKey(curve, rand.Reader); err != nil {
				t.Fatal(err)
			}
		}
		s, err := policy.NewSigner(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		approve := func(root policy.Node) policy.Approved {
			p := policy.Policy{Root: root}
			digest, err := p.Digest(tpm2.TPMAlgSHA256)
			if err != nil {
				t.Fatal(err)
			}
			signature, err := policy.Sign(key, digest, []byte("tls/v1"))
			if err != nil {
				t.Fatal(err)
			}
			return policy.Approved{Name: p.String(), Policy: p, Signature: signature}
		}
		good := approve(policy.All{digestOnly(), policy.Command{Code: tpm2.TPMCCSign}})
		branches := approve(policy.Any{policy.PIN{}, policy.Secret{Hierarchy: tpm2.TPMRHOwner}})
		stranger := good
		stranger.Policy = policy.Policy{Root: policy.PIN{}}
		root := policy.Policy{Root: policy.All{policy.Authorize{Signer: s, Ref: "tls/v1"}, policy.PIN{}}}
		k, err := again(t, tss2.Key{Policy: root, Approved: []policy.Approved{stranger, branches, good}})
		if err != nil || !k.Policy.Equal(root) {
			t.Fatalf("%T: %v, %v", key, k.Policy, err)
		}
		if len(k.Approved) != 1 || k.Approved[0].Name != good.Name || !k.Policy.Takes(k.Approved) {
			t.Errorf("%T: approved %v", key, k.Approved)
		}
	}
	if _, err := tss2.Encode(tss2.Key{Object: provider.Object{Public: ecPublic(t, policy.Policy{Root: policy.PCR{
		Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{7: nil}, Policy: make([]byte, 32)}}), Private: []byte("x")}, Policy: policy.Policy{Root: policy.PCR{
		Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{7: nil}, Policy: make([]byte, 32)}}}); !errors.Is(err, tss2.ErrUnsupported) {
		t.Errorf("PCRs that only a policy digest tells of: %v", err)
	}
}
