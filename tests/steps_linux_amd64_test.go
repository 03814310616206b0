package tests

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// step is a system call of a traced program that changes its files, or sends a command to the TPM that does not only look.
type step struct {
	call string
	file string // of the store or beside it, without what is random in its name but for an "open"; "TPM" for a command
}

func (s step) String() string { return s.call + " " + s.file }

// looked is the number of an "open" of a file that is there, which changes nothing and is no step.
const looked = -1

// fate is what becomes of a program at a step.
type fate struct {
	kill  bool          // SIGKILL before it
	errno syscall.Errno // it fails
}

// changing are the system calls that change files, by number; which argument is the file's descriptor or its folder's.
var changing = map[uint64]string{
	unix.SYS_OPENAT: "openat", unix.SYS_WRITE: "write", unix.SYS_FSYNC: "fsync", unix.SYS_RENAMEAT: "renameat", unix.SYS_UNLINKAT: "unlinkat",
}

// tracee is a program under ptrace, with all its threads. Go's runtime moves the work between them, so that only a tracer that counts
// over all of them knows the nth step.
type tracee struct {
	pid    int
	dir    string   // that it runs in
	files  []string // folders whose files count
	at     func(n int, s step) fate
	steps  []step
	within map[int]bool          // threads that are in a system call
	failed map[int]syscall.Errno // of those, the ones whose call fails
}

// stepwise runs a program and has at decide, before each of its steps, what becomes of it. It gives the steps that there were.
func (m *machine) stepwise(at func(n int, s step) fate, program string, args ...string) (result, []step) {
	m.t.Helper()
	// Only the thread that started a tracee may trace it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	output := [2]*os.File{}
	for i := range output {
		f, err := os.CreateTemp(m.dir, "output")
		if err != nil {
			m.t.Fatal(err)
		}
		defer os.Remove(f.Name())
		defer f.Close()
		output[i] = f
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		m.t.Fatal(err)
	}
	defer null.Close()
	p, err := os.StartProcess(program, append([]string{program}, args...), &os.ProcAttr{
		Dir: m.dir, Env: m.env, Files: []*os.File{null, output[0], output[1]}, Sys: &syscall.SysProcAttr{Ptrace: true, Setpgid: true},
	})
	if err != nil {
		m.t.Fatal(err)
	}
	t := &tracee{pid: p.Pid, dir: m.dir, files: []string{m.path("store"), m.path("sealed")}, at: at, within: map[int]bool{}, failed: map[int]syscall.Errno{}}
	code, err := t.run()
	if err != nil {
		_ = syscall.Kill(-p.Pid, syscall.SIGKILL)
		m.t.Fatalf("tracing %s: %v", program, err)
	}
	_ = p.Release()
	var text [2]bytes.Buffer
	for i, f := range output {
		if _, err := f.Seek(0, 0); err != nil {
			m.t.Fatal(err)
		}
		if _, err := text[i].ReadFrom(f); err != nil {
			m.t.Fatal(err)
		}
	}
	return result{text[0].String(), text[1].String(), code}, t.steps
}

// run follows the threads until the process is gone, and gives its exit code, -1 after a signal.
func (t *tracee) run() (code int, err error) {
	var status syscall.WaitStatus
	if _, err := wait(t.pid, &status); err != nil {
		return 0, err
	}
	err = syscall.PtraceSetOptions(t.pid, syscall.PTRACE_O_TRACESYSGOOD|syscall.PTRACE_O_TRACECLONE|unix.PTRACE_O_EXITKILL)
	if err != nil {
		return 0, err
	}
	if err := syscall.PtraceSyscall(t.pid, 0); err != nil {
		return 0, err
	}
	known := map[int]bool{t.pid: true}
	for {
		tid, err := wait(-t.pid, &status)
		switch {
		case err != nil:
			return 0, err
		case status.Exited(), status.Signaled():
			if tid == t.pid {
				return status.ExitStatus(), nil
			}
			continue
		case !status.Stopped():
			continue
		}
		signal := 0
		switch s := status.StopSignal(); {
		case s == syscall.SIGTRAP|0x80:
			err = t.stop(tid)
		case s == syscall.SIGTRAP: // a clone
		case s == syscall.SIGSTOP && !known[tid]: // which begins stopped
			known[tid] = true
		default:
			signal = int(s)
		}
		if err == nil {
			err = syscall.PtraceSyscall(tid, signal)
		}
		if err != nil && err != syscall.ESRCH { // killed meanwhile
			return 0, err
		}
	}
}

