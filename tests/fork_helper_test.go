package tests

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tpm2-p11/tpm2-p11/internal/tpmtest"
)

// helper is a process that serves the forked children of a host.
type helper struct {
	pid         int
	serving     bool // rather than supervising
	supervising bool // in the stead of the first supervisor
}

// helpers finds those of the machine's hosts, by the configuration in their environment.
func (m *machine) helpers() []helper {
	m.t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		m.t.Fatal(err)
	}
	var found []helper
	for _, path := range paths {
		arguments, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(arguments, []byte("\x00serve\x00--fd\x00")) {
			continue
		}
		environment, err := os.ReadFile(filepath.Join(filepath.Dir(path), "environ"))
		if err != nil || !bytes.Contains(environment, []byte("TPM2_P11_CONF="+m.path("tpm2-p11.conf")+"\x00")) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			m.t.Fatal(err)
		}
		found = append(found, helper{pid, bytes.Contains(arguments, []byte("--supervised")), bytes.Contains(arguments, []byte("--supervising"))})
	}
	return found
}

// killHelpers kills the serving ones, or all, and gives how many.
func (m *machine) killHelpers(all bool) int {
	m.t.Helper()
	n := 0
	if all {
		for _, h := range m.helpers() {
			_ = syscall.Kill(h.pid, syscall.SIGSTOP) // or one would replace the other meanwhile
		}
	}
	for _, h := range m.helpers() {
		if (all || h.serving) && syscall.Kill(h.pid, syscall.SIGKILL) == nil {
			n++
		}
	}
	return n
}

// signal sends a signal to the helper's processes, the serving one, the other one, or both.
func (m *machine) signal(s syscall.Signal, which ...bool) {
	m.t.Helper()
	m.eventually("one process serves, another one supervises", m.twoHelp)
	for _, h := range m.helpers() {
		if slices.Contains(which, h.serving) {
			if err := syscall.Kill(h.pid, s); err != nil {
				m.t.Error(err)
			}
			if s == syscall.SIGSTOP { // which a busy machine takes its time for
				m.eventually("it stopped", func() bool { return stopped(h.pid) })
			}
		}
	}
}

// stopped tells whether all threads of a process are stopped.
func stopped(pid int) bool {
	states, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*/stat", pid))
	for _, path := range states {
		text, err := os.ReadFile(path)
		if err == nil && !bytes.HasPrefix(text[bytes.LastIndexByte(text, ')')+1:], []byte(" T ")) {
			return false
		}
	}
	return true
}

// twoHelp tells whether one process serves, and another one supervises.
func (m *machine) twoHelp() bool {
	all := m.helpers()
	return len(all) == 2 && all[0].serving != all[1].serving
}

// zombies are the children of processes that these have not waited for.
func (m *machine) zombies(parents ...int) (pids []int) {
	m.t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		m.t.Fatal(err)
	}
	for _, path := range paths {
		text, _ := os.ReadFile(path)
		var pid, parent int
		if n, _ := fmt.Sscanf(string(text[bytes.LastIndexByte(text, ')')+1:]), " Z %d", &parent); n == 1 && slices.Contains(parents, parent) {
			_, _ = fmt.Sscan(string(text), &pid)
			pids = append(pids, pid)
		}
	}
	return pids
}

