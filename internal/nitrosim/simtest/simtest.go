// Package simtest starts emulators of an attestable instance for tests: TPMs
// that give attestation documents and serve several clients at once.
package simtest

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/control"
)

// Sim is one nitro-sim process of a test's own. Its methods are safe for
// concurrent use, as far as those of testing.TB are.
type Sim struct {
	dir     string
	process *process
}

// Start starts a nitro-sim in a short temporary folder, with more flags if
// given, after building it if needed. At the test's end it stops it, after
// failing the test if objects or sessions were left in it or clients are still
// connected.
func Start(t testing.TB, flags ...string) *Sim {
	t.Helper()
	binary, err := Binary()
	if err != nil {
		t.Fatal(err)
	}
	// Not t.TempDir: its paths outgrow the 107 bytes of a unix socket's path.
	dir, err := os.MkdirTemp("", "sim")
	if err != nil {
		t.Fatalf("folder for a TPM: %v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &Sim{dir: dir}
	if err := s.start(binary, flags); err != nil {
		t.Fatalf("starting nitro-sim: %v", err)
	}
	t.Cleanup(func() {
		if !s.process.ended() {
			s.checkLeaks(t)
			s.Stop(t)
		}
	})
	return s
}

func (s *Sim) start(binary string, flags []string) (err error) {
	s.process, err = start(binary, append([]string{"--socket", s.Socket(), "--device", s.dir + "/d"}, flags...)...)
	return err
}

// Address is the TPM's address as provider/transport parses it: swtpm:path=….
func (s *Sim) Address() string { return "swtpm:path=" + s.Socket() }

// Socket is the path of the unix socket that takes TPM commands.
func (s *Sim) Socket() string { return filepath.Join(s.dir, "s") }

// Device is the address of the same TPM without what --rm-refuses does.
func (s *Sim) Device() string { return "swtpm:path=" + filepath.Join(s.dir, "d") }

func (s *Sim) call(t testing.TB, request control.Request) control.Reply {
	t.Helper()
	reply, err := control.Call(s.Socket()+control.Suffix, request)
	if err != nil {
		t.Fatalf("nitro-sim: %s: %v", request.Do, err)
	}
	return reply
}

// Root is the certificate that verifiers of this TPM's documents trust.
func (s *Sim) Root(t testing.TB) *x509.Certificate {
	t.Helper()
	root, err := x509.ParseCertificate(s.call(t, control.Request{Do: "root"}).Root)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// Extend extends one PCR of one bank ("sha1", "sha256", "sha384", "sha512"; ""
// for all) by the hash of an event.
func (s *Sim) Extend(t testing.TB, bank string, pcr uint, event []byte) {
	t.Helper()
	s.call(t, control.Request{Do: "extend", PCR: pcr, Bank: bank, Event: event})
}

// Reset resets the TPM and boots again; persistent keys and NV stay, clients
// stay connected.
func (s *Sim) Reset(t testing.TB) {
	t.Helper()
	s.call(t, control.Request{Do: "reset"})
}

// Stats counts commands and what clients hold.
func (s *Sim) Stats(t testing.TB) control.Stats {
	t.Helper()
	return *s.call(t, control.Request{Do: "stats"}).Stats
}

// patience is how long the emulator may take to see that a client is gone.
const patience = time.Minute

// AwaitStats waits until what clients hold is as wanted, for clients that are
// just leaving. It gives the last stats, and false if that took too long.
func (s *Sim) AwaitStats(t testing.TB, wanted func(control.Stats) bool) (control.Stats, bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		stats := s.Stats(t)
		if wanted(stats) {
			return stats, true
		}
		if time.Now().After(deadline) {
			return stats, false
		}
	}
}

func (s *Sim) checkLeaks(t testing.TB) {
	t.Helper()
	stats, ok := s.AwaitStats(t, func(c control.Stats) bool {
		return c.Connections == 0 && c.Objects == 0 && c.Sessions == 0 && c.SavedSessions == 0
	})
	if !ok {
		t.Errorf("the test left %d connections, %d objects, %d sessions and %d saved sessions",
			stats.Connections, stats.Objects, stats.Sessions, stats.SavedSessions)
	}
}

// Stop ends the process by SIGTERM and fails the test unless it exits cleanly
// and removes its sockets.
func (s *Sim) Stop(t testing.TB) {
	t.Helper()
	s.process.stop(t)
	left, err := filepath.Glob(s.dir + "/[sd]*")
	if err != nil || len(left) > 0 {
		t.Errorf("nitro-sim left %v", left)
	}
}
