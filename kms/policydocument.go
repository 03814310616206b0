package kms

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tpm2-p11/tpm2-p11/internal/wildcard"
)

// ErrPolicy is a key policy that cannot be read.
var ErrPolicy = errors.New("not a key policy")

// policyStatement is a statement of any policy document of AWS.
type policyStatement struct {
	id         string
	effect     string
	principals []string // "*" for everybody; with its kind in front when it is no principal of AWS: "Service *"
	resources  []string // "*" for the key; without it a statement has no effect
	actions    []string // patterns
	except     bool     // actions are those that are not meant (NotAction)
	conditions []condition
}

// allButSome are the principals of a statement that says who is not meant.
const allButSome = "all but some"

// condition is one comparison. All of a statement's must hold.
type condition struct {
	operator, key string
	values        []string
}

// parsePolicy reads a key policy. Names of elements have case, which
// encoding/json would not see in structs.
func parsePolicy(policy []byte) ([]policyStatement, error) {
	var document map[string]json.RawMessage
	if err := json.Unmarshal(policy, &document); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPolicy, err)
	}
	if _, ok := document["Statement"]; !ok {
		return nil, fmt.Errorf("%w: it has no Statement", ErrPolicy)
	}
	raw, err := oneOrMore[map[string]json.RawMessage](document["Statement"])
	if err != nil {
		return nil, fmt.Errorf("%w: Statement: %w", ErrPolicy, err)
	}
	var statements []policyStatement
	for i, elements := range raw {
		s, err := parseStatement(elements)
		if s.id == "" {
			s.id = fmt.Sprint("#", i+1)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: statement %s: %w", ErrPolicy, s.id, err)
		}
		statements = append(statements, s)
	}
	return statements, nil
}

func parseStatement(elements map[string]json.RawMessage) (s policyStatement, err error) {
	for _, name := range slices.Sorted(maps.Keys(elements)) {
		value := elements[name]
		switch name {
		case "Sid":
			err = json.Unmarshal(value, &s.id)
		case "Effect":
			err = json.Unmarshal(value, &s.effect)
		case "Principal":
			s.principals, err = parsePrincipals(value)
		case "NotPrincipal":
			s.principals = []string{allButSome}
		case "Action", "NotAction":
			s.except = name == "NotAction"
			s.actions, err = oneOrMore[string](value)
		case "Condition":
			s.conditions, err = parseConditions(value)
		case "Resource":
			s.resources, err = oneOrMore[string](value)
		case "NotResource":
		default:
			err = errors.New("unknown element")
		}
		if err != nil {
			return s, fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, name := range []string{"Principal", "Action"} {
		if elements[name] != nil && elements["Not"+name] != nil {
			return s, fmt.Errorf("it has both %s and Not%s", name, name)
		}
	}
	if s.effect != "Allow" && s.effect != "Deny" {
		return s, fmt.Errorf("Effect is %q", s.effect)
	}
	if len(s.principals) == 0 || len(s.actions) == 0 {
		return s, errors.New("it has no Principal or no Action")
	}
	return s, nil
}

// parsePrincipals reads "*" or {"AWS": …, "Service": …}.
func parsePrincipals(value json.RawMessage) ([]string, error) {
	var everybody string
	if json.Unmarshal(value, &everybody) == nil {
		return []string{everybody}, nil
	}
	var kinds map[string]json.RawMessage
	if err := json.Unmarshal(value, &kinds); err != nil {
		return nil, err
	}
	var all []string
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		names, err := oneOrMore[string](kinds[kind])
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if kind != "AWS" {
				name = kind + " " + name
			}
			all = append(all, name)
		}
	}
	return all, nil
}

func parseConditions(value json.RawMessage) ([]condition, error) {
	var operators map[string]map[string]json.RawMessage
	if err := json.Unmarshal(value, &operators); err != nil {
		return nil, err
	}
	var all []condition
	for _, operator := range slices.Sorted(maps.Keys(operators)) {
		for _, key := range slices.Sorted(maps.Keys(operators[operator])) {
			values, err := oneOrMore[any](operators[operator][key])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
			c := condition{operator: operator, key: key}
			for _, v := range values {
				c.values = append(c.values, fmt.Sprint(v)) // true and "true" are the same
			}
			all = append(all, c)
		}
	}
	return all, nil
}

// oneOrMore reads a value or a list of values.
func oneOrMore[T any](value json.RawMessage) ([]T, error) {
	if len(value) > 0 && value[0] == '[' {
		var list []T
		err := json.Unmarshal(value, &list)
		return list, err
	}
	var one T
	err := json.Unmarshal(value, &one)
	return []T{one}, err
}

// grants tells whether a statement is about an action, whatever its conditions.
func (s policyStatement) grants(action string) bool {
	return slices.ContainsFunc(s.actions, func(pattern string) bool {
		return wildcard.Match(strings.ToLower(pattern), strings.ToLower(action))
	}) != s.except
}

func (s policyStatement) forEverybody() bool { return slices.Contains(s.principals, "*") }

// forTheKey tells whether a statement is about the key that has the policy. KMS takes others too, and goes by none of them.
func (s policyStatement) forTheKey() bool { return slices.Contains(s.resources, "*") }
