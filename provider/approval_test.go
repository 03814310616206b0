package provider_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/tpm2-p11/tpm2-p11/internal/faulttpm"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// builder signs policies, as a build machine does.
type builder struct {
	key    crypto.Signer
	signer policy.Signer
	ref    []byte
}

func newBuilder(t *testing.T, key crypto.Signer, ref string) builder {
	t.Helper()
	s, err := policy.NewSigner(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return builder{key, s, []byte(ref)}
}

func ecBuilder(t *testing.T, curve elliptic.Curve) builder {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return newBuilder(t, key, "tls/v1")
}

func rsaBuilder(t *testing.T) builder {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return newBuilder(t, key, "")
}

// root is the policy of keys that the builder approves branches for.
func (b builder) root() policy.Policy {
	return policy.Policy{Root: policy.Authorize{Signer: b.signer, Ref: string(b.ref)}}
}

func (b builder) approve(t *testing.T, name string, p policy.Policy) policy.Approved {
	t.Helper()
	digest, err := p.Digest(tpm2.TPMAlgSHA256)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := policy.Sign(b.key, digest, b.ref)
	if err != nil {
		t.Fatal(err)
	}
	return policy.Approved{Name: name, Policy: p, Signature: signature}
}

func listed(list ...policy.Approved) func() ([]policy.Approved, error) {
	return func() ([]policy.Approved, error) { return list, nil }
}

// Where approved policies lie nobody needs to look for a key that asks for none.
func TestApprovalsAreReadForKeysThatAskForOne(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	p := policy.Policy{Root: policy.Any{elsewhere().Root, b.bound(t, currentPCRs(7)).Root}}
	key := b.boundKey(t, p, "")
	auth := provider.Auth{Policy: p, Approved: func() ([]policy.Approved, error) {
		t.Error("approved policies were read")
		return nil, nil
	}}
	if err := b.trySign(t.Context(), key, auth); err != nil {
		t.Error(err)
	}
}

// elsewhere is a policy on PCR 7 as it is on another machine.
func elsewhere() policy.Policy {
	return policy.Policy{Root: policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{7: bytes.Repeat([]byte{0x79}, 32)}}}
}

// A key survives updates: each image's PCRs are approved by the same signer, whatever the signer's key is.
func TestAKeyWhosePolicyASignerApproves(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	for name, ci := range map[string]builder{
		"RSA": rsaBuilder(t), "P-256": ecBuilder(t, elliptic.P256()), "P-384": ecBuilder(t, elliptic.P384()),
	} {
		key := b.persisted(t, b.boundKey(t, ci.root(), ""))
		now := ci.approve(t, "today", b.bound(t, currentPCRs(7)))
		auth := provider.Auth{Policy: ci.root(), Label: "web", Approved: listed(ci.approve(t, "tomorrow", elsewhere()), now)}
		if err := b.trySign(t.Context(), key, auth); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		b.wire.Reset()
		if err := b.trySign(t.Context(), key, auth); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if b.wire.Count(tpm2.TPMCCVerifySignature) != 0 {
			t.Errorf("%s: the second signature took the commands %x", name, b.wire.Codes())
		}
		b.extend(t, 7)
		err := b.trySign(t.Context(), key, auth)
		var unmet *policy.UnsatisfiedError
		if !errors.Is(err, provider.ErrPolicy) || !errors.As(err, &unmet) || len(unmet.Branches) != 2 ||
			!strings.Contains(err.Error(), `policy "web": sha256 PCR7 is `) || !strings.Contains(err.Error(), "approved: tomorrow (79797979…), today (") {
			t.Errorf("%s: after an update that nobody approved: %v", name, err)
		}
		auth.Approved = listed(ci.approve(t, "after", b.bound(t, currentPCRs(7))), now)
		if err := b.trySign(t.Context(), key, auth); err != nil {
			t.Errorf("%s: after its approval: %v", name, err)
		}
	}
}

