package simtest

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// process is a nitro-sim that serves until it is stopped.
type process struct {
	*os.Process
	ready  []string // the words of its ready line
	exited chan struct{}
	stderr bytes.Buffer // read only after exited is closed
}

// start starts nitro-sim and waits until it serves. The process ends with the test's.
func start(binary string, args ...string) (*process, error) {
	p := &process{exited: make(chan struct{})}
	cmd := exec.Command(binary, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = &p.stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	started := make(chan error)
	ready := make(chan string, 1)
	go func() {
		// The death signal comes when the starting thread ends, not the process:
		// keep that thread for as long as the child lives.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		line, _ := bufio.NewReader(stdout).ReadString('\n')
		ready <- line
		_ = cmd.Wait()
		close(p.exited)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	p.Process = cmd.Process
	words, ok := strings.CutPrefix(<-ready, "nitro-sim ready:")
	if !ok {
		<-p.exited
		return nil, fmt.Errorf("it ended at once: %s", p.stderr.String())
	}
	p.ready = strings.Fields(words)
	return p, nil
}

// word is the one of the ready line after a prefix; "" for none.
func (p *process) word(prefix string) string {
	for _, w := range p.ready {
		if rest, ok := strings.CutPrefix(w, prefix); ok {
			return rest
		}
	}
	return ""
}

// ended tells whether the process has ended.
func (p *process) ended() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// stop ends the process by SIGTERM and fails the test unless it exits in time.
func (p *process) stop(t testing.TB) {
	t.Helper()
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("stopping nitro-sim: %v", err)
	}
	select {
	case <-p.exited:
	case <-time.After(patience):
		t.Error("nitro-sim does not stop at SIGTERM")
		_ = p.Kill()
		<-p.exited
	}
}
