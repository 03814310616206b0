package nsm

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
)

func encode(t *testing.T, v any) []byte {
	t.Helper()
	b, err := cbor.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// index is an NV index with a request at its start and an earlier answer's rest behind.
func index(request []byte) []byte {
	return append(bytes.Clone(request), bytes.Repeat([]byte{0xff}, 8192-len(request))...)
}

func attestation(fields map[string]any) map[string]any { return map[string]any{"Attestation": fields} }

func authority(t *testing.T) *Authority {
	t.Helper()
	a, err := New("i-0123456789abcdef0", "eu-central-1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestARequestInsideTheLimitsIsAnsweredWithADocument(t *testing.T) {
	t.Parallel()
	a := authority(t)
	for name, fields := range map[string]map[string]any{
		"all null":   {"public_key": nil, "user_data": nil, "nonce": nil},
		"all absent": {},
		"all full":   {"public_key": make([]byte, 1024), "user_data": make([]byte, 512), "nonce": make([]byte, 512)},
		"all empty":  {"public_key": []byte{}, "user_data": []byte{}, "nonce": []byte{}},
	} {
		var answer struct {
			Attestation struct {
				Document []byte `cbor:"document"`
			}
		}
		b := a.Answer(index(encode(t, attestation(fields))), PCRs{}, time.Now())
		if err := cbor.Unmarshal(b, &answer); err != nil || len(answer.Attestation.Document) < 2000 {
			t.Errorf("%s: a document of %d bytes, error %v", name, len(answer.Attestation.Document), err)
		}
	}
}

func TestARefusalHasTheNameOfNSM(t *testing.T) {
	t.Parallel()
	a := authority(t)
	twice, err := hex.DecodeString("a2" + "6b4174746573746174696f6e" + "a0" + "6b4174746573746174696f6e" + "a0")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		index   []byte
		refusal Error
	}{
		{"nothing was written", bytes.Repeat([]byte{0xff}, 8192), InvalidArgument},
		{"an index of no bytes", nil, InvalidArgument},
		{"a text", index(encode(t, "Attestation")), InvalidArgument},
		{"another operation", index(encode(t, map[string]any{"DescribeNSM": nil})), InvalidOperation},
		{"two operations", index(encode(t, map[string]any{"Attestation": map[string]any{}, "GetRandom": nil})), InvalidOperation},
		{"the operation twice", index(twice), InvalidArgument},
		{"a request that ends early", encode(t, attestation(map[string]any{"nonce": make([]byte, 40)}))[:30], InvalidArgument},
		{"no fields", index(encode(t, map[string]any{"Attestation": nil})), InvalidArgument},
		{"a nonce of text", index(encode(t, attestation(map[string]any{"nonce": "abc"}))), InvalidArgument},
		{"a long public key", index(encode(t, attestation(map[string]any{"public_key": make([]byte, 1025)}))), InputTooLarge},
		{"long user data", index(encode(t, attestation(map[string]any{"user_data": make([]byte, 513)}))), InputTooLarge},
		{"a long nonce", index(encode(t, attestation(map[string]any{"nonce": make([]byte, 513)}))), InputTooLarge},
		{"a small index", index(encode(t, attestation(map[string]any{})))[:2048], BufferTooSmall},
	} {
		var answer map[string]string
		if err := cbor.Unmarshal(a.Answer(c.index, PCRs{}, time.Now()), &answer); err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if answer["Error"] != string(c.refusal) || len(answer) != 1 {
			t.Errorf("%s: answer %v, want %v", c.name, answer, c.refusal)
		}
	}
}

func TestTheRefusalsAreErrors(t *testing.T) {
	t.Parallel()
	if got := InvalidArgument.Error(); !strings.Contains(got, "InvalidArgument") {
		t.Error(got)
	}
}

func TestRenewKeepsTheRoot(t *testing.T) {
	t.Parallel()
	a := authority(t)
	root, instance := a.Root(), a.Chain[3].Certificate
	if err := a.Renew(time.Now()); err != nil || a.Chain[3].Certificate != instance {
		t.Errorf("a fresh chain was replaced, error %v", err)
	}
	later := time.Now().Add(23 * time.Hour)
	if err := a.Renew(later); err != nil {
		t.Fatal(err)
	}
	if a.Root() != root {
		t.Error("the root is another one")
	}
	if a.Chain[3].Certificate.NotAfter.Before(later.Add(LeafLifetime)) {
		t.Errorf("the instance's certificate ends %v", a.Chain[3].Certificate.NotAfter)
	}
}