func TestAnApprovalThatDoesNotCount(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	ci, other := ecBuilder(t, elliptic.P256()), ecBuilder(t, elliptic.P256())
	key := b.boundKey(t, ci.root(), "")
	fits := b.bound(t, currentPCRs(7))
	good := ci.approve(t, "good", fits)
	anotherUse := ci
	anotherUse.ref = []byte("tls/v2")
	cut := good
	cut.Signature = good.Signature[:len(good.Signature)-1]
	swapped := good
	swapped.Policy = b.bound(t, currentPCRs(8))
	unsigned := good
	unsigned.Signature = nil
	nested := ci.approve(t, "nested", ci.root())
	bad := []policy.Approved{other.approve(t, "x", fits), anotherUse.approve(t, "x", fits), cut, swapped, unsigned, nested, {Name: "empty"}}
	for _, a := range bad {
		err := b.trySign(t.Context(), key, provider.Auth{Policy: ci.root(), Approved: listed(a)})
		if !errors.Is(err, provider.ErrPolicy) || !strings.Contains(err.Error(), "none of 1 approved policies bears its signature") {
			t.Errorf("%+v: %v", a, err)
		}
	}
	if err := b.trySign(t.Context(), key, provider.Auth{Policy: ci.root()}); !errors.Is(err, provider.ErrPolicy) || !strings.Contains(err.Error(), "no approved policy was found") {
		t.Errorf("without any: %v", err)
	}
	if err := b.trySign(t.Context(), key, provider.Auth{Policy: fits}); !errors.Is(err, provider.ErrPolicy) {
		t.Errorf("the approved policy alone: %v", err)
	}
	if err := b.trySign(t.Context(), key, provider.Auth{Policy: ci.root(), Approved: listed(append(bad, good)...)}); err != nil {
		t.Errorf("a good one after all those: %v", err)
	}
	failing := func() ([]policy.Approved, error) { return nil, errors.New("the folder cannot be read") }
	if err := b.trySign(t.Context(), key, provider.Auth{Policy: ci.root(), Approved: failing}); !errors.Is(err, provider.ErrPolicy) || !strings.Contains(err.Error(), "the folder cannot be read") {
		t.Errorf("a folder that cannot be read: %v", err)
	}
}

// What the TPM said of a signature is kept, and asked again once it does not take its own word any more.
func TestATicketOfAnotherTimeIsRenewed(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	ci := ecBuilder(t, elliptic.P256())
	key := b.boundKey(t, ci.root(), "")
	auth := provider.Auth{Policy: ci.root(), Approved: listed(ci.approve(t, "today", b.bound(t, currentPCRs(7))))}
	if err := b.trySign(t.Context(), key, auth); err != nil {
		t.Fatal(err)
	}
	b.Release()
	b.machine.Restart(t)
	auth.Approved = listed(ci.approve(t, "after", b.bound(t, currentPCRs(7))), ci.approve(t, "today", b.bound(t, currentPCRs(7))))
	if err := b.trySign(t.Context(), key, auth); err != nil {
		t.Fatalf("after a restart: %v", err)
	}
	b.wire.Inject(at(tpm2.TPMCCPolicyAuthorize, 1, faulttpm.Answer(0x4C4)))
	b.wire.Reset()
	if err := b.trySign(t.Context(), key, auth); err != nil {
		t.Fatalf("with a ticket of before a TPM2_Clear: %v", err)
	}
	if n := b.wire.Count(tpm2.TPMCCVerifySignature); n != 1 {
		t.Errorf("the signature was verified %d times", n)
	}
	provider.Rest(b.TPM)
	b.Release() // of what was executed ahead
	b.wire.Inject(at(tpm2.TPMCCPolicyAuthorize, -1, faulttpm.Answer(0x4C4)))
	if err := b.trySign(t.Context(), key, auth); !errors.Is(err, provider.ErrPolicy) || !strings.Contains(err.Error(), "did not take an approval") {
		t.Errorf("a TPM that never takes its ticket: %v", err)
	}
	b.wire.Inject(nil)
}

// A TPM that cannot verify one signer's approval is asked for the next.
func TestTheNextApprovalIsTriedWhenTheTPMDoesNotTakeOne(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	ci := rsaBuilder(t)
	key := b.boundKey(t, ci.root(), "")
	fits := b.bound(t, currentPCRs(7))
	auth := provider.Auth{Policy: ci.root(), Approved: listed(ci.approve(t, "one", fits), ci.approve(t, "two", b.bound(t, currentPCRs(8))))}
	b.wire.Inject(at(tpm2.TPMCCVerifySignature, 1, faulttpm.Answer(0x2DB)))
	if err := b.trySign(t.Context(), key, auth); err != nil {
		t.Errorf("the second was not tried: %v", err)
	}
	b.wire.Inject(nil)
}

