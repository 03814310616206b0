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

// maxNesting bounds how deep values nest.
const maxNesting = 100

// maxPlaces bounds the places of a text, in bytes, each as often as it is named. A decoder of TOML keeps the place of each table and
// value: of a table in a table in a table in one line, or of many in one with a long name, gigabytes from a text of some kilobytes.
const maxPlaces = 2 << 20

// marker collects the lines of a text's places.
type marker struct {
	lines Lines
	size  int   // of the places so far
	err   error // there were too many
}

// mark keeps the first line that a place is seen on.
func (m *marker) mark(place string, line int) {
	if m.size += len(place); m.size > maxPlaces && m.err == nil {
		m.err = fmt.Errorf("the names of its tables and values, each with those around it, have more than %d bytes together", maxPlaces)
	}
	if _, seen := m.lines[place]; !seen && m.err == nil {
		m.lines[place] = line
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
