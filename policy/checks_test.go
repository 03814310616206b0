package policy_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/policy"
)

// refusedBy demands an error of a kind from the check that says so.
func refusedBy(t *testing.T, name string, err, kind error, says string) {
	t.Helper()
	if !errors.Is(err, kind) || !strings.Contains(err.Error(), says) {
		t.Errorf("%s\n got: %v\nwant: %v, %q", name, err, kind, says)
	}
}

// full is a TPM that answers everything.
func full() policy.State {
	s := pcrs(machine)
	s.Clock = func() (policy.ClockInfo, error) { return policy.ClockInfo{Clock: 1000, Resets: 3, Restarts: 1}, nil }
	s.NV = func(tpm2.TPMHandle) (policy.NVIndex, error) {
		return policy.NVIndex{Name: bytes.Repeat([]byte{1}, 34), Data: make([]byte, 8)}, nil
	}
	s.File = func(string) ([]byte, error) { return []byte("no key"), nil }
	return s
}

func newSigner(t *testing.T) (policy.Signer, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := policy.NewSigner(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return s, key
}

// Nodes that a program made wrong are refused whatever is asked of them, by the first that looks.
func TestWrongNodesAreRefusedEverywhere(t *testing.T) {
	t.Parallel()
	signer, _ := newSigner(t)
	values := func(n int) map[uint][]byte { return map[uint][]byte{7: make([]byte, n)} }
	for says, n := range map[string]policy.Node{
		`"all" is empty`:                           policy.All{},
		"all[1] is no node":                        policy.All{policy.PIN{}, nil},
		`"any" has 1 branches`:                     policy.Any{policy.PIN{}},
		"any[0] is no node":                        policy.Any{nil, policy.PIN{}},
		`"any" has 513 branches`:                   policy.Any(slicesRepeat(policy.PIN{}, 513)),
		"a ref has 32 bytes at most":               policy.Authorize{Signer: signer, Ref: strings.Repeat("r", 33)},
		"names one signer":                         policy.Authorize{},
		"authorize names one signer":               policy.Authorize{Signer: signer, File: "/a/file"},
		"a clock without an end":                   policy.Clock{},
		"two ends of one kind":                     policy.Clock{Before: 1, Within: time.Second},
		"two ends of one":                          policy.Clock{Boot: &policy.Boot{}, ThisBoot: true},
		"end is at 9223372036854775807 ms at most": policy.Clock{Before: 1 << 63},
		"a positive number of milliseconds":        policy.Clock{Within: -time.Second},
		"number of milliseconds, not 1µs":          policy.Clock{Within: time.Microsecond},
		"the owner or the endorsement hierarchy":   policy.Secret{Hierarchy: tpm2.TPMRHPlatform},
		"0x81000001 is no NV index":                policy.NV{Index: 0x81000001, Value: []byte{1}, Op: tpm2.TPMEOEq},
		"has 1 to 32 bytes, not 0":                 policy.NV{Index: 0x01800001, Op: tpm2.TPMEOEq},
		"has 1 to 32 bytes, not 65":                policy.NV{Index: 0x01800001, Value: make([]byte, 65), Op: tpm2.TPMEOEq},
		"first 64 bytes are compared, not byte 65": policy.NV{Index: 0x01800001, Value: []byte{1}, Offset: 64, Op: tpm2.TPMEOEq},
		"the operation 4660 is not known":          policy.NV{Index: 0x01800001, Value: []byte{1}, Op: 0x1234},
		"no PCR is named":                          policy.PCR{Bank: tpm2.TPMAlgSHA256},
		"exclude each other":                       policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{7: nil}, Digest: make([]byte, 32), Policy: make([]byte, 32)},
		"a digest over PCRs has 32 or 48 bytes":    policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{7: nil}, Digest: make([]byte, 31)},
		"a digest over PCRs has 32 or 48":          policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{7: nil}, Policy: make([]byte, 33)},
		"beside a digest over all of them":         policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: values(32), Digest: make([]byte, 32)},
		"has a value beside a digest":              policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: values(32), Policy: make([]byte, 32)},
		"PCR 7 has 32 bytes, not 20":               policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: values(20)},
		"24":                                       policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{24: make([]byte, 32)}},
		"sha1":                                     policy.PCR{Bank: tpm2.TPMAlgSHA1, Values: values(20)},
		"unknown PCR bank":                         policy.PCR{Bank: 0x1234, Values: values(20)},
	} {
		for _, p := range []policy.Policy{{Root: n}, {Root: policy.All{n}}} {
			_, err := p.Digest(tpm2.TPMAlgSHA256)
			refusedBy(t, fmt.Sprintf("digest of %T", n), err, policy.ErrInvalid, says)
			_, err = p.Resolve(full(), true)
			refusedBy(t, fmt.Sprintf("resolving %T", n), err, policy.ErrInvalid, says)
			refusedBy(t, fmt.Sprintf("checking %T", n), p.Check(full()), policy.ErrInvalid, says)
			_, err = p.Resolve(policy.State{}, true)
			refusedBy(t, fmt.Sprintf("resolving %T without a TPM", n), err, policy.ErrInvalid, says)
			_, err = p.Outline(tpm2.TPMAlgSHA256)
			refusedBy(t, fmt.Sprintf("outline of %T", n), err, policy.ErrInvalid, says)
			_, err = p.Plan(tpm2.TPMAlgSHA256, full())
			refusedBy(t, fmt.Sprintf("planning %T", n), err, policy.ErrInvalid, says)
		}
	}
	elsewhere := policy.Policy{Root: policy.AuthorizeNV{Index: 0x81000001}}
	_, err := elsewhere.Digest(tpm2.TPMAlgSHA256)
	refusedBy(t, "digest of an AuthorizeNV", err, policy.ErrInvalid, "is no NV index")
	_, err = elsewhere.Resolve(full(), true)
	refusedBy(t, "resolving an AuthorizeNV", err, policy.ErrInvalid, "is no NV index")
}

func slicesRepeat(n policy.Node, times int) []policy.Node {
	all := make([]policy.Node, times)
	for i := range all {
		all[i] = n
	}
	return all
}

// What asks for current values has neither digest nor comparison before it has them.
func TestWhatIsNotResolvedIsNotUsed(t *testing.T) {
	t.Parallel()
	for name, n := range map[string]policy.Node{
		"a term":      policy.Clock{Within: time.Second},
		"this boot":   policy.Clock{ThisBoot: true},
		"a PCR":       policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{7: nil}},
		"an index":    policy.NV{Index: 0x01800001, Value: []byte{1}, Op: tpm2.TPMEOEq},
		"a file":      policy.Authorize{File: "/a/file"},
		"an approver": policy.AuthorizeNV{Index: 0x01800001},
	} {
		p := policy.Policy{Root: n}
		_, err := p.Digest(tpm2.TPMAlgSHA256)
		refusedBy(t, name, err, policy.ErrUnresolved, "")
		if name == "a term" || name == "this boot" || name == "a PCR" {
			refusedBy(t, name, p.Check(full()), policy.ErrUnresolved, "")
		}
	}
	_, err := policy.Policy{Root: policy.Authorize{File: "/a/file"}}.Resolve(policy.State{}, false)
	refusedBy(t, "a file that nobody reads", err, policy.ErrUnresolved, "/a/file")
	_, err = policy.Policy{Root: policy.Authorize{File: "/a/file"}}.Resolve(full(), false)
	refusedBy(t, "a file without a key", err, policy.ErrInvalid, "/a/file")
}