// systemd's files know a policy by its digest alone: the TPM takes the PCRs that there are.
func TestAnApprovalOfWhichOnlyTheDigestIsKnown(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	ci := rsaBuilder(t)
	key := b.boundKey(t, ci.root(), "")
	known := currentPCRs(11)
	known.Policy = digestOf(t, policy.Policy{Root: b.bound(t, currentPCRs(11)).Root.(policy.All)[0]})
	auth := provider.Auth{Policy: ci.root(), Label: "web", Approved: listed(ci.approve(t, "uki", policy.Policy{Root: known}))}
	if err := b.trySign(t.Context(), key, auth); err != nil {
		t.Fatal(err)
	}
	b.extend(t, 11)
	err := b.trySign(t.Context(), key, auth)
	if !errors.Is(err, provider.ErrPolicy) || !strings.Contains(err.Error(), "sha256 PCR11 has digest ") {
		t.Errorf("after PCR 11 changed: %v", err)
	}
}

// What an NV index holds is the policy of many keys, and writing something else there revokes it for all of them at once.
func TestAnIndexRevokesForManyKeysAtOnce(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	const index = 0x01800001
	first, second := b.bound(t, currentPCRs(7)), b.bound(t, currentPCRs(8))
	if err := b.WritePolicyIndex(t.Context(), index, digestOf(t, first)); err != nil {
		t.Fatal(err)
	}
	root := b.bound(t, policy.AuthorizeNV{Index: index})
	keys := []provider.Object{b.boundKey(t, root, ""), b.boundKey(t, root, "")}
	auth := provider.Auth{Policy: root, Label: "web", Approved: listed(policy.Approved{Name: "second", Policy: second}, policy.Approved{Name: "first", Policy: first})}
	both := func(want error, when string) {
		t.Helper()
		for _, key := range keys {
			if err := b.trySign(t.Context(), key, auth); !errors.Is(err, want) || want != nil && !strings.Contains(err.Error(), `policy "web": `) {
				t.Errorf("%s: %v", when, err)
			}
		}
	}
	both(nil, "as approved")
	if err := b.WritePolicyIndex(t.Context(), index, digestOf(t, second)); err != nil {
		t.Fatal(err)
	}
	both(nil, "with another policy")
	auth.Approved = listed(policy.Approved{Name: "first", Policy: first})
	both(provider.ErrPolicy, "the first, which was revoked")
	auth.Approved = listed(policy.Approved{Name: "second", Policy: second})
	if err := b.WritePolicyIndex(t.Context(), index, make([]byte, 32)); !errors.Is(err, provider.ErrUnsupported) {
		t.Fatalf("zeros, with which every session begins: %v", err)
	}
	if err := b.WritePolicyIndex(t.Context(), index, policy.NoPolicy(32)); err != nil {
		t.Fatal(err)
	}
	both(provider.ErrPolicy, "after everything was revoked")
	if err := b.RemovePolicyIndex(t.Context(), index); err != nil {
		t.Fatal(err)
	}
	both(provider.ErrPolicy, "without the index")
	if _, err := b.AdvanceCounter(t.Context(), index); err != nil {
		t.Fatal(err)
	}
	both(provider.ErrPolicy, "with a counter in the index's place")
}

