package config

import (
	"cmp"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tpm2-p11/tpm2-p11/internal/place"
)

// document is the text that tables and values are from.
type document struct {
	name  string
	dir   string // of relative paths, absolute
	lines place.Lines
}

func (d *document) errorf(line int, format string, arguments ...any) error {
	return &Error{Path: d.name, Line: line, Err: fmt.Errorf(format, arguments...)}
}

func (d *document) resolve(path string) string {
	if !filepath.IsAbs(path) {
		path = filepath.Join(d.dir, path)
	}
	return filepath.Clean(path)
}

// table is a TOML table and its place in the document.
type table struct {
	doc     *document
	place   string
	members map[string]any
}

// value is a member of a table.
type value struct {
	doc     *document
	place   string
	name    string
	content any
}

// fields says what reads each member that a table may have.
type fields map[string]func(value) error

// read hands each member to its field, in the order of their lines, and refuses members without one.
func (t table) read(known fields) error {
	names := slices.Collect(maps.Keys(t.members))
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(t.doc.lines.Of(place.Join(t.place, a)), t.doc.lines.Of(place.Join(t.place, b))), cmp.Compare(a, b))
	})
	for _, name := range names {
		v, _ := t.member(name)
		read, ok := known[name]
		if !ok {
			return v.unknown(slices.Sorted(maps.Keys(known)))
		}
		if err := read(v); err != nil {
			return err
		}
	}
	return nil
}

func (t table) member(name string) (value, bool) {
	content, ok := t.members[name]
	return value{doc: t.doc, place: place.Join(t.place, name), name: name, content: content}, ok
}

func (t table) line() int { return t.doc.lines.Of(t.place) }

func (t table) errorf(format string, arguments ...any) error {
	return t.doc.errorf(t.line(), format, arguments...)
}

func (v value) errorf(format string, arguments ...any) error {
	return v.doc.errorf(v.doc.lines.Of(v.place), format, arguments...)
}

func (v value) unknown(known []string) error {
	if near := nearest(v.name, known); near != "" {
		return v.errorf("unknown key %q: did you mean %q?", v.name, near)
	}
	return v.errorf("unknown key %q (known here: %s)", v.name, strings.Join(known, ", "))
}

// text reads a string that is not empty.
func (v value) text(to *string) error {
	s, ok := v.content.(string)
	if !ok {
		return v.errorf("%s is a string, not %s", v.name, describe(v.content))
	}
	if s == "" {
		return v.errorf("%s is empty", v.name)
	}
	*to = s
	return nil
}

// path reads a file's name and makes it absolute.
func (v value) path(to *string) error {
	if err := v.text(to); err != nil {
		return err
	}
	*to = v.doc.resolve(*to)
	return nil
}

// paths reads a list of files' names and makes them absolute; it may be empty.
func (v value) paths(to *[]string) error {
	if list, ok := v.content.([]any); ok && len(list) == 0 {
		*to = nil
		return nil
	}
	var names []string
	if err := v.texts(&names); err != nil {
		return err
	}
	*to = names[:0]
	for _, name := range names {
		*to = append(*to, v.doc.resolve(name))
	}
	return nil
}

func (v value) oneOf(to *string, allowed ...string) error {
	var s string
	if err := v.text(&s); err != nil {
		return err
	}
	if !slices.Contains(allowed, s) {
		quoted := make([]string, len(allowed))
		for i, a := range allowed {
			quoted[i] = strconv.Quote(a)
		}
		last := len(quoted) - 1
		return v.errorf("%s is %s or %s, not %q", v.name, strings.Join(quoted[:last], ", "), quoted[last], s)
	}
	*to = s
	return nil
}

// texts reads a list of strings, none of them empty and each one of those allowed, if any are named.
func (v value) texts(to *[]string, allowed ...string) error {
	list, ok := v.content.([]any)
	if !ok {
		return v.errorf("%s is a list of strings, not %s", v.name, describe(v.content))
	}
	if len(list) == 0 {
		return v.errorf("%s is empty", v.name)
	}
	for i, content := range list {
		element := value{doc: v.doc, place: place.Element(v.place, i), name: fmt.Sprintf("%s[%d]", v.name, i), content: content}
		var s string
		read := func() error { return element.text(&s) }
		if len(allowed) > 0 {
			read = func() error { return element.oneOf(&s, allowed...) }
		}
		if err := read(); err != nil {
			return err
		}
		*to = append(*to, s)
	}
	return nil
}

// boolean reads true or false.
func (v value) boolean(to *bool) error {
	b, ok := v.content.(bool)
	if !ok {
		return v.errorf("%s is true or false, not %s", v.name, describe(v.content))
	}
	*to = b
	return nil
}

// number reads a whole number from least to most.
func (v value) number(to *int, least, most int) error {
	n, ok := v.content.(int64)
	if !ok {
		return v.errorf("%s is a whole number, not %s", v.name, describe(v.content))
	}
	if n < int64(least) || n > int64(most) {
		return v.errorf("%s is from %d to %d, not %d", v.name, least, most, n)
	}
	*to = int(n)
	return nil
}

// duration reads a time like "30s" that is more than none and at most most.
func (v value) duration(to *time.Duration, most time.Duration) error {
	var s string
	if err := v.text(&s); err != nil {
		return err
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return v.errorf(`%s is a time like "30s" or "5m", not %q`, v.name, s)
	}
	if d <= 0 || d > most {
		return v.errorf("%s is more than 0 and at most %s, not %s", v.name, most, s)
	}
	*to = d
	return nil
}

// table reads one table.
func (v value) table(header string) (table, error) {
	members, ok := v.content.(map[string]any)
	if !ok {
		if _, several := v.content.([]map[string]any); several {
			return table{}, v.errorf("%s is written [%s], in single brackets", v.name, header)
		}
		return table{}, v.errorf("%s is a table [%s], not %s", v.name, header, describe(v.content))
	}
	return table{doc: v.doc, place: v.place, members: members}, nil
}

// tables reads an array of tables, in either of TOML's spellings.
func (v value) tables(header string) ([]table, error) {
	var members []map[string]any
	switch content := v.content.(type) {
	case []map[string]any:
		members = content
	case []any:
		for i, c := range content {
			m, ok := c.(map[string]any)
			if !ok {
				return nil, v.errorf("%s[%d] is a table, not %s", v.name, i, describe(c))
			}
			members = append(members, m)
		}
	case map[string]any:
		return nil, v.errorf("%s is written [[%s]], in double brackets", v.name, header)
	default:
		return nil, v.errorf("%s is a table [[%s]], not %s", v.name, header, describe(content))
	}
	tables := make([]table, len(members))
	for i, m := range members {
		tables[i] = table{doc: v.doc, place: place.Element(v.place, i), members: m}
	}
	return tables, nil
}

// describe names what a decoded value is.
func describe(content any) string {
	switch c := content.(type) {
	case string:
		return "the string " + strconv.Quote(c)
	case bool, int64, float64:
		return fmt.Sprint(c)
	case map[string]any:
		return "a table"
	case []any, []map[string]any:
		return "a list"
	}
	return "a date"
}
