package keyservice

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

const maxPolicy = 32 << 10 // bytes

// keyPolicy is a policy document that this package evaluates: a subset of
// AWS's language. What is not in the subset makes a policy malformed.
type keyPolicy struct {
	text       string
	statements []statement
}

type statement struct {
	allow      bool
	principals []string // "*", account numbers, ARNs
	actions    []string // patterns in lower case
	resources  []string // patterns of ARNs
	conditions []condition
}

// condition compares one value of the request. All of a statement's must hold.
type condition struct {
	key    string // in lower case: names of condition keys have no case
	holds  func(have string, present bool, values []string) bool
	values []string
}

func malformed(format string, args ...any) error {
	return refuse("MalformedPolicyDocumentException", format, args...)
}

// parsePolicy reads a key policy. Its errors are MalformedPolicyDocumentException.
func parsePolicy(text string) (*keyPolicy, error) {
	if len(text) > maxPolicy {
		return nil, refuse("LimitExceededException", "The key policy has %d bytes, and at most %d are possible.", len(text), maxPolicy)
	}
	var document map[string]json.RawMessage // a map, since names have case
	if err := json.Unmarshal([]byte(text), &document); err != nil {
		return nil, malformed("This policy contains invalid Json: %v", err)
	}
	if err := checkNames(json.NewDecoder(strings.NewReader(text))); err != nil {
		return nil, malformed("%v", err)
	}
	for name, value := range document {
		switch version := string(value); {
		case name == "Id" || name == "Statement":
		case name != "Version":
			return nil, malformed("unknown element %q", name)
		case version != `"2012-10-17"` && version != `"2008-10-17"`:
			return nil, malformed("Version is %s", version)
		}
	}
	raw, err := oneOrMore[map[string]json.RawMessage](document["Statement"])
	if err != nil {
		return nil, malformed("Statement: %v", err)
	}
	p := &keyPolicy{text: text}
	for i, elements := range raw {
		s, err := parseStatement(elements)
		if err != nil {
			return nil, malformed("statement %d: %v", i+1, err)
		}
		p.statements = append(p.statements, s)
	}
	return p, nil
}

func parseStatement(elements map[string]json.RawMessage) (s statement, err error) {
	for _, name := range []string{"Effect", "Principal", "Action", "Resource"} {
		if elements[name] == nil {
			return s, fmt.Errorf("it has no %s", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(elements)) {
		value := elements[name]
		switch name {
		case "Sid":
			var sid string
			err = json.Unmarshal(value, &sid)
		case "Effect":
			s.allow = string(value) == `"Allow"`
			if !s.allow && string(value) != `"Deny"` {
				err = fmt.Errorf("it is %s", value)
			}
		case "Principal":
			s.principals, err = parsePrincipals(value)
		case "Action":
			s.actions, err = parseActions(value)
		case "Resource":
			s.resources, err = oneOrMore[string](value)
		case "Condition":
			s.conditions, err = parseConditions(value)
		default:
			err = errors.New("this element is not emulated")
		}
		if err != nil {
			return s, fmt.Errorf("%s: %w", name, err)
		}
	}
	return s, nil
}

// parsePrincipals reads "*" or {"AWS": …, "Service": …}. No request comes from a service.
func parsePrincipals(value json.RawMessage) ([]string, error) {
	if string(value) == `"*"` {
		return []string{"*"}, nil
	}
	var kinds map[string]json.RawMessage
	if err := json.Unmarshal(value, &kinds); err != nil {
		return nil, err
	}
	var principals []string
	for kind, value := range kinds {
		names, err := oneOrMore[string](value)
		switch {
		case err != nil:
			return nil, err
		case kind == "Service":
		case kind != "AWS":
			return nil, fmt.Errorf("principals of kind %q are not emulated", kind)
		default:
			principals = append(principals, names...)
		}
	}
	for _, name := range principals {
		if name != "*" && !accountID.MatchString(name) && !principalARN.MatchString(name) {
			return nil, fmt.Errorf("Policy contains a statement with one or more invalid principals: %q", name)
		}
	}
	return principals, nil
}

var actionPattern = regexp.MustCompile(`^(?:\*|[a-z0-9-]+:[a-z0-9*?]+)$`)

func parseActions(value json.RawMessage) ([]string, error) {
	actions, err := oneOrMore[string](value)
	for i, action := range actions {
		actions[i] = strings.ToLower(action)
		if !actionPattern.MatchString(actions[i]) {
			return nil, fmt.Errorf("%q is not like kms:Decrypt", action)
		}
	}
	return actions, err
}

// checkNames refuses a name that stands twice in an object: encoding/json would
// forget the first. It reads one value.
func checkNames(d *json.Decoder) error {
	open, err := d.Token()
	if err != nil || open != json.Delim('{') && open != json.Delim('[') {
		return err
	}
	seen := map[json.Token]bool{}
	for d.More() {
		if open == json.Delim('{') {
			name, err := d.Token()
			if err != nil {
				return err
			}
			if seen[name] {
				return fmt.Errorf("%q stands twice in the same place", name)
			}
			seen[name] = true
		}
		if err := checkNames(d); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

// oneOrMore reads a value, or a list of at least one.
func oneOrMore[T any](value json.RawMessage) ([]T, error) {
	if len(value) == 0 || value[0] != '[' {
		var one T
		if len(value) == 0 || string(value) == "null" {
			return nil, errors.New("it is missing")
		}
		err := json.Unmarshal(value, &one)
		return []T{one}, err
	}
	var list []T
	err := json.Unmarshal(value, &list)
	if err == nil && len(list) == 0 {
		err = errors.New("it is empty")
	}
	return list, err
}
