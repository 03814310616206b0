package provider_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// macKey is a key for MACs while PCR 7 is as it is.
func (b *bench) macKey(t *testing.T) (provider.Object, provider.Auth) {
	t.Helper()
	p := b.bound(t, currentPCRs(7))
	o, err := b.CreateMACKey(t.Context(), digestOf(t, p))
	if err != nil {
		t.Fatal(err)
	}
	return o, provider.Auth{Policy: p}
}

func TestAMACIsComputedWhileItsPolicyIsMet(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	o, auth := b.macKey(t)
	b.wire.Reset()
	mac, err := b.MAC(t.Context(), o, auth, []byte("data"))
	if err != nil || mac.Len() != 32 {
		t.Fatal(err)
	}
	if b.wire.Saw(mac.Bytes()) {
		t.Error("it went over the wire")
	}
	again, err := b.MAC(t.Context(), o, auth, []byte("data"))
	if err != nil || !bytes.Equal(mac.Bytes(), again.Bytes()) {
		t.Errorf("the second time: %v", err)
	}
	if other, err := b.MAC(t.Context(), o, auth, []byte("other data")); err != nil || bytes.Equal(mac.Bytes(), other.Bytes()) {
		t.Errorf("of other data: %v", err)
	}
	if other, _ := b.macKey(t); bytes.Equal(other.Public.Name(), o.Public.Name()) {
		t.Error("two keys are the same")
	}
	if _, err := b.MAC(t.Context(), o, auth, make([]byte, provider.MaxMACData)); err != nil {
		t.Errorf("of as much as may be: %v", err)
	}
	b.extend(t, 7)
	if _, err := b.MAC(t.Context(), o, auth, []byte("data")); !errors.Is(err, provider.ErrPolicy) {
		t.Errorf("after another boot: %v", err)
	}
}

// Whoever boots something else can have a key made for the PCRs of a good image, and can do nothing with it.
func TestAMACKeyIsOfNoUseToWhoeverHasItMade(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	good := policy.Policy{Root: policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{7: bytes.Repeat([]byte{7}, 32)}}}
	o, err := b.CreateMACKey(t.Context(), digestOf(t, good))
	if err != nil {
		t.Fatal(err)
	}
	for name, auth := range map[string]provider.Auth{"its policy": {Policy: good}, "no policy": {}, "another policy": {Policy: b.bound(t, currentPCRs(7))}} {
		if _, err := b.MAC(t.Context(), o, auth, []byte("data")); err == nil {
			t.Errorf("used by %s", name)
		}
	}
}

func TestOtherKeysMakeNoMACs(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	o, auth := b.macKey(t)
	keys := map[string]provider.Object{"nothing": {}, "a signing key": b.boundKey(t, auth.Policy, "")}
	for name, change := range map[string]func(*tpm2.TPMTPublic){
		"a password would do":            func(a *tpm2.TPMTPublic) { a.ObjectAttributes.UserWithAuth = true },
		"its value came from outside":    func(a *tpm2.TPMTPublic) { a.ObjectAttributes.SensitiveDataOrigin = false },
		"it may leave the TPM":           func(a *tpm2.TPMTPublic) { a.ObjectAttributes.FixedTPM = false },
		"it may go to another parent":    func(a *tpm2.TPMTPublic) { a.ObjectAttributes.FixedParent = false },
		"a password changes its value":   func(a *tpm2.TPMTPublic) { a.ObjectAttributes.AdminWithPolicy = false },
		"it also decrypts":               func(a *tpm2.TPMTPublic) { a.ObjectAttributes.Decrypt = true },
		"it is sealed data":              func(a *tpm2.TPMTPublic) { a.ObjectAttributes.SignEncrypt = false },
		"it has no policy":               func(a *tpm2.TPMTPublic) { a.AuthPolicy.Buffer = nil },
		"it has no policy, but password": func(a *tpm2.TPMTPublic) { a.AuthPolicy.Buffer, a.ObjectAttributes.UserWithAuth = nil, true },
		"it is for another hash": func(a *tpm2.TPMTPublic) {
			a.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{Scheme: tpm2.TPMTKeyedHashScheme{
				Scheme: tpm2.TPMAlgHMAC, Details: tpm2.NewTPMUSchemeKeyedHash(tpm2.TPMAlgHMAC, &tpm2.TPMSSchemeHMAC{HashAlg: tpm2.TPMAlgSHA1}),
			}})
		},
	} {
		area := o.Public.Area()
		change(&area)
		public, err := provider.ParsePublic(tpm2.Marshal(area))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		keys[name] = provider.Object{Public: public, Private: o.Private}
	}
	b.wire.Reset()
	for name, key := range keys {
		if _, err := b.MAC(t.Context(), key, auth, []byte("data")); !errors.Is(err, provider.ErrWrongUse) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := b.MAC(t.Context(), o, auth, make([]byte, provider.MaxMACData+1)); !errors.Is(err, provider.ErrUnsupported) {
		t.Errorf("too much: %v", err)
	}
	for _, digest := range [][]byte{nil, make([]byte, 20)} {
		if _, err := b.CreateMACKey(t.Context(), digest); !errors.Is(err, provider.ErrUnsupported) {
			t.Errorf("a policy digest of %d bytes: %v", len(digest), err)
		}
	}
	if n := len(b.wire.Exchanges()); n != 0 {
		t.Errorf("%d commands were sent", n)
	}
}