// An index whose authValue is protected by the TPM is not guessed at: a policy that names one would lock everybody's PIN.
func TestAnIndexIsNotReadByAGuessThatCounts(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	const index tpm2.TPMHandle = 0x01800020
	value := []byte("12345678")
	var name []byte
	b.foreign(t, func(g goTPM) {
		owner := tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
		area := tpm2.New2B(tpm2.TPMSNVPublic{NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, Attributes: tpm2.TPMANV{OwnerWrite: true, AuthRead: true}, DataSize: 8})
		if _, err := (tpm2.NVDefineSpace{AuthHandle: owner, Auth: tpm2.TPM2BAuth{Buffer: []byte("its own")}, PublicInfo: area}).Execute(g); err != nil {
			t.Fatal(err)
		}
		there, err := tpm2.NVReadPublic{NVIndex: index}.Execute(g)
		if err != nil {
			t.Fatal(err)
		}
		write := tpm2.NVWrite{AuthHandle: owner, NVIndex: tpm2.NamedHandle{Handle: index, Name: there.NVName}, Data: tpm2.TPM2BMaxNVBuffer{Buffer: value}}
		if _, err := write.Execute(g); err != nil {
			t.Fatal(err)
		}
		if there, err = (tpm2.NVReadPublic{NVIndex: index}).Execute(g); err != nil { // the first write changed its Name
			t.Fatal(err)
		}
		name = there.NVName.Buffer
	})
	p := b.bound(t, policy.NV{Index: index, Name: name, Op: tpm2.TPMEOEq, Value: value})
	key := b.boundKey(t, p, "")
	for range 2 {
		if err := b.trySign(t.Context(), key, provider.Auth{Policy: p}); !errors.Is(err, provider.ErrWrongUse) {
			t.Errorf("%v", err)
		}
	}
	if n, err := b.Properties(t.Context()); err != nil || n.LockoutCounter != 0 {
		t.Errorf("%d wrong guesses were counted, %v", n.LockoutCounter, err)
	}
}

// An old approval ends when the counter that it names goes on.
func TestACounterAgainstRollback(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	const index = 0x01800010
	version, err := b.AdvanceCounter(t.Context(), index)
	if err != nil {
		t.Fatal(err)
	}
	value := make([]byte, 8)
	for i := range value {
		value[i] = byte(version >> (56 - 8*i))
	}
	p := b.bound(t, currentPCRs(7), policy.NV{Index: index, Op: tpm2.TPMEOUnsignedLE, Value: value})
	key := b.boundKey(t, p, "")
	auth := provider.Auth{Policy: p, Label: "web"}
	if err := b.trySign(t.Context(), key, auth); err != nil {
		t.Fatal(err)
	}
	if again, err := b.AdvanceCounter(t.Context(), index); err != nil || again != version+1 {
		t.Fatalf("%d after %d, %v", again, version, err)
	}
	err = b.trySign(t.Context(), key, auth)
	var unmet *policy.UnsatisfiedError
	if !errors.As(err, &unmet) || !strings.Contains(err.Error(), "NV index 0x01800010 is ") {
		t.Errorf("after a rollback: %v", err)
	}
	if _, ok := unmet.Node.(policy.NV); !ok {
		t.Errorf("the error names %T", unmet.Node)
	}
	if err := b.WritePolicyIndex(t.Context(), index, policy.NoPolicy(32)); !errors.Is(err, provider.ErrOtherIndex) || !strings.Contains(err.Error(), "it is a counter, not an index of approvals") {
		t.Errorf("a counter is overwritten: %v", err)
	}
}

