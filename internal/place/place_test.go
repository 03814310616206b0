package place_test

import (
	"fmt"
	"reflect"
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
	got := place.TOML(text)
	want := place.Lines{
		"a": 2, "b": 3, "b.c": 3, "b.c[0]": 3, "b.c[1]": 3, "b.c[2]": 4, "b.c[2].d": 4, "b.f": 6, "t": 7, `t."u v"`: 7, `t."u v".g`: 8,
		"k": 9, "k[0]": 9, "k[0].h": 10, "k[1]": 11, "k[1].h": 12, "k[1].h.x": 12, "k[1].h.y": 12, "k[1].l": 13, "k[1].l[0]": 13, "k[1].l[0].h": 14, "k[1].m": 15, "k[1].m.h": 16,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf(" got %v\nwant %v", got, want)
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
	got := place.TOML(text)
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

// Whatever the text is, the scanners end.
func FuzzLines(f *testing.F) {
	for _, s := range []string{"a = [{b=1},[[", "[[a]]\nb={c", "{\"a\":[1,", "x", "={}]", "[a\n]b"} {
		f.Add(s)
	}
	f.Fuzz(func(_ *testing.T, s string) {
		place.TOML(s)
		place.DecodeJSON([]byte(s))
	})
}
