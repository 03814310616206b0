package kms

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Finding is one way past attestation that a key policy leaves open.
type Finding struct {
	Statement string // its Sid, or "#2" for the second of those without; empty for the whole policy
	Problem   string
	// Warning: whether it is one follows from the image, and not from the policy.
	Warning bool
}

// String is the statement and the problem.
func (f Finding) String() string {
	text := f.Problem
	if f.Statement != "" {
		text = "statement " + f.Statement + ": " + text
	}
	if f.Warning {
		return "warning: " + text
	}
	return text
}

// grantAction is here because who creates a grant can allow what the policy's
// conditions do not, replicateAction because a replica of a multi-Region key has a
// policy of its own, and reEncryptAction because it takes no document.
const (
	grantAction     = "kms:CreateGrant"
	replicateAction = "kms:ReplicateKey"
	reEncryptAction = "kms:ReEncryptFrom"
)

// Lint reads a key policy and tells what would let somebody use the key without
// being an attested machine of one known image. What it does not understand is
// a finding too; what depends on the image is a Warning. It does not look at who may change the policy (kms:PutKeyPolicy).
func Lint(policy []byte) ([]Finding, error) {
	statements, err := parsePolicy(policy)
	if err != nil {
		return nil, err
	}
	var findings []Finding
	denied := map[string]bool{}
	for _, s := range statements {
		switch s.effect {
		case "Allow":
			findings = append(findings, s.lintAllow()...)
		case "Deny":
			for _, action := range s.deniedWithoutAttestation() {
				denied[action] = true
			}
		}
	}
	var open []string
	for _, action := range append(slices.Clone(attestedActions), reEncryptAction) {
		if !denied[action] {
			open = append(open, action)
		}
	}
	if len(open) > 0 {
		findings = append(findings, Finding{Problem: fmt.Sprintf(
			"no statement denies %s to everybody without attestation (Deny, principal * of AWS, resource *, Null %s4 = true): grants and later statements can allow it",
			strings.Join(open, ", "), conditionPCR)})
	}
	return findings, nil
}

// anyCommandLine is what a statement leaves open that pins an image and not PCR 12.
const anyCommandLine = "does not name PCR 12, where another kernel command line shows: an image that takes one from its boot entry " +
	"runs with any (one with a command line of its own, under secure boot, takes none)"

// lintAllow tells what an Allow lets through.
func (s policyStatement) lintAllow() (findings []Finding) {
	add := func(problem string) { findings = append(findings, Finding{Statement: s.id, Problem: problem}) }
	if s.grants(grantAction) {
		add("allows " + grantAction + ": a grant lets its grantee use the key whatever image runs")
	}
	if s.grants(replicateAction) {
		add("allows " + replicateAction + ": a replica of a multi-Region key decrypts the same, by the policy that whoever makes it gives it")
	}
	if s.grants(reEncryptAction) {
		add("allows " + reEncryptAction + ", which takes no attestation document: the plaintext can be moved under another key")
	}
	var plaintext []string
	for _, action := range attestedActions {
		if s.grants(action) {
			plaintext = append(plaintext, action)
		}
	}
	if len(plaintext) == 0 {
		return findings
	}
	weak, pinned := s.lintConditions()
	for _, problem := range weak {
		add(problem)
	}
	switch {
	case !pinned[4] && !pinned[7]:
		add(fmt.Sprintf("allows %s to %s without naming an image: it needs StringEqualsIgnoreCase on %s4, or %s7 under secure boot",
			strings.Join(plaintext, ", "), strings.Join(s.principals, ", "), conditionPCR, conditionPCR))
		return findings
	case slices.ContainsFunc(s.principals, func(p string) bool { return strings.HasSuffix(p, "*") || p == allButSome }):
		add("allows everybody, in every account, who runs the image")
	}
	if !pinned[12] {
		findings = append(findings, Finding{s.id, anyCommandLine, true})
	}
	return findings
}

// lintConditions looks at the conditions on PCRs; pinned are those that must have one of some values.
func (s policyStatement) lintConditions() (problems []string, pinned map[int]bool) {
	pinned = map[int]bool{}
	several := 0
	for _, c := range s.conditions {
		index, ok := pcrOfCondition(c.key)
		if !ok {
			if strings.Contains(strings.ToLower(c.key), "recipientattestation") {
				problems = append(problems, fmt.Sprintf("%s is of Nitro Enclaves, not of NitroTPM", c.key))
			}
			continue
		}
		switch {
		case strings.HasSuffix(c.operator, "IfExists") || strings.HasPrefix(c.operator, "ForAllValues:"):
			problems = append(problems, fmt.Sprintf("%s on %s is met by a request without attestation", c.operator, c.key))
			continue
		case c.operator == "Null":
			continue // it says that some machine is attested, not which
		case c.operator != "StringEquals" && c.operator != "StringEqualsIgnoreCase":
			problems = append(problems, fmt.Sprintf("%s on %s is not a comparison with one value: use StringEqualsIgnoreCase", c.operator, c.key))
			continue
		}
		if len(c.values) > 1 {
			several++
		}
		bound := len(c.values) > 0
		for _, value := range c.values {
			switch digest, err := hex.DecodeString(value); {
			case err != nil || len(digest) != pcrSize:
				problems = append(problems, fmt.Sprintf("%s: %q is not a SHA-384 value in hex", c.key, value))
			case c.operator == "StringEquals" && strings.ToLower(value) != value:
				problems = append(problems, fmt.Sprintf("%s: StringEquals with capital letters never matches", c.key))
			case !tells(index, digest) && index != 12: // zero, in PCR 12, is what a good boot has
				bound = false
			}
		}
		pinned[index] = pinned[index] || bound
	}
	if several > 1 {
		problems = append(problems, "lists several values for more than one PCR, so that parts of different images pass together: write a statement for each image")
	}
	return problems, pinned
}

// deniedWithoutAttestation are the actions that a Deny takes from everybody who shows no document.
func (s policyStatement) deniedWithoutAttestation() []string {
	if !s.forEverybody() || !s.forTheKey() || len(s.conditions) != 1 {
		return nil
	}
	c := s.conditions[0]
	if _, ok := pcrOfCondition(c.key); !ok || c.operator != "Null" || !slices.Equal(c.values, []string{"true"}) {
		return nil
	}
	var actions []string
	for _, action := range append(slices.Clone(attestedActions), reEncryptAction) {
		if s.grants(action) {
			actions = append(actions, action)
		}
	}
	return actions
}

// pcrOfCondition reads a condition key; their names have no case.
func pcrOfCondition(key string) (index int, ok bool) {
	if len(key) <= len(conditionPCR) || !strings.EqualFold(key[:len(conditionPCR)], conditionPCR) {
		return 0, false
	}
	index, err := strconv.Atoi(key[len(conditionPCR):])
	return index, err == nil && index >= 0 && index <= lastPCR
}
