package place_test

import (
	"fmt"
	"reflect"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"github.com/tpm2-p11/tpm2-p11/internal/place"
)

// Every value's line is known, whatever stands between values.
func TestLinesOfTOML(t *testing.T) {
	t.Parallel()
	text := strings.Join([]string{
		1:  `a = """ [[x]] \""" """"" # "`,
		2:  `b.c = [ "]", ']', # ]`,
		3:  `  { d = '''`,
		4:  `b.e = 1''' } ]`,
		5:  `"b".'f' = 1`,
		6:  "[ t . \"u v\" ]\r",
		7:  `g = 1979-05-27 07:32:00`,
		8:  `[[k]]`,
		9:  `h = "\\" # \`,
		10: `[[ k ]] # again`,
		11: `h = { x = "}", y = [ ] }`,
		12: `[[k.l]]`,
		13: `h = ''`,
		14: `[k.m]`,
		15: `h = 1`,
	}, "\n")
	got, err := place.TOML(text)
	want := place.Lines{
		"a": 2, "b": 3, "b.c": 3, "b.c[0]": 3, "b.c[1]": 3, "b.c[2]": 4, "b.c[2].d": 4, "b.f": 6, "t": 7, `t."u v"`: 7, `t."u v".g`: 8,
		"k": 9, "k[0]": 9, "k[0].h": 10, "k[1]": 11, "k[1].h": 12, "k[1].h.x": 12, "k[1].h.y": 12, "k[1].l": 13, "k[1].l[0]": 13, "k[1].l[0].h": 14, "k[1].m": 15, "k[1].m.h": 16,
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf(" got %v, %v\nwant %v", got, err, want)
	}
	if n := got.Of("k[1].h.x[3]"); n != 12 {
		t.Errorf("inside a value: line %d", n)
	}
	if n := got.Of("nowhere"); n != 0 {
		t.Errorf("nowhere: line %d", n)
	}
}

// Lists and tables may go over many lines, and so may a policy.
func TestLinesWithinValues(t *testing.T) {
	t.Parallel()
	text := `all = [
  { pin = true }, # one
  [ 1,
    2 ],
  { "x y".z = { q = [
      1 ] } },
]`
	if _, err := toml.Decode(text, new(map[string]any)); err != nil {
		t.Fatal(err)
	}
	got, err := place.TOML(text)
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[string]int{
		"all": 1, "all[0].pin": 2, "all[1]": 3, "all[1][0]": 3, "all[1][1]": 4, `all[2]."x y".z.q`: 5, `all[2]."x y".z.q[0]`: 6, "all[3]": 1,
	} {
		if n := got.Of(at); n != want {
			t.Errorf("%s is on line %d, want %d", at, n, want)
		}
	}
}

func TestLinesOfJSON(t *testing.T) {
	t.Parallel()
	_, got, err := place.DecodeJSON([]byte("{\n\"all\": [\n {\"pin\":\n true},\n {\"x y\": [1,\n2]}]\n}"))
	want := place.Lines{"all": 2, "all[0]": 3, "all[0].pin": 3, "all[1]": 5, `all[1]."x y"`: 5, `all[1]."x y"[0]`: 5, `all[1]."x y"[1]`: 6}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf(" got %v, %v\nwant %v", got, err, want)
	}
	for text, want := range map[string]string{
		"{\n\"a\":1,\n\"a\":2}":  "3: member \"a\" is there twice",
		"{\"a\":\n1\n":           "unexpected EOF",
		"{}\n{}":                 "2: text follows the value",
		strings.Repeat("[", 200): "1: values nest deeper than 100",
	} {
		_, lines, err := place.DecodeJSON([]byte(text))
		if err == nil || !strings.HasSuffix(fmt.Sprintf("%d: %v", lines.Of("x"), err), want) {
			t.Errorf("%q: line %d: %v, want %s", text, lines.Of("x"), err, want)
		}
	}
}

