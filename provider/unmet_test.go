package provider_test

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// No node that is not met lets a key sign or decrypt, or sealed data be opened, and each refusal names it.
func TestNothingWorksWhoseNodeIsNotMet(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	const counter, approval = 0x01800010, 0x01800001
	if _, err := b.AdvanceCounter(t.Context(), counter); err != nil {
		t.Fatal(err)
	}
	if err := b.WritePolicyIndex(t.Context(), approval, bytes.Repeat([]byte{1}, 32)); err != nil {
		t.Fatal(err)
	}
	here, ci := b.bound(t, currentPCRs(7)), ecBuilder(t, elliptic.P256())
	for name, c := range map[string]struct {
		root     policy.Node
		approved func() ([]policy.Approved, error)
		named    func(policy.Node) bool
	}{
		"pcr":                {root: elsewhere().Root, named: is[policy.PCR]},
		"clock":              {root: policy.Clock{Before: 1}, named: is[policy.Clock]},
		"boot":               {root: policy.Clock{Boot: &policy.Boot{Resets: 1 << 20}}, named: is[policy.Clock]},
		"command":            {root: policy.Command{Code: tpm2.TPMCCECDHZGen}, named: is[policy.Command]},
		"nv":                 {root: policy.NV{Index: counter, Op: tpm2.TPMEOEq, Value: make([]byte, 8)}, named: is[policy.NV]},
		"authorize":          {root: ci.root().Root, approved: listed(ci.approve(t, "x", elsewhere()), policy.Approved{Name: "y", Policy: here}), named: is[policy.Authorize]},
		"authorize, none":    {root: ci.root().Root, named: is[policy.Authorize]},
		"authorize_nv":       {root: policy.AuthorizeNV{Index: approval}, approved: listed(policy.Approved{Name: "x", Policy: here}), named: is[policy.AuthorizeNV]},
		"any":                {root: policy.Any{elsewhere().Root, policy.Clock{Before: 1}}, named: is[policy.Any]},
		"all":                {root: policy.All{here.Root, elsewhere().Root}, named: is[policy.PCR]},
		"any within all":     {root: policy.All{here.Root, policy.Any{elsewhere().Root, policy.Clock{Before: 1}}}, named: is[policy.Any]},
		"all within any":     {root: policy.Any{policy.All{here.Root, policy.Clock{Before: 1}}, elsewhere().Root}, named: is[policy.Any]},
		"clock after an any": {root: policy.All{policy.Any{elsewhere().Root, here.Root}, policy.Clock{Before: 1}}, named: is[policy.Clock]},
	} {
		t.Run(name, func(t *testing.T) {
			p := b.bound(t, c.root)
			auth := provider.Auth{Policy: p, Label: "it", Approved: c.approved}
			signs := b.boundKey(t, p, "")
			rsa := b.key(t, provider.Template{Type: provider.RSA2048, Use: provider.Use{Decrypt: true}, AuthPolicy: digestOf(t, p)}, "")
			sealed, err := b.Seal(t.Context(), pin("secret"), provider.Template{AuthPolicy: digestOf(t, p)}, nil)
			if err != nil {
				t.Fatal(err)
			}
			_, decrypted := b.DecryptOAEP(t.Context(), rsa, auth, crypto.SHA256, nil, bytes.Repeat([]byte{1}, 256))
			_, opened := b.Unseal(t.Context(), sealed, auth)
			for door, err := range map[string]error{"sign": b.trySign(t.Context(), signs, auth), "decrypt": decrypted, "unseal": opened} {
				var unmet *policy.UnsatisfiedError
				if !errors.Is(err, provider.ErrPolicy) || !errors.As(err, &unmet) || !c.named(unmet.Node) || unmet.Label != "it" {
					t.Errorf("%s: %v", door, err)
				}
			}
		})
	}
	t.Run("pin", func(t *testing.T) {
		p := b.bound(t, policy.PIN{})
		for _, wrong := range []string{"", "87654321"} {
			if err := b.trySign(t.Context(), b.boundKey(t, p, "12345678"), provider.Auth{Policy: p, Value: pin(wrong)}); !errors.Is(err, provider.ErrAuth) {
				t.Errorf("with the PIN %q: %v", wrong, err)
			}
		}
	})
}

func is[N policy.Node](n policy.Node) bool {
	_, ok := n.(N)
	return ok
}
