package tpmtest

import (
	"crypto/sha256"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"
)

func init() { clientTimeout = 10 * time.Second } // a test waits for its end

// recorder is a test whose failures and cleanups the real test looks at.
type recorder struct {
	testing.TB
	errors   []string
	cleanups []func()
}

func (r *recorder) Helper()          {}
func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

func (r *recorder) end() string {
	for i := len(r.cleanups) - 1; i >= 0; i-- {
		r.cleanups[i]()
	}
	return strings.Join(r.errors, "\n")
}

func readPCR(t *testing.T, p *TPM, pcr uint) []byte {
	t.Helper()
	var value []byte
	err := withClient(p.Socket(), func(c *client) error {
		r, err := tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
			{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(pcr)},
		}}}.Execute(c)
		if err == nil {
			value = r.PCRValues.Digests[0].Buffer
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func startSession(t *testing.T, p *TPM) {
	t.Helper()
	if err := withClient(p.Socket(), func(c *client) error {
		_, _, err := tpm2.PolicySession(c, tpm2.TPMAlgSHA256, 16)
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// makePrimary leaves a transient primary key, or a persistent one.
func makePrimary(t *testing.T, p *TPM, persistent bool) {
	t.Helper()
	if err := withClient(p.Socket(), func(c *client) error {
		r, err := tpm2.CreatePrimary{
			PrimaryHandle: tpm2.TPMRHOwner,
			InPublic:      tpm2.New2B(tpm2.ECCSRKTemplate),
		}.Execute(c)
		if err != nil || !persistent {
			return err
		}
		if _, err := (tpm2.EvictControl{
			Auth:             tpm2.TPMRHOwner,
			ObjectHandle:     &tpm2.NamedHandle{Handle: r.ObjectHandle, Name: r.Name},
			PersistentHandle: 0x81000001,
		}).Execute(c); err != nil {
			return err
		}
		_, err = tpm2.FlushContext{FlushHandle: r.ObjectHandle}.Execute(c)
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func TestExtendHashesTheEventIntoThePCR(t *testing.T) {
	t.Parallel()
	p := Start(t)
	p.Extend(t, "sha256", 7, []byte("boot loader"))
	event := sha256.Sum256([]byte("boot loader"))
	want := sha256.Sum256(append(make([]byte, 32), event[:]...))
	if diff := cmp.Diff(want[:], readPCR(t, p, 7)); diff != "" {
		t.Errorf("PCR 7 (-want +got):\n%s", diff)
	}
	for _, bank := range []string{"sha1", "sha384", "sha512"} {
		p.Extend(t, bank, 7, []byte("boot loader"))
	}
}

func TestRestartKeepsOnlyWhatIsPersistent(t *testing.T) {
	t.Parallel()
	p := Start(t)
	makePrimary(t, p, true)
	makePrimary(t, p, false)
	startSession(t, p)
	p.Extend(t, "sha256", 7, []byte("boot loader"))
	if diff := cmp.Diff(Counts{Sessions: 1, Transient: 1, Persistent: 1}, p.Count(t)); diff != "" {
		t.Errorf("before (-want +got):\n%s", diff)
	}
	p.Restart(t)
	if diff := cmp.Diff(Counts{Persistent: 1}, p.Count(t)); diff != "" {
		t.Errorf("after (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(make([]byte, 32), readPCR(t, p, 7)); diff != "" {
		t.Errorf("PCR 7 after the restart (-want +got):\n%s", diff)
	}
}

func TestAStoppedTPMRefusesConnectionsUntilItsRestart(t *testing.T) {
	t.Parallel()
	p := Start(t)
	p.Stop(t)
	if conn, err := net.Dial("unix", p.Socket()); err == nil {
		conn.Close()
		t.Error("a stopped TPM took a connection")
	}
	p.Restart(t)
	p.Count(t)
}

func TestALeakFailsTheTest(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		leak func(*testing.T, *TPM)
		want string
	}{
		{"session", startSession, "left 1 sessions and 0 transient"},
		{"transient object", func(t *testing.T, p *TPM) { makePrimary(t, p, false) }, "left 0 sessions and 1 transient"},
		{"persistent object is none", func(t *testing.T, p *TPM) { makePrimary(t, p, true) }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := &recorder{TB: t}
			p := Start(r)
			c.leak(t, p)
			got := r.end()
			if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
				t.Errorf("the test's failures are %q, want %q", got, c.want)
			}
		})
	}
}

func TestAClientThatStaysFailsTheTest(t *testing.T) {
	t.Parallel()
	r := &recorder{TB: t}
	p := Start(r)
	err := withClient(p.Socket(), func(c *client) error {
		if _, err := (tpm2.GetCapability{Capability: tpm2.TPMCapHandles, PropertyCount: 1}).Execute(c); err != nil {
			return err
		}
		if got := r.end(); !strings.Contains(got, "another client still holds the TPM") {
			t.Errorf("the test's failures are %q", got)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestNothingOfATPMIsLeft(t *testing.T) {
	t.Parallel()
	r := &recorder{TB: t}
	p := Start(r)
	proc := p.proc
	if failures := r.end(); failures != "" {
		t.Error(failures)
	}
	<-proc.exited
	if _, err := os.Stat(p.dir); !os.IsNotExist(err) {
		t.Errorf("the TPM's folder is still there: %v", err)
	}
}
