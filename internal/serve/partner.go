package serve

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

const (
	beatEvery    = time.Second
	missedBeats  = 5                     // in a row, after which a process hangs
	shortLife    = time.Second           // of a process that is started again with a pause
	restartPause = 20 * time.Millisecond // the first; then twice as long each time
	longestPause = time.Second
)

// PartnerLink is the descriptor of a process's link to the one that started it.
const PartnerLink = 4

// Partner is the other one of a helper's two processes: one serves, and the other one, which does nothing that could fail, is there to
// start it again. Each sends the other a byte every beatEvery over a link, whose end tells of the other one's death.
type Partner struct {
	link    net.Conn
	process *os.Process // nil if it died before it was known
	child   *exec.Cmd   // nil if it is no child of this process's
}

// Starter is the partner that started this process and gave it the link.
func Starter(link *os.File) (*Partner, error) {
	defer link.Close()
	p := &Partner{}
	var err error
	if p.link, err = net.FileConn(link); err != nil {
		return nil, err
	}
	// The parent is the partner if that lives even after this one knows the parent.
	parent, err := os.FindProcess(os.Getppid())
	if err == nil && !fdHungUp(int(link.Fd())) {
		p.process = parent
	}
	return p, nil
}

// start runs a command as the partner. The control socket becomes its descriptor 3.
func start(control *os.File, command *exec.Cmd) (*Partner, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "link"), os.NewFile(uintptr(fds[1]), "link")
	defer ours.Close()
	defer theirs.Close()
	link, err := net.FileConn(ours)
	if err != nil {
		return nil, err
	}
	command.ExtraFiles = []*os.File{control, theirs}
	if err := command.Start(); err != nil {
		link.Close()
		return nil, err
	}
	return &Partner{link, command.Process, command}, nil
}

// outlive returns when the partner is gone, and why. One that hangs is killed.
func (p *Partner) outlive() (reason string) {
	defer p.link.Close()
	hung := p.hangs()
	if reason = "it ended"; hung {
		reason = "it hung and was killed"
	}
	if p.process != nil {
		_ = p.process.Kill() // also where only its link ended
	}
	if p.child != nil {
		if err := p.child.Wait(); err != nil && !hung {
			reason = err.Error()
		}
	}
	return reason
}

// hangs watches the partner, and tells whether it lives when it is no longer worth to. Missed beats are counted by this process's own: a
// time in which neither runs, of a machine that sleeps, counts as one.
func (p *Partner) hangs() bool {
	over := make(chan struct{})
	defer close(over)
	go func() {
		ticker := time.NewTicker(beatEvery)
		defer ticker.Stop()
		for {
			_, _ = p.link.Write([]byte{0}) // who reads it no more is noticed below
			select {
			case <-over:
				return
			case <-ticker.C:
			}
		}
	}()
	beats := make([]byte, 64)
	for missed := 0; missed < missedBeats; {
		_ = p.link.SetReadDeadline(time.Now().Add(beatEvery))
		switch _, err := p.link.Read(beats); {
		case err == nil:
			missed = 0
		case errors.Is(err, os.ErrDeadlineExceeded):
			missed++
		default:
			return false
		}
	}
	return true
}

// Attend watches a process's partner, or starts it if there is none yet, and starts it again when it dies. It holds the control socket
// meanwhile: what is passed while nobody serves waits. It returns when the partner is gone and nobody is left to be served. command makes
// the process to be run, and role tells what it is in the log.
func Attend(control *os.File, partner *Partner, role string, command func() *exec.Cmd, log *slog.Logger) {
	log = log.With("process", role)
	told := false // that it cannot be started
	for pause := restartPause; ; {
		began := time.Now()
		var reason string
		var err error
		if partner == nil {
			partner, err = start(control, command())
		}
		if err == nil {
			reason = partner.outlive()
			partner = nil
		}
		switch {
		case fdHungUp(int(control.Fd())):
			return
		case err == nil:
			log.Warn("one of the helper's two processes died and is started again", "reason", reason)
		case !told:
			log.Error("one of the helper's two processes cannot be started", "reason", err.Error())
		}
		told = err != nil
		if time.Since(began) > shortLife {
			pause = restartPause
			continue
		}
		time.Sleep(pause)
		pause = min(2*pause, longestPause)
	}
}