func TestAKeyForOneCommandAlone(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	for name, c := range map[string]struct {
		code tpm2.TPMCC
		want error
	}{"sign": {tpm2.TPMCCSign, nil}, "unseal": {tpm2.TPMCCUnseal, provider.ErrPolicy}} {
		p := policy.Policy{Root: policy.All{policy.Command{Code: c.code}}}
		key := b.boundKey(t, p, "")
		err := b.trySign(t.Context(), key, provider.Auth{Policy: p, Label: "web"})
		if !errors.Is(err, c.want) || c.want != nil && !strings.Contains(err.Error(), "it is to be used to sign, approved: unseal alone") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A branch for another command is not taken, and the TPM would not let it be.
	p := policy.Policy{Root: policy.Any{policy.Command{Code: tpm2.TPMCCUnseal}, policy.All{policy.Command{Code: tpm2.TPMCCSign}, b.bound(t, currentPCRs(7)).Root}}}
	if err := b.trySign(t.Context(), b.boundKey(t, p, ""), provider.Auth{Policy: p}); err != nil {
		t.Error(err)
	}
}

func TestAPolicyOfTheOwner(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	p := policy.Policy{Root: policy.Secret{Hierarchy: tpm2.TPMRHOwner}}
	key := b.boundKey(t, p, "")
	if err := b.trySign(t.Context(), key, provider.Auth{Policy: p}); err != nil {
		t.Errorf("an owner hierarchy without authorisation: %v", err)
	}
	b.hierarchyAuth(t, tpm2.TPMRHOwner, "owner's")
	names := func(err error, has string) bool {
		var unmet *policy.UnsatisfiedError
		return errors.Is(err, provider.ErrPolicy) && errors.Is(err, provider.ErrHierarchyAuth) && errors.As(err, &unmet) &&
			is[policy.Secret](unmet.Node) && strings.Contains(err.Error(), has)
	}
	if err := b.trySign(t.Context(), key, provider.Auth{Policy: p, Label: "web"}); !names(err, `policy "web": the owner hierarchy has an authorisation, and none was given`) {
		t.Errorf("without the owner's authorisation: %v", err)
	}
	// A branch that asks for it is not taken without it.
	either := policy.Policy{Root: policy.Any{p.Root, policy.PIN{}}}
	if err := b.trySign(t.Context(), b.boundKey(t, either, "12345678"), provider.Auth{Policy: either, Value: pin("12345678")}); err != nil {
		t.Errorf("by the other branch: %v", err)
	}
	if err := p.Check(b.PolicyState(t.Context())); err == nil || !strings.Contains(err.Error(), "none was given") {
		t.Errorf("Check: %v", err)
	}
	b.Release()
	stranger, _ := b.client(t, provider.WithOwnerAuth(pin("another's")))
	stranger.UseSRK(b.srk)
	_, err := stranger.Sign(t.Context(), key, provider.Auth{Policy: p}, provider.ECDSA, crypto.SHA256, make([]byte, 32))
	if !names(err, "the owner hierarchy has another authorisation than was given") {
		t.Errorf("with another authorisation: %v", err)
	}
	stranger.Release()
	owner, wire := b.client(t, provider.WithOwnerAuth(pin("owner's")), provider.WithEndorsementAuth(pin("privacy's")))
	owner.UseSRK(b.srk)
	signs := func(as string, key provider.Object, p policy.Policy) {
		t.Helper()
		if _, err := owner.Sign(t.Context(), key, provider.Auth{Policy: p}, provider.ECDSA, crypto.SHA256, make([]byte, 32)); err != nil {
			t.Errorf("with the %s authorisation: %v", as, err)
		}
	}
	signs("owner's", key, p)
	owner.Release()
	endorsement := policy.Policy{Root: policy.Secret{Hierarchy: tpm2.TPMRHEndorsement}}
	key = b.boundKey(t, endorsement, "")
	if err := b.trySign(t.Context(), key, provider.Auth{Policy: endorsement}); err != nil {
		t.Errorf("an endorsement hierarchy without authorisation: %v", err)
	}
	b.hierarchyAuth(t, tpm2.TPMRHEndorsement, "privacy's")
	if err := b.trySign(t.Context(), key, provider.Auth{Policy: endorsement}); !names(err, "the endorsement hierarchy has an authorisation, and none was given") {
		t.Errorf("one with authorisation: %v", err)
	}
	b.Release()
	signs("endorsement's", key, endorsement)
	if _, err := owner.EndorsementKey(t.Context(), provider.P256); err != nil {
		t.Errorf("the endorsement key: %v", err)
	}
	for _, secret := range []string{"owner's", "privacy's"} {
		if wire.Saw([]byte(secret)) {
			t.Errorf("%q went over the wire", secret)
		}
	}
	owner.Release()
}

// A branch is chosen by what the TPM says, and without a PIN one that asks for none.
func TestABranchIsChosenBeforeTheTPMIsAsked(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	here := b.bound(t, currentPCRs(7)).Root
	p := policy.Policy{Root: policy.Any{policy.PIN{}, elsewhere().Root, here}}
	key := b.key(t, provider.Template{Type: provider.P256, Use: provider.Use{Sign: true}, AuthPolicy: digestOf(t, p), DictionaryAttack: true}, "12345678")
	b.wire.Reset()
	if err := b.trySign(t.Context(), key, provider.Auth{Policy: p}); err != nil {
		t.Fatal(err)
	}
	if b.wire.Count(tpm2.TPMCCPolicyPCR) != 1 || b.wire.Count(tpm2.TPMCCPCRRead) != 1 || b.wire.Count(tpm2.TPMCCPolicyAuthValue) != 0 {
		t.Errorf("commands %x", b.wire.Codes())
	}
	b.extend(t, 7)
	if err := b.trySign(t.Context(), key, provider.Auth{Policy: p, Value: pin("12345678")}); err != nil {
		t.Errorf("by the PIN, after PCR 7 changed: %v", err)
	}
	for range 3 {
		err := b.trySign(t.Context(), key, provider.Auth{Policy: p, Label: "web"})
		if !errors.Is(err, provider.ErrPolicy) || !strings.Contains(err.Error(), "branch 1: no PIN was given, approved: the PIN") {
			t.Errorf("without the PIN, after PCR 7 changed: %v", err)
		}
	}
	if n, err := b.Properties(t.Context()); err != nil || n.LockoutCounter != 0 {
		t.Errorf("a PIN that nobody gave was counted as wrong: %d, %v", n.LockoutCounter, err)
	}
	noPIN := policy.Policy{Root: policy.Any{elsewhere().Root, here}}
	err := b.trySign(t.Context(), b.boundKey(t, noPIN, ""), provider.Auth{Policy: noPIN, Label: "web"})
	if !errors.Is(err, provider.ErrPolicy) || !strings.Contains(err.Error(), `policy "web": sha256 PCR7 is `) {
		t.Errorf("no branch fits: %v", err)
	}
	many := policy.Any{}
	for i := range 70 {
		many = append(many, policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{7: bytes.Repeat([]byte{byte(i + 1)}, 32)}})
	}
	for _, at := range []int{0, 8, 63, 64, 69} {
		nested := append(policy.Any{}, many...)
		nested[at] = b.bound(t, currentPCRs(7)).Root
		p := policy.Policy{Root: nested}
		if err := b.trySign(t.Context(), b.boundKey(t, p, ""), provider.Auth{Policy: p}); err != nil {
			t.Errorf("branch %d of 70: %v", at, err)
		}
	}
}