// eventually waits for a condition, which must hold within a minute.
func (m *machine) eventually(what string, condition func() bool) {
	m.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !condition() {
		if time.Now().After(deadline) {
			m.t.Fatalf("after a minute: %s is still not so", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// helpersEnd demands that no helper outlives its host.
func (m *machine) helpersEnd() {
	m.t.Helper()
	m.t.Cleanup(func() { m.killHelpers(true) }) // of a test that failed
	m.eventually("no helper outlives its host", func() bool { return len(m.helpers()) == 0 })
}

// tally is what hosts that fork must leave as it was: what the TPM holds, and how many wrong tries it has counted.
type tally struct {
	tpmtest.Counts
	tries int
}

func (m *machine) tally() tally {
	m.t.Helper()
	return tally{m.tpm.Count(m.t), m.tpm.FailedTries(m.t)}
}

// undisturbed demands that the TPM is as it was. A killed helper leaves its session in a TPM without a resource manager, if it had one.
func (m *machine) undisturbed(before tally, killed bool) {
	m.t.Helper()
	after := m.tally()
	if killed {
		after.Sessions = before.Sessions
	}
	if after != before {
		m.t.Errorf("the TPM holds and has counted %+v, and before it was %+v", after, before)
	}
}

// forkedHost runs the host of testdata/forked.c in a scenario, which must leave nothing: the host looks at its own descriptors and
// children, and the TPM, in which the helper had a session where it was killed with a PIN or a policy, is looked at here. Its lines, but
// for those that begin a report of a failure, are events; the host goes on when they have happened.
func (m *machine) forkedHost(scenario string, happen func(event string), arguments ...string) {
	m.t.Helper()
	m.t.Cleanup(func() { m.killHelpers(true) })
	before := m.tally()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, m.host("forked"), append([]string{module, scenario}, arguments...)...)
	var stderr bytes.Buffer
	// A Go runtime that had to work in a child would hang at its first garbage collection: there are many.
	c.Dir, c.Env = m.dir, append(m.env, "GOGC=1")
	c.Stderr = &stderr
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	events, output := pipe(m.t)
	input, answers := pipe(m.t)
	c.Stdout, c.Stdin = output, input
	if err := c.Start(); err != nil {
		m.t.Fatal(err)
	}
	output.Close()
	input.Close()
	defer func() { _ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }()
	for lines := bufio.NewScanner(events); lines.Scan(); {
		if happen == nil {
			m.t.Errorf("the host said %q", lines.Text())
			continue
		}
		happen(lines.Text())
		if _, err := io.WriteString(answers, "\n"); err != nil {
			m.t.Fatal(err)
		}
	}
	err := c.Wait()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		m.t.Fatalf("%s: %v\n%s", scenario, err, last(stderr.String(), 4000))
	}
	m.helpersEnd()
	m.undisturbed(before, scenario == "pin" || scenario == "haproxy")
}

// The children of servers use the keys, whatever the servers do to them.
func TestForkedChildrenUseTheKeys(t *testing.T) {
	t.Parallel()
	for _, scenario := range []string{
		"workers", "grandchildren", "loaded", "many", "amid", "closed", "closing", "threaded", "threaded master", "bound deeply", "confined", "confined grandchildren", "upgraded", "replaced",
	} {
		t.Run(scenario, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, "")
			oneKey(m)
			jail := m.path("jail")
			if err := os.Mkdir(jail, 0o755); err != nil {
				t.Fatal(err)
			}
			m.forkedHost(scenario, nil, jail)
		})
	}
}

// Workers as haproxy has them, whose module OpenSSL 3's provider loads, serve with a key that is bound to PCRs: 500 clients one by one, 16
// at once, and on while a worker is killed, the helper is killed, and the server reloads.
func TestForkedWorkersOfHaproxyUnderLoad(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.tpm2p11("init", "--no-pin")
	m.tpm2p11("key", "create", "web", "--type", "p256", "--pcr", "sha256:0,1,2,7")
	jail := m.path("jail")
	if err := os.Mkdir(jail, 0o755); err != nil {
		t.Fatal(err)
	}
	m.forkedHost("haproxy", func(string) {
		if m.killHelpers(false) != 1 {
			t.Error("there was no helper")
		}
	}, jail)
	m.tpm.Restart(t) // without a resource manager, the killed process's session is still in it
}

// A daemon's first process ends; its workers are served on.
func TestForkedDaemon(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	oneKey(m)
	var said []string
	m.forkedHost("daemon", func(event string) { said = append(said, event) })
	if !slices.Equal(said, []string{"fine"}) {
		t.Errorf("the daemon said %q", said)
	}
}

// A server has one helper, which is nobody's child, has no terminal and no file of the server's open.
func TestForkedHelperIsAlone(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	oneKey(m)
	m.forkedHost("idle", func(string) {
		m.eventually("one process serves, another one supervises", m.twoHelp)
		for _, h := range m.helpers() {
			m.examine(h)
		}
	})
}

// examine looks at a helper from outside.
func (m *machine) examine(h helper) {
	m.t.Helper()
	proc := fmt.Sprintf("/proc/%d/", h.pid)
	if cwd, err := os.Readlink(proc + "cwd"); err != nil || cwd != "/" {
		m.t.Errorf("its folder is %s, %v", cwd, err)
	}
	for fd, want := range []string{"/dev/null", "/dev/null"} {
		if is, err := os.Readlink(proc + "fd/" + strconv.Itoa(fd)); err != nil || is != want {
			m.t.Errorf("descriptor %d is %s, %v", fd, is, err)
		}
	}
	files, err := os.ReadDir(proc + "fd")
	if err != nil {
		m.t.Fatal(err)
	}
	for _, f := range files {
		if is, err := os.Readlink(proc + "fd/" + f.Name()); err == nil && is == m.path("forked") {
			m.t.Errorf("descriptor %s is a file that the server has open", f.Name())
		}
	}
	if sid, err := syscall.Getpgid(h.pid); err != nil || sid == syscall.Getpgrp() {
		m.t.Errorf("its process group is the server's: %v", err)
	}
}

// A program that never forks pays for no helper.
func TestNoForkNoHelper(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	oneKey(m)
	m.forkedHost("nobody forks", nil)
	if all := m.helpers(); len(all) != 0 {
		t.Errorf("%d helpers run", len(all))
	}
}

// The helper's death goes unnoticed: what children have open is opened again. That of its supervisor too, if they may start another.
func TestForkedChildrenOutliveTheirHelper(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	oneKey(m)
	m.forkedHost("helper dies", func(event string) {
		if n := m.killHelpers(event == "kill everything"); n == 0 {
			t.Errorf("%s: there was no helper", event)
		}
	})
}

