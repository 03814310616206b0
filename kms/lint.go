package kms

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Finding is one way past attestation that a key policy leaves open.
type Finding struct {
	Statement string // its Sid, or "#2" for the second of those without; empty for the whole policy
	Problem   string
}

// String is the statement and the problem.
func (f Finding) String() string {
	if f.Statement == "" {
		return f.Problem
	}
	return "statement " + f.Statement + ": " + f.Problem
}

// grantAction is here because who creates a grant can allow what the policy's
// conditions do not, and reEncryptAction because it takes no document.
const (
	grantAction     = "kms:CreateGrant"
	reEncryptAction = "kms:ReEncryptFrom"
)

// Lint reads a key policy and tells what would let somebody use the key without
// being an attested machine of one known image. What it does not understand is
// a finding too. It does not look at who may change the policy (kms:PutKeyPolicy).
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
			for _, problem := range s.lintAllow() {
				findings = append(findings, Finding{s.id, problem})
			}
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
			"no statement denies %s to everybody without attestation (Deny, principal *, Null %s4 = true): grants and later statements can allow it",
			strings.Join(open, ", "), conditionPCR)})
	}
	return findings, nil
}

// lintAllow tells what an Allow lets through.
func (s policyStatement) lintAllow() (problems []string) {
	if s.grants(grantAction) {
		problems = append(problems, "allows "+grantAction+": a grant lets its grantee use the key whatever image runs")
	}
	if s.grants(reEncryptAction) {
		problems = append(problems, "allows "+reEncryptAction+", which takes no attestation document: the plaintext can be moved under another key")
	}
	var plaintext []string
	for _, action := range attestedActions {
		if s.grants(action) {
			plaintext = append(plaintext, action)
		}
	}
	if len(plaintext) == 0 {
		return problems
	}
	weak, attested := s.lintConditions()
	problems = append(problems, weak...)
	switch {
	case !attested:
		problems = append(problems, fmt.Sprintf("allows %s to %s without naming an image: it needs StringEqualsIgnoreCase on %s4 or %s7",
			strings.Join(plaintext, ", "), strings.Join(s.principals, ", "), conditionPCR, conditionPCR))
	case s.forEverybody():
		problems = append(problems, "allows everybody, in every account, who runs the image")
	}
	return problems
}

// lintConditions looks at the conditions on PCRs; attested tells that one pins PCR 4 or 7.
func (s policyStatement) lintConditions() (problems []string, attested bool) {
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
			switch digits := strings.Trim(strings.ToLower(value), "0123456789abcdef"); {
			case len(value) != 2*pcrSize || digits != "":
				problems = append(problems, fmt.Sprintf("%s: %q is not a SHA-384 value in hex", c.key, value))
			case c.operator == "StringEquals" && strings.ToLower(value) != value:
				problems = append(problems, fmt.Sprintf("%s: StringEquals with capital letters never matches", c.key))
			case strings.Trim(value, "0") == "":
				bound = false
			}
		}
		attested = attested || bound && (index == 4 || index == 7)
	}
	if several > 1 {
		problems = append(problems, "lists several values for more than one PCR, so that parts of different images pass together: write a statement for each image")
	}
	return problems, attested
}

// deniedWithoutAttestation are the actions that a Deny takes from everybody who shows no document.
func (s policyStatement) deniedWithoutAttestation() []string {
	if !s.forEverybody() || len(s.conditions) != 1 {
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
