package config

import (
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
)

// lines tells where the statements of a TOML text are, by place: "token[1].key[0].handle". The parser keeps positions by
// name alone, which is not enough where tables repeat.
type lines map[string]int

// of is the line of a place or, for what is inside a value, of the statement around it; 0 for the document itself.
func (l lines) of(place string) int {
	for place != "" {
		if line, ok := l[place]; ok {
			return line
		}
		place = place[:max(0, strings.LastIndexAny(place, ".["))]
	}
	return 0
}

// join is the place of a table's member.
func join(table, name string) string {
	if name == "" || strings.TrimLeftFunc(name, isBare) != "" {
		name = strconv.Quote(name)
	}
	if table == "" {
		return name
	}
	return table + "." + name
}

// element is the place of an array's element.
func element(array string, i int) string { return array + "[" + strconv.Itoa(i) + "]" }

func isBare(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}

// statementLines scans a text that a TOML parser has accepted; of any other text the answer is of no use, but it ends.
func statementLines(text string) lines {
	s := &scanner{rest: text, line: 1}
	found := lines{}
	arrays := make(map[string]int) // elements so far, by place
	current := ""                  // the table that statements belong to
	for s.blank(); s.rest != ""; s.blank() {
		line := s.line
		switch {
		case strings.HasPrefix(s.rest, "[["):
			s.skip(2)
			names := s.key()
			last := len(names) - 1
			array := join(found.header(names[:last], arrays, line), names[last])
			current = element(array, arrays[array])
			arrays[array]++
			found.mark(array, line)
			found.mark(current, line)
		case strings.HasPrefix(s.rest, "["):
			s.skip(1)
			current = found.header(s.key(), arrays, line)
		default:
			place := current
			for _, name := range s.key() {
				place = join(place, name)
				found.mark(place, line)
			}
		}
		s.value()
	}
	return found
}

// header marks the tables of a header's names and gives the last one's place. An array stands for its last element.
func (l lines) header(names []string, arrays map[string]int, line int) string {
	place := ""
	for _, name := range names {
		place = join(place, name)
		if n := arrays[place]; n > 0 {
			place = element(place, n-1)
		}
		l.mark(place, line)
	}
	return place
}

// mark keeps the first line that a place is seen on.
func (l lines) mark(place string, line int) {
	if _, seen := l[place]; !seen {
		l[place] = line
	}
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
	var decoded map[string]any
	if _, err := toml.Decode(raw+"=0", &decoded); err == nil {
		for name := range decoded {
			return name
		}
	}
	return raw
}

// value skips to the end of a statement: the end of the line outside brackets and strings.
func (s *scanner) value() {
	depth := 0
	for s.rest != "" {
		switch s.rest[0] {
		case '"', '\'':
			s.quoted()
			continue
		case '#':
			s.comment()
			continue
		case '[', '{':
			depth++
		case ']', '}':
			depth--
		case '\n':
			if depth <= 0 {
				return
			}
		}
		s.skip(1)
	}
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