// Where all of the helper is killed, a worker that has given up its rights starts none: it fails at once, and says so once. The next fork
// of its master brings the keys back.
func TestForkedChildrenStartNoLesserHelper(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.show(m.dir)
	m.write("tpm2-p11.conf", fmt.Sprintf("tpm = %q\nstore = %q\nlog = \"file:%s\"\n", m.tpm.Address(), m.path("store"), m.path("log")))
	m.write("log", "")
	if err := os.Chmod(m.path("log"), 0o666); err != nil {
		t.Fatal(err)
	}
	oneKey(m)
	m.forkedHost("helper lost", func(event string) {
		switch event {
		case "kill everything":
			m.killHelpers(true)
		case "helpers?":
			if all := m.helpers(); len(all) != 0 {
				t.Errorf("%d processes help", len(all))
			}
		}
	})
	if log := string(m.read("log")); strings.Count(log, "has no keys") != 1 || !strings.Contains(log, "may not start one with the rights that it had: reload the server") {
		t.Errorf("the log:\n%s", log)
	}
}

// A worker can end the helper, not keep the keys from those that come after it: the next fork of its master brings them back.
func TestForkedChildrenOutliveAShutdown(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.show(m.dir)
	oneKey(m)
	m.forkedHost("helper shut down", nil)
}

// A helper that stops is as good as dead: its other process replaces it, and calls go on. Where both stop, calls fail in time, and
// work again when those go on.
func TestForkedChildrenOutliveAStop(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	oneKey(m)
	m.forkedHost("helper stops", func(event string) {
		switch event {
		case "stop the server":
			m.signal(syscall.SIGSTOP, true)
		case "stop the supervisor":
			m.signal(syscall.SIGSTOP, false)
			m.eventually("the server has replaced it", func() bool {
				return slices.ContainsFunc(m.helpers(), func(h helper) bool { return h.supervising })
			})
		case "two processes":
			m.eventually("one process serves, another one supervises", m.twoHelp)
			for _, h := range m.helpers() {
				if left := m.zombies(h.pid); len(left) > 0 {
					t.Errorf("%d does not wait for %d", h.pid, left)
				}
			}
		case "stop both":
			m.signal(syscall.SIGSTOP, true, false)
		case "continue":
			m.signal(syscall.SIGCONT, true, false)
		}
	})
}

// Not one of the signatures fails while helpers are killed again and again.
func TestForkedChildrenOutliveManyHelpers(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	oneKey(m)
	m.forkedHost("helpers die", func(string) {
		m.eventually("a helper serves", func() bool { return m.killHelpers(false) == 1 })
	})
}

// With a PIN the login is lost with the helper, and the next one brings the key back. Nobody tries a PIN twice.
func TestForkedChildLogsInAgain(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	m.write("pin", "123456")
	m.tpm2p11("init", "--label", "web", "--pin-file", "pin", "--so-pin-file", m.write("so", "87654321"))
	m.tpm2p11("key", "create", "web", "--type", "p256", "--pin-file", "pin")
	m.forkedHost("pin", func(string) { m.killHelpers(false) })
	m.tpm.Restart(t) // without a resource manager, the killed process's session is still in it
}

// Children use keys, and change none unless the configuration lets them.
func TestForkedChildrenChangeNothing(t *testing.T) {
	t.Parallel()
	for config, allowed := range map[string]bool{"": false, "forked = \"all\"\n": true} {
		t.Run(fmt.Sprintf("allowed=%t", allowed), func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, config)
			oneKey(m)
			if allowed {
				m.env = append(m.env, "ALLOWED=1")
			}
			m.forkedHost("rights", nil)
			if list := m.tpm2p11("key", "list").stdout; !strings.Contains(list, "web") {
				t.Errorf("the key is gone:\n%s", list)
			}
		})
	}
}

// The configuration may name the helper. One that others could have written is not started: the log says so, and children are told.
func TestForkedHelperOfTheConfiguration(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "")
	oneKey(m)
	m.run("cp", command, m.path("helper"))
	conf := fmt.Sprintf("tpm = %q\nstore = %q\nlog = \"file:%s\"\nhelper = \"helper\"\n", m.tpm.Address(), m.path("store"), m.path("log"))
	m.write("tpm2-p11.conf", conf)
	m.forkedHost("idle", func(string) {
		for _, h := range m.helpers() {
			if is, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", h.pid)); err != nil || is != m.path("helper") {
				t.Errorf("%s helps, %v", is, err)
			}
		}
	})
	if err := os.Chmod(m.path("helper"), 0o777); err != nil {
		t.Fatal(err)
	}
	m.forkedHost("helpless", nil)
	if log := string(m.read("log")); !strings.Contains(log, "the children of this process get no keys") || !strings.Contains(log, "can be written by others") {
		t.Errorf("the log:\n%s", log)
	}
}
