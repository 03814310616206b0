package keyservice

import (
	"slices"
	"strings"

	"github.com/tpm2-p11/tpm2-p11/internal/wildcard"
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
		slices.ContainsFunc(s.actions, func(pattern string) bool { return wildcard.Match(pattern, action) }) &&
		slices.ContainsFunc(s.resources, func(pattern string) bool { return wildcard.Match(pattern, c.resource) }) &&
		!slices.ContainsFunc(s.conditions, func(cond condition) bool {
			have, present := c.values[cond.key]
			return !cond.holds(have, present, cond.values)
		})
}
