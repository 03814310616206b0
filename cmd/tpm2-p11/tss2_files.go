package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tpm2-p11/tpm2-p11/keystore/tss2"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
)

// policyPrefix begins a line before a TSS2 PEM that holds the policy with its PCR values: the PEM itself has only room for a
// digest over them, and a refusal shall name the PCR. Other readers of PEM skip what stands before it.
const policyPrefix = "# policy: "

// encodeTSS2 is an object's PEM, after a line with its policy if it has one.
func encodeTSS2(k tss2.Key) ([]byte, error) {
	text, err := tss2.Encode(k)
	if err != nil || k.Policy.IsZero() {
		return text, err
	}
	tree, err := json.Marshal(k.Policy)
	if err != nil {
		return nil, err
	}
	text = fmt.Appendf(nil, "%s%s\n%s", policyPrefix, tree, text)
	if len(text) > tss2.MaxSize {
		return nil, fmt.Errorf("the policy is too long for a file: with it there are %d bytes, and at most %d are read", len(text), tss2.MaxSize)
	}
	return text, nil
}

// decodeTSS2 reads a PEM and the line before it, which is anybody's text until its digest is the object's own.
func decodeTSS2(text []byte) (tss2.Key, error) {
	k, err := tss2.Decode(text)
	if err != nil && !errors.As(err, new(*tss2.PolicyError)) {
		return k, err
	}
	if p := policyLine(text); decides(p, k.Object.Public) {
		k.Policy, err = p, nil
	}
	return k, err
}

// policyLine is the policy with values that stands before a PEM, zero when there is none that can be read.
func policyLine(text []byte) policy.Policy {
	for line := range bytes.Lines(text) {
		tree, ok := bytes.CutPrefix(line, []byte(policyPrefix))
		if !ok {
			continue
		}
		var p policy.Policy
		if json.Unmarshal(tree, &p) == nil {
			return p
		}
	}
	return policy.Policy{}
}

// decides tells whether p is the policy that an object was made with.
func decides(p policy.Policy, public provider.Public) bool {
	if p.IsZero() {
		return false
	}
	digest, err := p.Digest(public.Area().NameAlg)
	return err == nil && bytes.Equal(digest, public.AuthPolicy())
}
