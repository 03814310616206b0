package place

import (
	"fmt"
	"strconv"
	"strings"
)

// TOML finds the places of a text's values. What it refuses no TOML parser should be given: values nested deeper than 100, places of
// more than 2 MiB together, and where it loses its way, as in a text that is not TOML. What it accepts need not be TOML yet. The lines
// are known as far as the text was read, and the error is about the line of the whole text's place, "".
//
// It takes time in proportion to the text and its places. A parser keeps positions by name alone, which is not enough where tables repeat.
func TOML(text string) (Lines, error) {
	s := &scanner{rest: strings.TrimPrefix(text, "\ufeff"), line: 1, marker: marker{lines: Lines{}}}
	arrays := make(map[string]int) // elements so far, by place
	current := ""                  // the table that statements belong to
	for s.blank(); s.rest != ""; s.blank() {
		line := s.line
		switch {
		case s.take("[["):
			names := s.key()
			last := len(names) - 1
			array := s.member(s.header(names[:last], arrays, line), names[last], line)
			current = Element(array, arrays[array])
			arrays[array]++
			s.mark(current, line)
			s.expect("]]")
		case s.take("["):
			current = s.header(s.key(), arrays, line)
			s.expect("]")
		default:
			s.value(s.statement(current, line), 0)
		}
		s.endOfLine()
	}
	if s.err != nil {
		s.lines[""] = s.line
	}
	return s.lines, s.err
}

// statement reads a statement's key and what separates it from the value, and gives its place.
func (s *scanner) statement(table string, line int) string {
	for _, name := range s.key() {
		table = s.member(table, name, line)
	}
	s.expect("=")
	return table
}

// member marks a table's member and gives its place.
func (s *scanner) member(table, name string, line int) string {
	if s.err != nil {
		return ""
	}
	place := Join(table, name)
	s.mark(place, line)
	return place
}

// header marks the tables of a header's names and gives the last one's place. An array stands for its last element.
func (s *scanner) header(names []string, arrays map[string]int, line int) string {
	place := ""
	for _, name := range names {
		place = s.member(place, name, line)
		if n := arrays[place]; n > 0 {
			place = Element(place, n-1)
			s.mark(place, line)
		}
	}
	return place
}

// scanner walks over TOML text, and after an error no further.
type scanner struct {
	rest string
	line int
	marker
}

func (s *scanner) mark(place string, line int) {
	if s.marker.mark(place, line); s.err != nil {
		s.rest = ""
	}
}

// fail ends the walk.
func (s *scanner) fail(format string, arguments ...any) {
	if s.err == nil {
		s.err = fmt.Errorf(format, arguments...)
	}
	s.rest = ""
}

// skip goes n bytes on, counting lines.
func (s *scanner) skip(n int) {
	n = min(n, len(s.rest))
	s.line += strings.Count(s.rest[:n], "\n")
	s.rest = s.rest[n:]
}

// blank skips white space, empty lines and comments.
func (s *scanner) blank() {
	for {
		s.skip(len(s.rest) - len(strings.TrimLeft(s.rest, " \t\r\n")))
		if !strings.HasPrefix(s.rest, "#") {
			return
		}
		s.comment()
	}
}

func (s *scanner) comment() {
	if end := strings.IndexByte(s.rest, '\n'); end >= 0 {
		s.skip(end)
	} else {
		s.skip(len(s.rest))
	}
}

// take skips text if it is next.
func (s *scanner) take(text string) bool {
	next := strings.HasPrefix(s.rest, text)
	if next {
		s.skip(len(text))
	}
	return next
}

// expect skips text that must be next in the line.
func (s *scanner) expect(text string) {
	s.rest = strings.TrimLeft(s.rest, " \t")
	if !s.take(text) {
		s.lost("%q", text)
	}
}

// lost fails for want of something.
func (s *scanner) lost(format string, arguments ...any) {
	at := "at the end"
	if next, _, _ := strings.Cut(s.rest, "\n"); s.rest != "" {
		at = fmt.Sprintf("before %.20q", next)
	}
	s.fail("it is not TOML: %s is missing %s", fmt.Sprintf(format, arguments...), at)
}

// endOfLine goes to a line's end, before which nothing but a comment may stand.
func (s *scanner) endOfLine() {
	s.rest = strings.TrimLeft(s.rest, " \t\r")
	if s.rest != "" && s.rest[0] != '\n' && s.rest[0] != '#' {
		s.lost("the line's end")
	}
}

// key reads a dotted key; it has at least one name.
func (s *scanner) key() []string {
	var names []string
	for {
		s.rest = strings.TrimLeft(s.rest, " \t")
		names = append(names, s.name())
		s.rest = strings.TrimLeft(s.rest, " \t")
		if !s.take(".") {
			return names
		}
	}
}

func (s *scanner) name() string {
	before := s.rest
	if before == "" || before[0] != '"' && before[0] != '\'' {
		s.rest = strings.TrimLeftFunc(before, isBare)
		name := before[:len(before)-len(s.rest)]
		if name == "" {
			s.lost("a name")
		}
		return name
	}
	s.quoted()
	raw := before[:len(before)-len(s.rest)]
	if raw[0] == '\'' {
		return strings.Trim(raw, "'")
	}
	if name, err := strconv.Unquote(raw); err == nil {
		return name
	}
	return raw
}

// value skips a value, and marks what is in it.
func (s *scanner) value(place string, depth int) {
	s.blank()
	switch {
	case s.rest == "":
		s.lost("a value")
	case depth > maxNesting:
		s.fail("values nest deeper than %d", maxNesting)
	case s.take("["):
		for i := 0; s.more("]", i > 0); i++ {
			at := Element(place, i)
			s.mark(at, s.line)
			s.value(at, depth+1)
		}
	case s.take("{"):
		for after := false; s.more("}", after); after = true {
			s.value(s.statement(place, s.line), depth+1)
		}
	case s.rest[0] == '"' || s.rest[0] == '\'':
		s.quoted()
	default:
		s.bare()
	}
}

// bare skips a number, a date or a word: at least one byte.
func (s *scanner) bare() {
	end := strings.IndexAny(s.rest, ",]}#\n")
	if end < 0 {
		end = len(s.rest)
	}
	s.skip(max(1, end))
}

// more goes to an array's or inline table's next element, or past its end.
func (s *scanner) more(end string, after bool) bool {
	s.blank()
	if s.take(end) {
		return false
	}
	if after {
		if !s.take(",") {
			s.lost("a comma or %q", end)
			return false
		}
		if s.blank(); s.take(end) {
			return false
		}
	}
	return true
}

// quoted skips a string of any of TOML's four kinds.
func (s *scanner) quoted() {
	quote := s.rest[:1]
	if strings.HasPrefix(s.rest, strings.Repeat(quote, 3)) {
		quote = strings.Repeat(quote, 3)
	}
	i := len(quote)
	for ; i < len(s.rest) && !strings.HasPrefix(s.rest[i:], quote); i++ {
		if s.rest[i] == '\\' && quote[0] == '"' {
			i++
		} else if s.rest[i] == '\n' && len(quote) == 1 {
			s.lost("the end of a string")
			return
		}
	}
	if i += len(quote); i > len(s.rest) {
		s.lost("the end of a string")
		return
	}
	// Up to two quotes may stand before the three that end a string.
	for n := 0; n < 2 && len(quote) == 3 && i < len(s.rest) && s.rest[i] == quote[0]; n++ {
		i++
	}
	s.skip(i)
}
