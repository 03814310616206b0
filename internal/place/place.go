// Package place tells on which lines of a TOML or JSON text its values stand,
// so that errors about values that a decoder gave can name the line.
package place

import (
	"fmt"
	"strconv"
	"strings"
)

// Lines are the lines, counted from 1, of the places of a text: "token[1].key[0].handle".
type Lines map[string]int

// Of is the line of a place or, where that is not known, of what is around it;
// 0 for the document itself.
func (l Lines) Of(place string) int {
	for place != "" {
		if line, ok := l[place]; ok {
			return line
		}
		place = place[:max(0, strings.LastIndexAny(place, ".["))]
	}
	return l[""]
}

// mark keeps the first line that a place is seen on.
func (l Lines) mark(place string, line int) {
	if _, seen := l[place]; !seen {
		l[place] = line
	}
}

// Join is the place of a table's member.
func Join(table, name string) string {
	if name == "" || strings.TrimLeftFunc(name, isBare) != "" {
		name = strconv.Quote(name)
	}
	if table == "" {
		return name
	}
	return table + "." + name
}

// Element is the place of an array's element.
func Element(array string, i int) string { return array + "[" + strconv.Itoa(i) + "]" }

func isBare(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}

// Error is what is wrong with a file, and where.
type Error struct {
	Path string // the file
	Line int    // counted from 1; 0 when the whole file is meant
	Err  error
}

// Error: `tpm2-p11.conf:12: unknown key "stroe": did you mean "store"?`.
func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %v", e.Path, e.Err)
	}
	return fmt.Sprintf("%s:%d: %v", e.Path, e.Line, e.Err)
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }
