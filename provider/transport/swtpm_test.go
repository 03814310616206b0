package transport

import (
	"context"
	"errors"
	"io/fs"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/internal/tpmtest"
	"golang.org/x/sys/unix"
)

func TestSwtpmAnswersOverItsSocket(t *testing.T) {
	t.Parallel()
	drawRandom(t, dial(t, tpmtest.Start(t).Address()))
}

func TestSwtpmAnswersOverTCP(t *testing.T) {
	t.Parallel()
	drawRandom(t, dial(t, "swtpm:host=127.0.0.1,port="+tcpBridge(t, tpmtest.Start(t))))
}

func TestASecondClientWaitsUntilTheFirstLeaves(t *testing.T) {
	t.Parallel()
	tpm := tpmtest.Start(t)
	first := dial(t, tpm.Address())
	d, err := Parse(tpm.Address())
	if err != nil {
		t.Fatal(err)
	}
	// Often enough to fill the queue of clients too.
	for range 20 {
		_, err = d.Dial(soon(t))
		if !errors.Is(err, ErrBusy) || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("while the first stays: %v, want ErrBusy", err)
		}
	}
	if !strings.Contains(err.Error(), "another client") {
		t.Errorf("the error %q does not say who holds the TPM", err)
	}
	drawRandom(t, first)

	second := make(chan error)
	go func() {
		c, err := d.Dial(t.Context())
		if err == nil {
			_, err = c.Transmit(t.Context(), getRandom)
			c.Close()
		}
		second <- err
	}()
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if err := <-second; err != nil {
		t.Errorf("after the first left: %v", err)
	}
}

func TestACancelledWaitForATurnSaysSo(t *testing.T) {
	t.Parallel()
	tpm := tpmtest.Start(t)
	dial(t, tpm.Address())
	d, err := Parse(tpm.Address())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Dial(ctx); !errors.Is(err, context.Canceled) || errors.Is(err, ErrBusy) {
		t.Errorf("error %v, want context.Canceled alone", err)
	}
}

func TestARestartedTPMIsNoticedBeforeACommandIsSent(t *testing.T) {
	t.Parallel()
	tpm := tpmtest.Start(t)
	c := dial(t, tpm.Address())
	drawRandom(t, c)
	tpm.Restart(t)
	if _, err := c.Transmit(t.Context(), getRandom); !errors.Is(err, ErrBroken) {
		t.Errorf("on the old connection: %v, want ErrBroken", err)
	}
	drawRandom(t, dial(t, tpm.Address()))
}

func TestAnEmulatorThatIsNotThere(t *testing.T) {
	t.Parallel()
	tpm := tpmtest.Start(t)
	tpm.Stop(t)
	port := deafPort(t)
	for address, want := range map[string]error{
		"swtpm:path=/nonexistent/s": fs.ErrNotExist,
		tpm.Address():               syscall.ECONNREFUSED,
		"swtpm:host=127.0.0.1,port=" + strconv.Itoa(port):   syscall.ECONNREFUSED,
		"mssim:host=127.0.0.1,port=" + strconv.Itoa(port-1): syscall.ECONNREFUSED,
	} {
		d, err := Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		_, err = d.Dial(t.Context())
		if !errors.Is(err, want) {
			t.Errorf("%s: error %v, want %v", address, err, want)
		} else if !strings.Contains(err.Error(), address) || !strings.Contains(err.Error(), "emulator") {
			t.Errorf("the error %q does not say what is missing", err)
		}
	}
}

// deafPort is a TCP port that is taken, so that no other test gets it, but on
// which nobody listens.
func deafPort(t *testing.T) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	address, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return address.(*unix.SockaddrInet4).Port
}
