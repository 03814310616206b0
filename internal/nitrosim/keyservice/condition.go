package keyservice

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// operators are those of conditions. Without the value in the request only
// Null and the negative ones hold.
var operators = map[string]func(have string, present bool, values []string) bool{
	"StringEquals": func(have string, present bool, values []string) bool {
		return present && slices.Contains(values, have)
	},
	"StringEqualsIgnoreCase": func(have string, present bool, values []string) bool {
		return present && containsFold(values, have)
	},
	"StringNotEquals": func(have string, present bool, values []string) bool {
		return !present || !slices.Contains(values, have)
	},
	"StringNotEqualsIgnoreCase": func(have string, present bool, values []string) bool {
		return !present || !containsFold(values, have)
	},
	"Null": func(_ string, present bool, values []string) bool {
		return slices.Contains(values, fmt.Sprint(!present))
	},
}

func containsFold(values []string, have string) bool {
	return slices.ContainsFunc(values, func(v string) bool { return strings.EqualFold(v, have) })
}

// Condition keys, in lower case.
const (
	keyAttestation = "kms:recipientattestation:"
	keyPCR         = keyAttestation + "nitrotpmpcr"
	keyContext     = "kms:encryptioncontext:"
)

// conditionKey are the keys that may stand in a policy. Those of Nitro Enclaves
// are never in a request.
var conditionKey = regexp.MustCompile(`^(?:` + keyPCR + `(?:\d|1\d|2[0-3])|` + keyAttestation + `(?:imagesha384|pcr(?:\d|[12]\d|3[01]))|` + keyContext + `.+)$`)

func parseConditions(value json.RawMessage) ([]condition, error) {
	var blocks map[string]map[string]json.RawMessage
	if err := json.Unmarshal(value, &blocks); err != nil {
		return nil, err
	}
	var all []condition
	for _, operator := range slices.Sorted(maps.Keys(blocks)) {
		holds, known := operators[operator]
		if !known {
			return nil, fmt.Errorf("operator %q is not emulated", operator)
		}
		for _, key := range slices.Sorted(maps.Keys(blocks[operator])) {
			values, err := oneOrMore[any](blocks[operator][key])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
			c := condition{key: strings.ToLower(key), holds: holds}
			if !conditionKey.MatchString(c.key) {
				return nil, fmt.Errorf("condition key %q is not emulated", key)
			}
			for _, v := range values {
				text := fmt.Sprint(v) // true and "true" are the same
				if operator == "Null" && text != "true" && text != "false" {
					return nil, fmt.Errorf("%s: Null is true or false, not %q", key, text)
				}
				c.values = append(c.values, text)
			}
			all = append(all, c)
		}
	}
	return all, nil
}
