package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/internal/boundary"
)

func TestGeneratedFilesAreFresh(t *testing.T) {
	t.Parallel()
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	files, err := generate()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(root, name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is stale (%v): run `go generate ./internal/boundary`", name, err)
		}
	}
}

// The generator relies on what is checked here.
func TestTableIsSound(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for i, f := range boundary.Functions {
		if f.Number != uint32(i+1) || seen[f.Name] {
			t.Errorf("%s: number %d at place %d, or there twice", f.Name, f.Number, i)
		}
		seen[f.Name] = true
		buffers := 0
		for _, a := range f.Args {
			if a.Kind == boundary.OutBuffer || a.Kind == boundary.OutLast {
				buffers++
			}
			if a.Kind == boundary.Bytes && a.TooLong == "" {
				t.Errorf("%s: nothing says what to answer when %s is too long", f.Name, a.Params[0])
			}
		}
		if buffers > 1 {
			t.Errorf("%s: a call remembers the room of one buffer only", f.Name)
		}
		if last := f.Args[len(f.Args)-1].Kind; f.InParts && last != boundary.Bytes && last != boundary.OutExact {
			t.Errorf("%s: its last argument cannot be cut into parts", f.Name)
		}
	}
	for i, want := range []int{68, 92, 104} {
		if l := functionLists[i]; len(l.functions()) != want || !slices.IsSortedFunc(boundary.Functions, func(a, b boundary.Function) int { return int(a.Since - b.Since) }) {
			t.Errorf("%s has %d functions, Cryptoki's has %d, and a list begins as the one before", l.name, len(l.functions()), want)
		}
	}
}