// An error of the TPM, or of a file, is told as it is, and nothing is made of what it gave.
func TestErrorsOfTheStateAreTold(t *testing.T) {
	t.Parallel()
	cut := errors.New("the line is cut")
	broken := policy.State{
		PCRs:       func(tpm2.TPMIAlgHash, []uint) (map[uint][]byte, error) { return nil, cut },
		Clock:      func() (policy.ClockInfo, error) { return policy.ClockInfo{}, cut },
		NV:         func(tpm2.TPMHandle) (policy.NVIndex, error) { return policy.NVIndex{}, cut },
		File:       func(string) ([]byte, error) { return nil, cut },
		Approved:   func() ([]policy.Approved, error) { return nil, cut },
		Authorised: func(tpm2.TPMHandle) (bool, error) { return false, cut },
	}
	signer, _ := newSigner(t)
	name := make([]byte, 34)
	for what, n := range map[string]policy.Node{
		"a term":     policy.Clock{Within: time.Second},
		"this boot":  policy.Clock{ThisBoot: true},
		"a PCR":      policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{7: nil}},
		"an index":   policy.NV{Index: 0x01800001, Value: []byte{1}, Op: tpm2.TPMEOEq},
		"a signer":   policy.Authorize{File: "/a/file"},
		"an NV node": policy.AuthorizeNV{Index: 0x01800001},
		"a branch":   policy.Any{policy.PIN{}, policy.Clock{ThisBoot: true}},
	} {
		if p, err := (policy.Policy{Root: n}).Resolve(broken, false); !errors.Is(err, cut) || !p.IsZero() {
			t.Errorf("resolving %s: %v, %v", what, p, err)
		}
		if p, err := (policy.Policy{Root: policy.All{n}}).Resolve(broken, false); !errors.Is(err, cut) || !p.IsZero() {
			t.Errorf("resolving all of %s: %v, %v", what, p, err)
		}
	}
	for what, n := range map[string]policy.Node{
		"a clock":     policy.Clock{Before: 5},
		"a boot":      policy.Clock{Boot: &policy.Boot{}},
		"a PCR":       policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{7: make([]byte, 32)}},
		"a digest":    policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{7: nil}, Digest: make([]byte, 32)},
		"an index":    policy.NV{Index: 0x01800001, Name: name, Value: []byte{1}, Op: tpm2.TPMEOEq},
		"approvals":   policy.Authorize{Signer: signer},
		"an approver": policy.AuthorizeNV{Index: 0x01800001, Name: name},
		"a secret":    policy.Secret{Hierarchy: tpm2.TPMRHOwner},
		"a branch":    policy.Any{policy.Clock{Before: 5}, policy.PIN{}},
	} {
		if err := (policy.Policy{Root: n}).Check(broken); !errors.Is(err, cut) {
			t.Errorf("checking %s: %v", what, err)
		}
	}
	silent := broken
	silent.Approved = nil
	if err := (policy.Policy{Root: policy.AuthorizeNV{Index: 0x01800001, Name: name}}).Check(silent); !errors.Is(err, cut) {
		t.Errorf("an index that cannot be read: %v", err)
	}
}

// approved is a policy and its signature by a key.
func approved(t *testing.T, key *ecdsa.PrivateKey, name string, n policy.Node) policy.Approved {
	t.Helper()
	p := policy.Policy{Root: n}
	digest, err := p.Digest(tpm2.TPMAlgSHA256)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := policy.Sign(key, digest, nil)
	if err != nil {
		t.Fatal(err)
	}
	return policy.Approved{Name: name, Policy: p, Signature: signature}
}

