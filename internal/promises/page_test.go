package promises

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestThePageIsCurrent(t *testing.T) {
	page, err := os.ReadFile("../../docs/RELIABILITY.md")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Page(), string(page)); diff != "" {
		t.Errorf("docs/RELIABILITY.md is not what `make generate` writes (-want +got):\n%s", diff)
	}
}

// Each row is shown by something, and names are its own.
func TestEachRowIsShown(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range Table {
		for _, r := range s.Rows {
			if r.Name == "" && r.Errno == 0 && len(r.Shown) == 0 {
				t.Errorf("nothing shows %q", r.Fault)
			}
			if r.Name != "" && (seen[r.Name] || r.Module == "" || r.Command.Exit == "") {
				t.Errorf("%q is run, and its name is not its own or promises are missing", r.Name)
			}
			seen[r.Name] = true
		}
	}
}