// A few kilobytes in which tables nest would take a parser gigabytes, or its stack; neither of the two kinds of text gets that far.
func TestTextsThatWouldExhaustAParser(t *testing.T) {
	t.Parallel()
	const tooMuch = "have more than 2097152 bytes together"
	members := func(format string) string {
		var b strings.Builder
		for i := range 100 {
			fmt.Fprintf(&b, format, i)
		}
		return b.String()
	}
	many, long := strings.Repeat("a.", 20000), strings.Repeat("x", 1<<19)
	for name, c := range map[string]struct {
		text string
		line int
		want string
	}{
		"a key of many parts":       {"pin = true\n" + many + "a = 1", 2, tooMuch},
		"a header of many parts":    {"[" + many + "a]", 1, tooMuch},
		"behind a byte order mark":  {"\ufeff[" + many + "a]", 1, tooMuch},
		"behind an odd string":      {`a = """\\""""""` + "\n[" + many + "a]", 1, "the line's end is missing before \"\\\"\""},
		"in a list behind one":      {`a = ["""\\"""""", {` + many + "a = 1}]", 1, "a comma or \"]\" is missing before \"\\\", {a.a.a.a.a.a.a.a.\""},
		"headers of many parts":     {strings.Repeat("[["+many[:1000]+"a]]\n", 100), 9, tooMuch},
		"keys in a long table":      {"[" + long + "]\n" + members("a%d = 1\n"), 4, tooMuch},
		"keys in a long inline one": {long + " = {" + members("a%d = 1, ") + "}", 1, tooMuch},
		"arrays in arrays":          {"a = " + strings.Repeat("[", 20000), 1, "values nest deeper than 100"},
		"tables in tables":          {"a = " + strings.Repeat("{a = ", 20000), 1, "values nest deeper than 100"},
		"JSON in a long member":     {`{"` + long + `": {"a": 1` + members(`, "a%d": 1`) + "}}", 1, tooMuch},
	} {
		lines, err := place.TOML(c.text)
		if strings.HasPrefix(c.text, "{") {
			_, lines, err = place.DecodeJSON([]byte(c.text))
		}
		if err == nil || lines.Of("") != c.line || !strings.HasSuffix(err.Error(), c.want) {
			t.Errorf("%s: line %d: %v, want line %d: %s", name, lines.Of(""), err, c.line, c.want)
		}
	}
}

// What reading allocates grows with the text, not with its square: no value makes a copy of what follows it.
func TestALongListIsReadInOneGo(t *testing.T) { // alone: it counts what all of the process allocates
	text := "a = [" + strings.Repeat("1,", 50000) + "]"
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	lines, err := place.TOML(text)
	runtime.ReadMemStats(&after)
	if err != nil || lines.Of("a[49999]") != 1 {
		t.Fatalf("line %d, %v", lines.Of("a[49999]"), err)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 50<<20 {
		t.Errorf("%d bytes for a text of %d", n, len(text))
	}
}

// Where the scanner loses its way, what follows would be another text to a parser than to it.
func TestTextsThatAreNotTOML(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"a":                     `1: it is not TOML: "=" is missing at the end`,
		"\n= 1":                 `2: it is not TOML: a name is missing before "= 1"`,
		"a.. = 1":               `1: it is not TOML: a name is missing before ". = 1"`,
		"a = ":                  "1: it is not TOML: a value is missing at the end",
		"a = 1\nb = \"x\nc = 1": `2: it is not TOML: the end of a string is missing before "\"x"`,
		"a = '''\nb":            `1: it is not TOML: the end of a string is missing before "'''"`,
		"a = \"x\" b = 1":       `1: it is not TOML: the line's end is missing before "b = 1"`,
		"[a] b = 1":             `1: it is not TOML: the line's end is missing before "b = 1"`,
		"[[a]":                  `1: it is not TOML: "]]" is missing before "]"`,
		"[a":                    `1: it is not TOML: "]" is missing at the end`,
		"a = [1":                `1: it is not TOML: a comma or "]" is missing at the end`,
		"a = [\"x\"\n\"y\"]":    `2: it is not TOML: a comma or "]" is missing before "\"y\"]"`,
		"a = {b = 'x' c = 1}":   `1: it is not TOML: a comma or "}" is missing before "c = 1}"`,
		"a = {":                 `1: it is not TOML: a name is missing at the end`,
	} {
		if lines, err := place.TOML(text); err == nil || fmt.Sprintf("%d: %v", lines.Of(""), err) != want {
			t.Errorf("%q: %d: %v, want %s", text, lines.Of(""), err, want)
		}
	}
}

// Whatever the text is, the scanners end; of a text that they accept they saw each table and value that a parser finds.
func FuzzLines(f *testing.F) {
	for _, s := range []string{
		"a = [{b=1},[[", "[[a]]\nb={c", "{\"a\":[1,", "x", "={}]", "[a\n]b", "\ufeffa = '''''x'''''\n\"b c\".d = [1, # ]\n{e.f = \"\\\\\"}]", "[[a.b]]\n[a.b.c]\nd = 1\r\n",
	} {
		f.Add(s)
	}
	element := regexp.MustCompile(`\[\d+\]`)
	f.Fuzz(func(t *testing.T, s string) {
		place.DecodeJSON([]byte(s))
		lines, err := place.TOML(s)
		if err != nil {
			return
		}
		meta, err := toml.Decode(s, new(map[string]any))
		if err != nil {
			return
		}
		seen := make(map[string]bool)
		for at := range lines {
			seen[element.ReplaceAllString(at, "")] = true
		}
		for _, key := range meta.Keys() {
			at := ""
			for _, name := range key {
				at = place.Join(at, name)
			}
			if !seen[element.ReplaceAllString(at, "")] {
				t.Errorf("%q: %s was not seen among %v", s, at, lines)
			}
		}
	})
}