// What was signed counts only if a TPM could be brought to it; what cannot be compared is told, and what changes meanwhile too.
func TestApprovalsThatCannotCount(t *testing.T) {
	t.Parallel()
	signer, key := newSigner(t)
	root := policy.Policy{Root: policy.Authorize{Signer: signer}}
	state := full()
	is := func(b byte) policy.PCR {
		return policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{7: bytes.Repeat([]byte{b}, 32)}}
	}
	good := approved(t, key, "good", is(8))
	take := func(all ...policy.Approved) error {
		state.Approved = func() ([]policy.Approved, error) { return all, nil }
		_, err := root.Plan(tpm2.TPMAlgSHA256, state)
		return err
	}
	if err := take(good); err != nil {
		t.Fatal(err)
	}
	nested := approved(t, key, "nested", root.Root)
	inside := approved(t, key, "inside", policy.All{policy.Authorize{Signer: signer}, policy.PIN{}})
	nothing := make([]byte, 32) // the digest of what has run no command
	_, err := policy.Sign(key, nothing, nil)
	refusedBy(t, "signing nothing", err, policy.ErrInvalid, "approves everybody")
	ofNothing, err := key.Sign(rand.Reader, policy.ApprovalDigest(nothing, nil), crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	unresolved := policy.Approved{Name: "unresolved", Policy: policy.Policy{Root: policy.Clock{ThisBoot: true}}, Signature: ofNothing}
	for _, a := range []policy.Approved{{Name: "nothing", Signature: ofNothing}, nested, inside, unresolved, {Name: "unsigned", Policy: good.Policy}} {
		var unmet *policy.UnsatisfiedError
		if err := take(a); !errors.As(err, &unmet) || !strings.Contains(err.Error(), "none of 1 approved policies") {
			t.Errorf("%s: %v", a.Name, err)
		}
		if root.Takes([]policy.Approved{a}) {
			t.Errorf("%s is taken", a.Name)
		}
	}
	cut := errors.New("the line is cut")
	state.PCRs = func(tpm2.TPMIAlgHash, []uint) (map[uint][]byte, error) { return nil, cut }
	if err := take(good); !errors.Is(err, cut) || !strings.Contains(err.Error(), `approved policy "good"`) {
		t.Errorf("a TPM that does not answer: %v", err)
	}
	// The PCR is right when the approved policy is chosen, and another one when its branch is.
	asked := 0
	state.PCRs = func(bank tpm2.TPMIAlgHash, indices []uint) (map[uint][]byte, error) {
		if asked++; asked > 1 {
			return constant(9)(bank, indices)
		}
		return machine(bank, indices)
	}
	var unmet *policy.UnsatisfiedError
	if err := take(approved(t, key, "branches", policy.Any{is(8), is(7)})); !errors.As(err, &unmet) || !strings.Contains(err.Error(), `approved policy "branches"`) {
		t.Errorf("a PCR that changes meanwhile: %v", err)
	}
	for name, n := range map[string]policy.Node{"signed": policy.Authorize{Signer: signer}, "in NV": policy.AuthorizeNV{Index: 0x01800001, Name: make([]byte, 34)}} {
		_, err := policy.Policy{Root: policy.All{policy.PIN{}, n}}.Digest(tpm2.TPMAlgSHA256)
		refusedBy(t, name, err, policy.ErrInvalid, "stands first")
	}
}

// An index that approves nothing, and one that approves everybody, meet nothing here, and are not called the same.
func TestIndicesOfApprovalsThatApproveNothing(t *testing.T) {
	t.Parallel()
	name := bytes.Repeat([]byte{1}, 34)
	root := policy.Policy{Root: policy.AuthorizeNV{Index: 0x01800001, Name: name}}
	for says, digest := range map[string][]byte{
		"what NV index 0x01800001 approved was revoked": policy.NoPolicy(32),
		"lets everybody use the key":                    make([]byte, 32),
	} {
		state := full()
		state.NV = func(tpm2.TPMHandle) (policy.NVIndex, error) {
			return policy.NVIndex{Name: name, Data: append([]byte{0, 0x0b}, digest...)}, nil
		}
		state.Approved = func() ([]policy.Approved, error) {
			return []policy.Approved{{Name: "pin", Policy: policy.Policy{Root: policy.PIN{}}}}, nil
		}
		var unmet *policy.UnsatisfiedError
		if err := root.Check(state); !errors.As(err, &unmet) || !strings.Contains(err.Error(), says) {
			t.Errorf("%x: %v", digest, err)
		}
		_, err := policy.Policy{Root: policy.AuthorizeNV{Index: 0x01800001}}.Resolve(state, true)
		if open := digest[0] == 0; open {
			refusedBy(t, "binding to zeros", err, policy.ErrInvalid, says)
		} else if err != nil {
			t.Errorf("binding to what approves nothing yet: %v", err)
		}
	}
}

