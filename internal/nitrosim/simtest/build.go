package simtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Binary builds build/nitro-sim, once a process, and gives its path.
var Binary = sync.OnceValues(func() (string, error) {
	gomod, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("finding the module: %w", err)
	}
	root := filepath.Dir(strings.TrimSpace(string(gomod)))
	if err := os.MkdirAll(filepath.Join(root, "build"), 0o755); err != nil {
		return "", err
	}
	// Tests of several packages run at once.
	lock, err := os.OpenFile(filepath.Join(root, "build", ".nitro-sim.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", err
	}
	build := exec.Command("make", "--silent", "--no-print-directory", "build/nitro-sim")
	build.Dir = root
	build.Env = withoutMake(os.Environ())
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building nitro-sim: %w: %s", err, output)
	}
	return filepath.Join(root, "build", "nitro-sim"), nil
})

// withoutMake takes out what a make that runs the tests tells its children.
func withoutMake(environment []string) []string {
	var kept []string
	for _, e := range environment {
		switch name, _, _ := strings.Cut(e, "="); name {
		case "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES":
		default:
			kept = append(kept, e)
		}
	}
	return kept
}
