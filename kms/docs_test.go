package kms_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// Every block of Go in docs/kms.md is code of the examples, which compile.
func TestDocsShowTheExamples(t *testing.T) {
	t.Parallel()
	read := func(name string) string {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	unindented := func(code string) string {
		lines := strings.Split(strings.TrimSpace(code), "\n")
		for i := range lines {
			lines[i] = strings.Join(strings.Fields(lines[i]), " ")
		}
		return strings.Join(lines, "\n") + "\n"
	}
	examples := unindented(read("example_test.go"))
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(read("../docs/kms.md"), -1)
	if len(blocks) < 4 {
		t.Fatalf("docs/kms.md has %d blocks of Go", len(blocks))
	}
	for _, block := range blocks {
		if !strings.Contains(examples, unindented(block[1])) {
			t.Errorf("docs/kms.md shows code that is in no example:\n%s", block[1])
		}
	}
}