// A clock is compared as the TPM compares it.
func TestClocksAreCompared(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		clock policy.Clock
		says  string
	}{
		"not yet":      {policy.Clock{Before: 1001}, ""},
		"now":          {policy.Clock{Before: 1000}, "below 1000 ms"},
		"this boot":    {policy.Clock{Boot: &policy.Boot{Resets: 3, Restarts: 1}}, ""},
		"another boot": {policy.Clock{Boot: &policy.Boot{Resets: 3, Restarts: 2}}, "in boot 3.2 alone"},
	} {
		err := policy.Policy{Root: c.clock}.Check(full())
		var unmet *policy.UnsatisfiedError
		if c.says == "" && err != nil || c.says != "" && (!errors.As(err, &unmet) || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestACommandThatAPolicyIsNotFor(t *testing.T) {
	t.Parallel()
	p := policy.Policy{Root: policy.Command{Code: tpm2.TPMCCSign}}
	state := policy.State{Command: tpm2.TPMCCSign}
	if _, err := p.Plan(tpm2.TPMAlgSHA256, state); err != nil {
		t.Error(err)
	}
	state.Command = tpm2.TPMCCRSADecrypt
	var unmet *policy.UnsatisfiedError
	if _, err := p.Plan(tpm2.TPMAlgSHA256, state); !errors.As(err, &unmet) {
		t.Errorf("planned for another: %v", err)
	}
}

// Indices that have a Name keep it: they are not asked again.
func TestNamesOfIndicesAreKept(t *testing.T) {
	t.Parallel()
	name := bytes.Repeat([]byte{9}, 34)
	for _, n := range []policy.Node{
		policy.AuthorizeNV{Index: 0x01800001, Name: name}, policy.NV{Index: 0x01800001, Name: name, Value: []byte{1}, Op: tpm2.TPMEOEq},
	} {
		p := policy.Policy{Root: n}
		if got, err := p.Resolve(full(), false); err != nil || !got.Equal(p) {
			t.Errorf("%v, %v", got, err)
		}
	}
	long := policy.Policy{Root: policy.NV{Index: 0x01800001, Value: []byte{1}, Offset: 8, Op: tpm2.TPMEOEq}}
	_, err := long.Resolve(full(), false)
	refusedBy(t, "a byte behind the last", err, policy.ErrInvalid, "has 8 bytes, and byte 9 is compared")
}

// What a file says is read as it is written, or not at all.
func TestTreesOfOtherTypes(t *testing.T) {
	t.Parallel()
	signer, _ := newSigner(t)
	text, err := signer.PEM()
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.FromTree(map[string]any{"authorize": map[string]any{"signer": string(text)}})
	if err != nil || !p.Equal(policy.Policy{Root: policy.Authorize{Signer: signer}}) {
		t.Errorf("a signer in PEM: %v, %v", p, err)
	}
	many := make([]any, 513)
	for i := range many {
		many[i] = map[string]any{"pin": true}
	}
	type table = map[string]any
	for says, tree := range map[string]any{
		`is a table {signer="file:…", …}`:          table{"authorize": "x"},
		"authorize.ref is text":                    table{"authorize": table{"ref": int64(7)}},
		"has 513 branches":                         table{"any": many},
		"clock.before is a number":                 table{"clock": table{"before": 1.5}},
		"clock.before is a number of":              table{"clock": table{"before": 1e17}},
		"clock.before is a number of milliseconds": table{"clock": table{"before": "soon"}},
		"clock.within is a time":                   table{"clock": table{"within": int64(30)}},
		`clock.boot is "current" or`:               table{"clock": table{"boot": int64(3)}},
		`clock.boot is "current"`:                  table{"clock": table{"boot": "3"}},
		"nv.offset is a number":                    table{"nv": table{"index": "0x01800001", "op": "eq", "value": int64(1), "offset": "x"}},
		"nv.offset is a number of bytes":           table{"nv": table{"index": "0x01800001", "op": "eq", "value": int64(1), "offset": int64(-1)}},
		"authorize_nv.name is":                     table{"authorize_nv": table{"index": "0x01800001", "name": "00zz"}},
		"authorize_nv.index is an NV":              table{"authorize_nv": table{"index": "01800001"}},
		"authorize_nv.index is an NV index":        table{"authorize_nv": table{"index": int64(0x01800001) - 1<<32}},
		"authorize_nv.index is an NV index such":   table{"authorize_nv": table{"index": int64(0x01800001) + 1<<32}},
		"secret is one of":                         table{"secret": int64(1)},
		`clock.boot is`:                            table{"clock": table{"boot": "3.99999999999"}},
	} {
		_, err := policy.FromTree(tree)
		refusedBy(t, fmt.Sprint(tree), err, policy.ErrInvalid, says)
	}
}

func TestNumbersOfIndices(t *testing.T) {
	t.Parallel()
	if h, err := policy.ParseNVIndex("0x01800001"); err != nil || h != 0x01800001 {
		t.Errorf("0x%x, %v", h, err)
	}
	for text, says := range map[string]string{"01800001": "is written as", "0x01zz": "is written as", "0x81000001": "is no NV index"} {
		_, err := policy.ParseNVIndex(text)
		refusedBy(t, text, err, policy.ErrInvalid, says)
	}
}

// What a TPM was not asked for is not known, and not taken for anything.
func TestWhatNobodyAsked(t *testing.T) {
	t.Parallel()
	name := bytes.Repeat([]byte{1}, 34)
	for says, n := range map[string]policy.Node{
		"the TPM's clock":     policy.Clock{Before: 5},
		"NV index 0x01800001": policy.NV{Index: 0x01800001, Name: name, Value: []byte{1}, Op: tpm2.TPMEOEq},
	} {
		refusedBy(t, says, policy.Policy{Root: n}.Check(policy.State{}), policy.ErrUnknown, "reading "+says)
		cut := errors.New("the line is cut")
		broken := policy.State{
			Clock: func() (policy.ClockInfo, error) { return policy.ClockInfo{}, cut },
			NV:    func(tpm2.TPMHandle) (policy.NVIndex, error) { return policy.NVIndex{}, cut },
		}
		refusedBy(t, says, policy.Policy{Root: n}.Check(broken), cut, "reading "+says)
	}
	var nameless *policy.NamelessError
	if _, err := (policy.Policy{Root: policy.AuthorizeNV{Index: 0x01800001}}).Resolve(policy.State{}, false); !errors.As(err, &nameless) {
		t.Errorf("an index without a Name: %v", err)
	}
	var unmet *policy.UnsatisfiedError
	other := policy.NV{Index: 0x01800001, Name: make([]byte, 34), Value: []byte{0}, Op: tpm2.TPMEOEq}
	if err := (policy.Policy{Root: other}).Check(full()); !errors.As(err, &unmet) || !strings.Contains(err.Error(), "is another one") {
		t.Errorf("an index with another Name: %v", err)
	}
	if err := (policy.Policy{Root: policy.PIN{}}).Check(policy.State{NoPIN: true}); !errors.As(err, &unmet) {
		t.Errorf("a PIN that is not at hand: %v", err)
	}
}

// Digests over PCRs need no TPM to be resolved, and stand for themselves.
func TestDigestsOverPCRs(t *testing.T) {
	t.Parallel()
	open := map[uint][]byte{7: nil}
	for name, n := range map[string]policy.PCR{
		"of values":   {Bank: tpm2.TPMAlgSHA256, Values: open, Digest: make([]byte, 32)},
		"of a policy": {Bank: tpm2.TPMAlgSHA256, Values: open, Policy: make([]byte, 32)},
	} {
		p := policy.Policy{Root: n}
		if got, err := p.Resolve(policy.State{}, false); err != nil || !got.Equal(p) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	whole := policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: open, Policy: make([]byte, 32)}
	_, err := policy.Policy{Root: policy.All{policy.PIN{}, whole}}.Digest(tpm2.TPMAlgSHA256)
	refusedBy(t, "a policy's digest behind a PIN", err, policy.ErrInvalid, "is of another policy")
	_, err = policy.Policy{Root: whole}.Digest(tpm2.TPMAlgSHA384)
	refusedBy(t, "a policy's digest of another length", err, policy.ErrInvalid, "is of another policy")
	_, err = policy.Policy{Root: policy.Any{policy.PIN{}, policy.Clock{ThisBoot: true}}}.Digest(tpm2.TPMAlgSHA256)
	refusedBy(t, "a branch that is not resolved", err, policy.ErrUnresolved, "")
}

func TestWhatNeedsThePIN(t *testing.T) {
	t.Parallel()
	sign := policy.Command{Code: tpm2.TPMCCSign}
	for want, nodes := range map[bool][]policy.Node{
		true:  {policy.PIN{}, policy.All{sign, policy.PIN{}}, policy.Any{policy.PIN{}, policy.All{policy.PIN{}, sign}}},
		false: {nil, sign, policy.All{sign}, policy.Any{}, policy.Any{policy.PIN{}, sign}, policy.Any{sign, policy.PIN{}}},
	} {
		for _, n := range nodes {
			if got := (policy.Policy{Root: n}).RequiresPIN(); got != want {
				t.Errorf("%v: %t", n, got)
			}
		}
	}
}

func TestPoliciesInALine(t *testing.T) {
	t.Parallel()
	if p, err := policy.Parse(` {"pin":true}`); err != nil || !p.Equal(policy.Policy{Root: policy.PIN{}}) {
		t.Errorf("a tree: %v, %v", p, err)
	}
	if p, err := policy.Parse("sha256:7"); err != nil || len(p.PCRs()) != 1 {
		t.Errorf("a selection: %v, %v", p, err)
	}
	for _, text := range []string{"", "{", "sha256:", "sha256:x", "sha256:07", "sha256:99999999999", "sha256:24"} {
		if p, err := policy.Parse(text); !errors.Is(err, policy.ErrInvalid) || !p.IsZero() {
			t.Errorf("%q: %v, %v", text, p, err)
		}
	}
}

// liar is a signing key that does not do what it is asked for.
type liar struct {
	*ecdsa.PrivateKey
	signature []byte
	err       error
}

func (l liar) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return l.signature, l.err }

func TestSignersThatAreNone(t *testing.T) {
	t.Parallel()
	signer, key := newSigner(t)
	digest := bytes.Repeat([]byte{7}, 32)
	signature, err := policy.Sign(key, digest, nil)
	if err != nil {
		t.Fatal(err)
	}

	none := policy.Signer{}
	_, err = none.PEM()
	refusedBy(t, "PEM of nobody", err, policy.ErrInvalid, "")
	_, err = none.Fingerprint()
	refusedBy(t, "fingerprint of nobody", err, policy.ErrInvalid, "the signer's public area")
	_, err = none.TPMSignature(signature)
	refusedBy(t, "a signature of nobody's", err, policy.ErrInvalid, "the signer's public area")
	if none.Verify(digest, nil, signature) {
		t.Error("nobody signed")
	}
	bent := signer.Area()
	bent[len(bent)-1] ^= 1
	_, err = policy.SignerOf(bent)
	refusedBy(t, "a point beside the curve", err, policy.ErrInvalid, "the signer's public key")
	_, err = policy.NewSigner(&ecdsa.PublicKey{Curve: elliptic.P256(), X: big.NewInt(1), Y: big.NewInt(1)})
	refusedBy(t, "a point beside the curve", err, policy.ErrInvalid, "on P-256 or P-384")
	text, err := signer.PEM()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"of another type": strings.ReplaceAll(string(text), "PUBLIC KEY", "CERTIFICATE"), "and more": string(text) + string(text),
	} {
		_, err := policy.ParseSigner([]byte(text))
		refusedBy(t, name, err, policy.ErrInvalid, "one public key in PEM")
	}

	cut := errors.New("the HSM is gone")
	_, stranger, _ := ed25519.GenerateKey(rand.Reader)
	_, err = policy.Sign(stranger, digest, nil)
	refusedBy(t, "a key of another kind", err, policy.ErrInvalid, "RSA or ECDSA")
	_, err = policy.Sign(liar{PrivateKey: key, err: cut}, digest, nil)
	refusedBy(t, "a key that does not sign", err, cut, "signing the policy")
	if _, err := policy.Sign(liar{PrivateKey: key, signature: []byte{1}}, digest, nil); err == nil || !strings.Contains(err.Error(), "does not verify") {
		t.Errorf("a key that signs wrongly: %v", err)
	}

	ofTwo := func(r, s *big.Int) []byte {
		b, err := asn1.Marshal(struct{ R, S *big.Int }{r, s})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	one, minus, large := big.NewInt(1), big.NewInt(-1), new(big.Int).Lsh(big.NewInt(1), 256)
	for name, signature := range map[string][]byte{
		"no signature": {1}, "more than one": append(bytes.Clone(signature), 0), "a negative r": ofTwo(minus, one), "a negative s": ofTwo(one, minus),
		"a large r": ofTwo(large, one), "a large s": ofTwo(one, large),
	} {
		_, err := signer.TPMSignature(signature)
		refusedBy(t, name, err, policy.ErrInvalid, "no ECDSA signature")
	}
	_, err = policy.ParseTPMSignature([]byte{0})
	refusedBy(t, "a signature that ends early", err, policy.ErrInvalid, "a signature: ")
}

// Branches are told in one breath only where each is about the very same PCRs.
func TestBranchesOfOtherPCRsAreToldApart(t *testing.T) {
	t.Parallel()
	first := policy.UnsatisfiedError{Bank: tpm2.TPMAlgSHA256, PCR: 7, Want: []byte{1}, Have: []byte{2}}
	told := func(change func(*policy.UnsatisfiedError)) string {
		second := first
		change(&second)
		return (&policy.UnsatisfiedError{Branches: []policy.Branch{{Err: &first}, {Err: &second}}}).Error()
	}
	if text := told(func(*policy.UnsatisfiedError) {}); text != "policy: sha256 PCR7 is 02, approved: 01, 01" {
		t.Error(text)
	}
	for name, change := range map[string]func(*policy.UnsatisfiedError){
		"bank":  func(e *policy.UnsatisfiedError) { e.Bank = tpm2.TPMAlgSHA384 },
		"PCR":   func(e *policy.UnsatisfiedError) { e.PCR = 8 },
		"PCRs":  func(e *policy.UnsatisfiedError) { e.PCRs = []uint{7, 8} },
		"value": func(e *policy.UnsatisfiedError) { e.Have = []byte{3} },
	} {
		if text := told(change); !strings.HasPrefix(text, "policy: no branch is met: ") {
			t.Errorf("another %s: %s", name, text)
		}
	}
}
