// Package tpmtest starts private TPMs for tests and counts what a test leaves
// in them.
//
// Each TPM is one swtpm process with state of its own. swtpm serves one client
// at a time, so the methods that talk to the TPM (Extend, Count and the check
// at the test's end) connect, work and leave again; they fail the test when
// another client still holds the TPM after a minute.
package tpmtest

import (
	"os"
	"path/filepath"
	"testing"
)

// TPM is one swtpm process of a test's own. Its methods are not safe for
// concurrent use.
type TPM struct {
	dir  string
	proc *process // nil while stopped
}

// Start starts a fresh swtpm (a missing swtpm fails the test) in a short
// temporary folder. At the test's end it stops it, after failing the test if
// sessions or transient objects were left in it. Whoever uses the TPM must have
// let it go by then: cleanups run last registered first, so one registered
// after Start runs in time.
func Start(t testing.TB) *TPM {
	t.Helper()
	// Not t.TempDir: its paths carry the test's name and outgrow the 107 bytes
	// of a unix socket's path.
	dir, err := os.MkdirTemp("", "tpm")
	if err != nil {
		t.Fatalf("folder for a TPM: %v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := &TPM{dir: dir}
	p.powerOn(t)
	t.Cleanup(func() {
		if p.proc == nil {
			return
		}
		if c, err := p.count(); err != nil {
			t.Errorf("counting what the test left in the TPM: %v", err)
		} else if c.Sessions != 0 || c.Transient != 0 {
			t.Errorf("the test left %d sessions and %d transient objects in the TPM", c.Sessions, c.Transient)
		}
		p.proc.kill()
	})
	return p
}

// Address is the TPM's address as provider/transport parses it: swtpm:path=….
func (p *TPM) Address() string { return "swtpm:path=" + p.Socket() }

// Socket is the path of the unix socket that takes TPM commands. The control
// channel is beside it, with ".ctrl" appended.
func (p *TPM) Socket() string { return filepath.Join(p.dir, "s") }

// Stop cuts the TPM's power, as Restart does, and leaves it off: clients see
// their connection end, and new ones are refused until Restart.
func (p *TPM) Stop(t testing.TB) {
	t.Helper()
	if p.proc == nil {
		t.Fatal("the TPM is stopped already")
	}
	p.proc.kill()
	p.proc = nil
}

// Restart cuts the TPM's power and starts it again with its state, a stopped
// one too: what is persistent stays, and PCRs, sessions and transient objects
// begin anew. There is no TPM2_Shutdown before, so a TPM whose dictionary-attack
// protected objects were used counts one failed try (TPM 2.0 Part 1,
// "Non-orderly Shutdown").
func (p *TPM) Restart(t testing.TB) {
	t.Helper()
	if p.proc != nil {
		p.Stop(t)
	}
	p.powerOn(t)
}

func (p *TPM) powerOn(t testing.TB) {
	t.Helper()
	proc, err := startProcess(p.dir, p.Socket())
	if err != nil {
		t.Fatalf("starting swtpm: %v", err)
	}
	p.proc = proc
}
