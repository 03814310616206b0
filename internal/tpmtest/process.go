package tpmtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// startTimeout is how long a swtpm may take to answer its first command.
const startTimeout = time.Minute

// process is a running swtpm.
type process struct {
	cmd    *exec.Cmd
	output bytes.Buffer  // read only after exited is closed
	exited chan struct{} // closed when the process is gone
}

// startProcess runs swtpm with its state in dir and waits until it answers on
// the socket.
func startProcess(dir, socket string) (*process, error) {
	// A socket left by a killed process would refuse connections, and swtpm to bind.
	for _, s := range []string{socket, socket + ".ctrl"} {
		if err := os.Remove(s); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	p := &process{exited: make(chan struct{})}
	p.cmd = exec.Command("swtpm", "socket", "--tpm2",
		"--tpmstate", "dir="+dir,
		"--server", "type=unixio,path="+socket,
		"--ctrl", "type=unixio,path="+socket+".ctrl",
		"--flags", "not-need-init,startup-clear")
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}

	started := make(chan error)
	go func() {
		// The death signal comes when the starting thread ends, not the process:
		// keep that thread for as long as the child lives.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait()
			close(p.exited)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	if err := p.awaitAnswer(socket); err != nil {
		p.kill()
		return nil, fmt.Errorf("%w; it said: %q", err, p.output.String())
	}
	return p, nil
}

// awaitAnswer tries until the TPM answers a command, the process ends or
// startTimeout passes.
func (p *process) awaitAnswer(socket string) error {
	deadline := time.Now().Add(startTimeout)
	pause := time.NewTicker(2 * time.Millisecond)
	defer pause.Stop()
	for {
		_, err := countAt(socket)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no answer within %v: %w", startTimeout, err)
		}
		select {
		case <-p.exited:
			return errors.New("swtpm ended at once")
		case <-pause.C:
		}
	}
}

// kill ends the process and waits until it is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}
