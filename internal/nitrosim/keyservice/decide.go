package keyservice

import (
	"slices"
	"strings"
)

// decision is what a policy says about a request.
type decision int

const (
	noStatement decision = iota // no statement allows it, which denies it
	allowed
	denied // by a statement
)

// circumstances are what a policy decides by.
type circumstances struct {
	who      Principal
	action   string            // "kms:Decrypt"
	resource string            // the key's ARN
	values   map[string]string // by condition key, in lower case
}

// decide evaluates a policy: a Deny wins over every Allow.
func (p *keyPolicy) decide(c circumstances) decision {
	d := noStatement
	for _, s := range p.statements {
		switch {
		case !s.applies(c):
		case !s.allow:
			return denied
		default:
			d = allowed
		}
	}
	return d
}

func (s statement) applies(c circumstances) bool {
	action := strings.ToLower(c.action)
	return c.who.isOneOf(s.principals) &&
		slices.ContainsFunc(s.actions, func(pattern string) bool { return matches(pattern, action) }) &&
		slices.ContainsFunc(s.resources, func(pattern string) bool { return matches(pattern, c.resource) }) &&
		!slices.ContainsFunc(s.conditions, func(cond condition) bool {
			have, present := c.values[cond.key]
			return !cond.holds(have, present, cond.values)
		})
}

// matches compares with a pattern of * and ?, going back to the last * only.
func matches(pattern, s string) bool {
	p, i, star, from := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0:
			from++
			p, i = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
