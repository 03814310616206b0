package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// report is what an application did and met.
type report struct {
	Operations, Refused, Faults int64
	Wrong, Leaks                []string
}

func (r *report) add(o report) {
	r.Operations += o.Operations
	r.Refused += o.Refused
	r.Faults += o.Faults
	r.Wrong = append(r.Wrong, o.Wrong...)
	r.Leaks = append(r.Leaks, o.Leaks...)
}

// app is an application, a process of its own: this program with another first argument.
type app struct {
	name string
	cmd  *exec.Cmd
	calm io.Closer // which it takes for the end of all trouble
	out  *bufio.Reader
}

// workers are what this program is when it is an application.
var workers = map[string]func() error{
	"module": func() error { return work(newModule) },
	"signer": func() error { return work(newSigner) },
}

// launch starts an application and waits until it has used each key once.
func (m *machine) launch(worker, conf string) (*app, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := exec.Command(program, worker)
	c.Env = append(os.Environ(), "TPM2_P11_CONF="+m.path(conf), "SOAK_MODULE="+m.build+"/tpm2-p11.so", "SOAK_DIR="+m.dir)
	c.Stderr = os.Stderr
	calm, err := c.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.Start(); err != nil {
		return nil, err
	}
	a := &app{name: worker + " with " + conf, cmd: c, calm: calm, out: bufio.NewReader(out)}
	if line, err := a.out.ReadString('\n'); err != nil {
		return nil, fmt.Errorf("%s did not begin: %q, %w", a.name, line, err)
	}
	return a, nil
}

// finish tells an application that the trouble is over, and gives its report.
func (a *app) finish() (r report, err error) {
	a.calm.Close()
	defer func() { _ = a.cmd.Wait() }()
	if err := json.NewDecoder(a.out).Decode(&r); err != nil {
		return r, fmt.Errorf("%s ended without a report: %w", a.name, err)
	}
	for _, list := range [][]string{r.Wrong, r.Leaks} {
		for i := range list {
			list[i] = a.name + ": " + list[i]
		}
	}
	return r, nil
}

// door is one of the ways to the keys. Each operation checks what it gets: an answer that is wrong is an errWrong.
type door interface {
	// use does one operation, on behalf of one of the threads.
	use(thread int, operation string) error
	// anew begins again for a thread, where an error may have ended what it had.
	anew(thread int) error
	close() error
}

// wrong is an answer that is not what was promised.
type wrong string

func (w wrong) Error() string { return string(w) }

const (
	threads  = 4
	calmUses = 5           // of each operation by each thread, when all is well again
	settles  = time.Minute // until an idle application has let everything go
)

var operations = []string{"pkcs1", "pss", "ecdsa", "bound", "oaep"}

// work is an application's life: each operation once, then all of them while the trouble lasts, and again when it is over.
func work(open func() (door, error)) error {
	d, err := open()
	if err != nil {
		return err
	}
	for thread := range threads {
		for _, o := range operations {
			if err := d.use(thread, o); err != nil {
				return fmt.Errorf("%s, before anything is wrong: %w", o, err)
			}
		}
	}
	files := openFiles()
	fmt.Println("ready")

	over := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(over)
	}()
	var total report
	var lock sync.Mutex
	var group sync.WaitGroup
	for thread := range threads {
		group.Go(func() {
			r := amid(d, thread, over)
			r.add(after(d, thread))
			lock.Lock()
			defer lock.Unlock()
			total.add(r)
		})
	}
	group.Wait()
	for end := time.Now().Add(settles); len(openFiles()) > len(files) && time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond) // nobody tells when a connection is let go
	}
	if left := openFiles(); len(left) > len(files) {
		total.Leaks = append(total.Leaks, fmt.Sprintf("%d open files, and in the beginning there were %d: %s", len(left), len(files), strings.Join(left, ", ")))
	}
	if err := d.close(); err != nil {
		total.Wrong = append(total.Wrong, fmt.Sprintf("closing: %v", err))
	}
	return json.NewEncoder(os.Stdout).Encode(total)
}

// amid uses keys while there is trouble: a refusal is an answer, a wrong answer is none.
func amid(d door, thread int, over <-chan struct{}) (r report) {
	for i := thread; ; i++ {
		select {
		case <-over:
			return r
		default:
		}
		operation := operations[i%len(operations)]
		err := d.use(thread, operation)
		r.Operations++
		if w, is := err.(wrong); is {
			r.Wrong = append(r.Wrong, operation+": "+w.Error())
		} else if err != nil {
			r.Refused++
			if err := d.anew(thread); err != nil {
				if w, is := err.(wrong); is {
					r.Wrong = append(r.Wrong, "beginning anew: "+w.Error())
				}
			}
		}
	}
}

// after uses keys when the trouble is over: everything must work again without the application's having to do more than to begin anew.
func after(d door, thread int) (r report) {
	if err := d.anew(thread); err != nil {
		r.Wrong = append(r.Wrong, fmt.Sprintf("beginning anew when all is well again: %v", err))
	}
	for range calmUses {
		for _, operation := range operations {
			r.Operations++
			if err := d.use(thread, operation); err != nil {
				r.Wrong = append(r.Wrong, fmt.Sprintf("%s when all is well again: %v", operation, err))
			}
		}
	}
	return r
}

// openFiles is what this process has open.
func openFiles() (names []string) {
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		if name, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			names = append(names, name)
		}
	}
	return names
}
