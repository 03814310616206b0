package wildcard

import (
	"strings"
	"testing"
)

func TestPatterns(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true}, {"", "a", false}, {"a", "", false}, {"a", "a", true}, {"*", "", true}, {"**", "abc", true},
		{"a*c", "abc", true}, {"a*c", "ac", true}, {"a*c", "acb", false}, {"a*c", "abcbc", true}, {"*b*", "abc", true},
		{"a?c", "abc", true}, {"a?c", "ac", false}, {"?", "", false}, {"kms:*key*", "kms:generatedatakeypair", true},
		{"*a*b", "aab", true}, {"*a*b*c", "abab", false}, {"ab", "abc", false}, {"[a]", "a", false}, {"a.c", "abc", false},
		{"*", "", true}, {"", "", true}, {"", "a", false}, {"kms:*", "kms:decrypt", true}, {"kms:*key", "kms:getkeypolicy", false},
		{"kms:*key*", "kms:getkeypolicy", true}, {"kms:generate*pair", "kms:generatedatakeypair", true}, {"kms:?ecrypt", "kms:decrypt", true},
		{"kms:?ecrypt", "kms:ecrypt", false}, {"*a*b", "aab", true}, {"*a*b", "aba", false}, {"kms:decrypt", "kms:decrypts", false}, {"a?", "a", false},
		{strings.Repeat("a*", 2000), strings.Repeat("a", 1999), false}, // soon
	} {
		if got := Match(c.pattern, c.s); got != c.want {
			t.Errorf("%.20q and %.20q: %t", c.pattern, c.s, got)
		}
	}
}
