package policyfile_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tpm2-p11/tpm2-p11/internal/stamp"
	"github.com/tpm2-p11/tpm2-p11/policy/policyfile"
)

func init() { stamp.Settle = 100 * time.Millisecond } // enough for the file systems of those who test

// Files that did not change for long are not read at each use of a key, and their folder is not either; what is done to them afterwards
// counts at the next use, whatever times it leaves behind.
func TestWhatChangesInAFolderAfterALongTimeIsNoticed(t *testing.T) {
	t.Parallel()
	text := func(name string) []byte {
		return []byte(`{"approved":[{"name":"` + name + `","pin":true,"sig":"AAAA"}]}`)
	}
	write := func(path, name string) error { return os.WriteFile(path, text(name), 0o644) }
	sameTimes := func(path string, change func() error) error {
		before, err := os.Stat(path)
		if err == nil {
			err = change()
		}
		if err == nil {
			err = os.Chtimes(path, before.ModTime(), before.ModTime())
		}
		return err
	}
	type scene struct {
		change func(dir string) error
		want   string
		dir    string
		*policyfile.Folders
	}
	scenes := map[string]*scene{
		"nothing":      {func(string) error { return nil }, "first", "", nil},
		"a file more":  {func(dir string) error { return write(dir+"/d/new.json", "new") }, "new first", "", nil},
		"a file less":  {func(dir string) error { return os.Remove(dir + "/d/a.json") }, "", "", nil},
		"another text": {func(dir string) error { return write(dir+"/d/a.json", "longer") }, "longer", "", nil},
		"as long, as old": {func(dir string) error {
			return sameTimes(dir+"/d/a.json", func() error { return write(dir+"/d/a.json", "other") })
		}, "other", "", nil},
		"a file in its place": {func(dir string) error {
			return sameTimes(dir+"/d/a.json", func() error { return errors.Join(write(dir+"/b", "other"), os.Rename(dir+"/b", dir+"/d/a.json")) })
		}, "other", "", nil},
		"a folder in its place": {func(dir string) error {
			return sameTimes(dir+"/d", func() error {
				return errors.Join(os.Rename(dir+"/d", dir+"/old"), os.Mkdir(dir+"/d", 0o755), write(dir+"/d/a.json", "other"))
			})
		}, "other", "", nil},
		"the folder is gone": {func(dir string) error { return os.Rename(dir+"/d", dir+"/old") }, "", "", nil},
		"a link's target": {func(dir string) error {
			return errors.Join(write(dir+"/b", "other"), os.Remove(dir+"/link.json"), os.Symlink("b", dir+"/link.json"))
		}, "other first", "", nil},
		"it cannot be understood": {func(dir string) error { return os.WriteFile(dir+"/d/a.json", []byte("{"), 0o644) }, "", "", nil},
	}
	for name, s := range scenes {
		s.dir = t.TempDir()
		if err := errors.Join(os.Mkdir(s.dir+"/d", 0o755), write(s.dir+"/d/a.json", "first")); err != nil {
			t.Fatal(err)
		}
		if name == "a link's target" {
			if err := os.Symlink("absent", s.dir+"/link.json"); err != nil {
				t.Fatal(err)
			}
		}
		s.Folders = policyfile.NewFolders(nil, filepath.Join(s.dir, "d"), filepath.Join(s.dir, "link.json"))
	}
	time.Sleep(stamp.Settle + 10*time.Millisecond) // no event tells that a time stamp is unambiguous

	for name, s := range scenes {
		before, err := s.Approved()
		if err != nil || len(before) != 1 || before[0].Name != "first" {
			t.Fatalf("%s, before: %v, %v", name, before, err)
		}
		again, err := s.Approved()
		if err != nil || len(again) != 1 || &again[0] != &before[0] {
			t.Errorf("%s: read again though nothing changed: %v, %v", name, again, err)
		}
		if err := s.change(s.dir); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for range 2 {
			var names []string
			after, err := s.Approved()
			for _, a := range after {
				names = append(names, a.Name)
			}
			if got := strings.Join(names, " "); err != nil || got != s.want {
				t.Errorf("%s: %q, %v, want %q", name, got, err, s.want)
			}
		}
	}
}
