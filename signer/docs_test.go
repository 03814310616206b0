package signer

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// Every block of Go in docs/go.md is code of the examples, which run.
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
			lines[i] = strings.TrimSpace(lines[i])
		}
		return strings.Join(lines, "\n") + "\n"
	}
	examples := unindented(read("example_test.go"))
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(read("../docs/go.md"), -1)
	if len(blocks) < 5 {
		t.Fatalf("docs/go.md has %d blocks of Go", len(blocks))
	}
	for _, block := range blocks {
		if !strings.Contains(examples, unindented(block[1])) {
			t.Errorf("docs/go.md shows code that is in no example:\n%s", block[1])
		}
	}
}
