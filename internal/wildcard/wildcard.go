// Package wildcard compares names with patterns as AWS's policies have them.
package wildcard

import "strings"

// Match compares s with a pattern, in which * stands for any text and ? for one byte, in a time that is at most the product
// of the lengths.
func Match(pattern, s string) bool {
	p, i := 0, 0
	star, from := -1, 0 // the last * so far, and where what follows it was tried
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
