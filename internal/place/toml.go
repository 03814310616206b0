package place

import (
	"strconv"
	"strings"
)

// TOML scans a text that a TOML parser has accepted; of any other text the answer is of no use, but it ends. The parser
// keeps positions by name alone, which is not enough where tables repeat.
func TOML(text string) Lines {
	s := &scanner{rest: text, line: 1}
	found := Lines{}
	arrays := make(map[string]int) // elements so far, by place
	current := ""                  // the table that statements belong to
	for s.blank(); s.rest != ""; s.blank() {
		line := s.line
		switch {
		case strings.HasPrefix(s.rest, "[["):
			s.skip(2)
			names := s.key()
			last := len(names) - 1
			array := Join(found.header(names[:last], arrays, line), names[last])
			current = Element(array, arrays[array])
			arrays[array]++
			found.mark(array, line)
			found.mark(current, line)
		case strings.HasPrefix(s.rest, "["):
			s.skip(1)
			current = found.header(s.key(), arrays, line)
		default:
			s.value(found, s.statement(found, current, line), 0)
			continue
		}
		s.skip(strings.IndexByte(s.rest+"]", ']'))
		s.skip(len(s.rest) - len(strings.TrimLeft(s.rest, "]")))
	}
	return found
}

// statement reads a statement's key and what separates it from the value, and gives its place.
func (s *scanner) statement(found Lines, table string, line int) string {
	for _, name := range s.key() {
		table = Join(table, name)
		found.mark(table, line)
	}
	s.blank()
	if strings.HasPrefix(s.rest, "=") {
		s.skip(1)
	}
	return table
}

// header marks the tables of a header's names and gives the last one's place. An array stands for its last element.
func (l Lines) header(names []string, arrays map[string]int, line int) string {
	place := ""
	for _, name := range names {
		place = Join(place, name)
		if n := arrays[place]; n > 0 {
			place = Element(place, n-1)
		}
		l.mark(place, line)
	}
	return place
}

// scanner walks over TOML text.
type scanner struct {
	rest string
	line int
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

// key reads a dotted key; it has at least one name.
func (s *scanner) key() []string {
	var names []string
	for {
		s.rest = strings.TrimLeft(s.rest, " \t")
		names = append(names, s.name())
		s.rest = strings.TrimLeft(s.rest, " \t")
		if !strings.HasPrefix(s.rest, ".") {
			return names
		}
		s.skip(1)
	}
}

func (s *scanner) name() string {
	before := s.rest
	if before == "" || before[0] != '"' && before[0] != '\'' {
		s.rest = strings.TrimLeftFunc(before, isBare)
		return before[:len(before)-len(s.rest)]
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

// maxNesting bounds how deep values are looked into.
const maxNesting = 100

// value skips a value, and marks what is in it.
func (s *scanner) value(found Lines, place string, depth int) {
	s.blank()
	if s.rest == "" {
		return
	}
	switch open := s.rest[0]; {
	case depth < maxNesting && open == '[':
		s.skip(1)
		for i := 0; s.more(']'); i++ {
			at := Element(place, i)
			found.mark(at, s.line)
			s.value(found, at, depth+1)
		}
	case depth < maxNesting && open == '{':
		s.skip(1)
		for s.more('}') {
			s.value(found, s.statement(found, place, s.line), depth+1)
		}
	case open == '"' || open == '\'':
		s.quoted()
	default:
		// At least one byte, so that a text that is not TOML ends too.
		s.skip(max(1, strings.IndexAny(s.rest+"\n", ",]}#\n")))
	}
}

// more goes to an array's or inline table's next element, or past its end.
func (s *scanner) more(end byte) bool {
	for s.blank(); strings.HasPrefix(s.rest, ","); s.blank() {
		s.skip(1)
	}
	if s.rest == "" {
		return false
	}
	if s.rest[0] == end {
		s.skip(1)
		return false
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
	for i < len(s.rest) && !strings.HasPrefix(s.rest[i:], quote) {
		if s.rest[i] == '\\' && quote[0] == '"' {
			i++
		}
		i++
	}
	i += len(quote)
	// Up to two quotes may stand before the three that end a string.
	for n := 0; n < 2 && len(quote) == 3 && i < len(s.rest) && s.rest[i] == quote[0]; n++ {
		i++
	}
	s.skip(i)
}
