package main

// #include <stdlib.h>
import "C"

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/tpm2-p11/tpm2-p11/config"
)

// helperPath is the command that serves forked children, as a package builder sets it; "" looks beside the module.
var helperPath string

// forkPatience is how long a fork waits for the TPM to be idle.
const forkPatience = 5 * time.Second

// resume ends the time in which the TPMs are kept idle. Forks come one after another.
var resume func()

// tpm2p11Hold waits until the TPMs are idle and lets go of them, so that a child inherits no way to one.
//
//export tpm2p11Hold
func tpm2p11Hold(withHelper C.int) {
	if withHelper != 0 {
		module.TakeTurns()
	}
	if reason := noHelper.Load(); withHelper != 0 && reason != nil {
		warnOnce.Do(func() {
			module.Logger().Warn("the children of this process get no keys", "reason", (*reason).Error())
		})
	}
	ctx, cancel := context.WithTimeout(context.Background(), forkPatience)
	defer cancel()
	resume = module.Hold(ctx)
}

// tpm2p11Resume ends what tpm2p11Hold began.
//
//export tpm2p11Resume
func tpm2p11Resume() { resume() }

// tpm2p11Settings gives what C needs of the configuration: socket, helper, log, and the helper's
// environment, each ended by a NUL. A configuration that cannot be read gives its defaults: C_Initialize tells what is wrong with it.
//
//export tpm2p11Settings
func tpm2p11Settings(modulePath *C.char, settings *unsafe.Pointer, length *C.size_t) {
	c, err := config.Load("")
	if err != nil {
		c = config.Default()
	}
	helper, err := findHelper(c.Helper, C.GoString(modulePath))
	noHelper.Store(nil)
	if err != nil {
		noHelper.Store(&err)
	}
	fields := append([]string{c.Socket, helper, c.Log}, config.Environment()...)
	*settings, *length = toC([]byte(strings.Join(fields, "\x00") + "\x00"))
}

// noHelper is why there is no helper, told when a process forks that could use one.
var (
	noHelper atomic.Pointer[error]
	warnOnce sync.Once
)

// findHelper gives the absolute path of the helper: the one that is configured, the one that was built in, or the command as it is
// installed with the module.
func findHelper(configured, module string) (string, error) {
	candidates := []string{configured}
	if configured == "" {
		folder := filepath.Dir(module)
		candidates = []string{helperPath, filepath.Join(folder, "tpm2-p11"), filepath.Join(folder, "../../bin/tpm2-p11")}
	}
	var failed error
	for _, path := range candidates {
		if !filepath.IsAbs(path) {
			continue
		}
		err := checkHelper(path)
		if err == nil {
			return path, nil
		}
		if failed == nil || !os.IsNotExist(err) {
			failed = err
		}
	}
	if failed == nil {
		failed = fs.ErrNotExist
	}
	return "", fmt.Errorf("no command to serve forked children (set helper in the configuration): %w", failed)
}

// checkHelper refuses a file through which somebody else would get this process's rights.
func checkHelper(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	switch mode := info.Mode(); {
	case !mode.IsRegular() || mode.Perm()&0o111 == 0:
		return fmt.Errorf("%s is no command", path)
	case mode.Perm()&0o022 != 0:
		return fmt.Errorf("%s can be written by others (mode %04o): chmod go-w it", path, mode.Perm())
	case owner != 0 && owner != uint32(os.Geteuid()):
		return fmt.Errorf("%s belongs to user %d: chown it to root", path, owner)
	}
	return nil
}