func wait(pid int, status *syscall.WaitStatus) (tid int, err error) {
	for {
		if tid, err = syscall.Wait4(pid, status, syscall.WALL, nil); err != syscall.EINTR {
			return tid, err
		}
	}
}

// stop is where a system call begins or ends.
func (t *tracee) stop(tid int) error {
	t.within[tid] = !t.within[tid]
	var regs syscall.PtraceRegs
	if err := syscall.PtraceGetRegs(tid, &regs); err != nil {
		return err
	}
	if !t.within[tid] {
		errno, failing := t.failed[tid]
		if !failing {
			return nil
		}
		delete(t.failed, tid)
		regs.Rax = uint64(-int64(errno))
		return syscall.PtraceSetRegs(tid, &regs)
	}
	s, ok := t.stepOf(tid, regs)
	if !ok {
		return nil
	}
	n := looked
	if s.call != "open" {
		n = len(t.steps)
		t.steps = append(t.steps, s)
	}
	switch f := t.at(n, s); {
	case f.kill:
		return syscall.Kill(t.pid, syscall.SIGKILL)
	case f.errno != 0:
		t.failed[tid] = f.errno
		regs.Orig_rax = ^uint64(0) // no such call: the kernel does nothing
		return syscall.PtraceSetRegs(tid, &regs)
	}
	return nil
}

// stepOf tells whether a system call is a step.
func (t *tracee) stepOf(tid int, regs syscall.PtraceRegs) (step, bool) {
	call, ok := changing[regs.Orig_rax]
	if !ok {
		return step{}, false
	}
	looks := call == "openat" && regs.Rdx&unix.O_CREAT == 0
	file := t.dir
	if int32(regs.Rdi) != unix.AT_FDCWD {
		var err error
		if file, err = os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", tid, int32(regs.Rdi))); err != nil {
			return step{}, false
		}
	}
	if call == "write" && strings.HasPrefix(file, "socket:") {
		return t.commandOf(tid, regs)
	}
	if call == "openat" || call == "renameat" || call == "unlinkat" {
		name := make([]byte, 256)
		n, err := syscall.PtracePeekData(tid, uintptr(regs.Rsi), name)
		if err != nil && n == 0 {
			return step{}, false
		}
		name, _, _ = bytes.Cut(name[:n], []byte{0})
		if file = filepath.Join(file, string(name)); filepath.IsAbs(string(name)) {
			file = string(name)
		}
	}
	i := slices.IndexFunc(t.files, func(folder string) bool { return strings.HasPrefix(file, folder) })
	if i < 0 {
		return step{}, false
	}
	name := strings.TrimPrefix(strings.TrimPrefix(file, t.files[i]), "/")
	if looks {
		return step{"open", name}, true
	}
	if i := strings.IndexAny(name, ".-"); i > 8 {
		name = "KEY" + name[i:] // file stems are random
	}
	name, _, _ = strings.Cut(name, "-")
	return step{call, name}, true
}

// looking are commands that change nothing which outlasts their process.
var looking = []uint32{0x165, 0x173, 0x176, 0x157, 0x17A, 0x17B, 0x17C, 0x17E, 0x18A, 0x153, 0x15D, 0x15E}

func (t *tracee) commandOf(tid int, regs syscall.PtraceRegs) (step, bool) {
	header := make([]byte, 10)
	if n, err := syscall.PtracePeekData(tid, uintptr(regs.Rsi), header); err != nil || n < len(header) || header[0] != 0x80 {
		return step{}, false
	}
	code := binary.BigEndian.Uint32(header[6:])
	return step{"send", fmt.Sprintf("command %X to the TPM", code)}, !slices.Contains(looking, code)
}

// untouched lets a program run.
func untouched(int, step) fate { return fate{} }
