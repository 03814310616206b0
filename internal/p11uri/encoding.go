package p11uri

import (
	"fmt"
	"strings"
)

// The characters that may stand for themselves (RFC 7512, section 2.3): unreserved
// ones, and those reserved ones that mean nothing at that place.
const (
	unreserved = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
	available  = unreserved + ":[]@!$'()*+,="
	pathChars  = available + "&"
	queryChars = available + "/?|"
)

func decode(s, allowed string) (string, error) {
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '%':
			if i+2 >= len(s) || !isHex(s[i+1]) || !isHex(s[i+2]) {
				return "", fmt.Errorf("a %% that two hex digits do not follow, at byte %d of the value", i)
			}
			out = append(out, unhex(s[i+1])<<4|unhex(s[i+2]))
			i += 2
		case strings.IndexByte(allowed, c) >= 0:
			out = append(out, c)
		default:
			return "", fmt.Errorf("a character that must be written %%%02X, at byte %d of the value", c, i)
		}
	}
	return string(out), nil
}

// encode writes a value; all percent-encodes every byte, as is usual for binary identifiers.
func encode(b *strings.Builder, value string, all bool) {
	for i := 0; i < len(value); i++ {
		if c := value[i]; !all && strings.IndexByte(unreserved, c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(b, "%%%02X", c)
		}
	}
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	}
	return c - 'a' + 10
}