// PCRs that move between the choice of a branch and its use make the choice anew.
func TestABranchThatIsOvertaken(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	before := b.bound(t, currentPCRs(10)).Root
	if _, err := b.wire.Aside(extendPCR10); err != nil {
		t.Fatal(err)
	}
	after := b.bound(t, currentPCRs(10)).Root
	p := policy.Policy{Root: policy.Any{before, after, policy.All{policy.PIN{}, before}}}
	key := b.boundKey(t, p, "")
	if err := b.trySign(t.Context(), key, provider.Auth{Policy: p}); err != nil {
		t.Fatal(err)
	}
	b.wire.Inject(at(tpm2.TPMCCPolicyPCR, 1, faulttpm.Answer(0x128)))
	if err := b.trySign(t.Context(), key, provider.Auth{Policy: p}); err != nil {
		t.Errorf("PCRs changed once: %v", err)
	}
	b.wire.Inject(nil)
}

func TestAThousandRefusalsLeaveNothing(t *testing.T) {
	t.Parallel()
	b := newStore(t)
	ci := ecBuilder(t, elliptic.P256())
	branches := policy.Policy{Root: policy.Any{elsewhere().Root, policy.All{b.bound(t, currentPCRs(7)).Root, policy.Clock{Before: 1}}}}
	for _, c := range []struct {
		p    policy.Policy
		auth provider.Auth
	}{
		{policy.Policy{Root: policy.Clock{Before: 1}}, provider.Auth{}},
		{branches, provider.Auth{}},
		{ci.root(), provider.Auth{Approved: listed(ci.approve(t, "x", branches), ci.approve(t, "y", elsewhere()))}},
		{elsewhere(), provider.Auth{}},
	} {
		key := b.persisted(t, b.boundKey(t, c.p, ""))
		c.auth.Policy = c.p
		for range 250 {
			if err := b.trySign(t.Context(), key, c.auth); !errors.Is(err, provider.ErrPolicy) {
				t.Fatal(err)
			}
		}
	}
}
