package structure

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	declaredTest = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	namedTest    = regexp.MustCompile("`((?:Test|Fuzz)\\w+)`")
)

// The pages on security and on reliability say by which test each promise is shown.
func TestEachPromiseIsShownByATestThatExists(t *testing.T) {
	declared := map[string]bool{}
	err := filepath.WalkDir("../..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, name := range declaredTest.FindAllStringSubmatch(string(text), -1) {
			declared[name[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var page []byte
	for _, file := range []string{"docs/RELIABILITY.md", "docs/SECURITY.md"} {
		if page, err = os.ReadFile("../../" + file); err != nil {
			t.Fatal(err)
		}
		named := namedTest.FindAllStringSubmatch(string(page), -1)
		if len(named) == 0 {
			t.Fatalf("%s names no test", file)
		}
		for _, name := range named {
			if !declared[name[1]] {
				t.Errorf("%s names %s, which does not exist", file, name[1])
			}
		}
	}
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, "|")
		if len(cells) != 6 || strings.HasPrefix(line, "|---") || strings.HasPrefix(line, "| who ") {
			continue
		}
		if !namedTest.MatchString(cells[4]) {
			t.Errorf("no test shows what stops %q", strings.TrimSpace(cells[1]))
		}
	}
}
