package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
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

// startSession is TPM2_StartAuthSession for an HMAC session without a key: it takes one of the TPM's few places.
var startSession = append(append([]byte{0x80, 0x01, 0, 0, 0, 59, 0, 0, 0x01, 0x76, 0x40, 0, 0, 7, 0x40, 0, 0, 7, 0, 32},
	make([]byte, 32)...), 0, 0, 0, 0, 0x10, 0, 0x0b)

func TestASecondClientWaitsUntilTheFirstLeaves(t *testing.T) {
	t.Parallel()
	tpm := tpmtest.Start(t)
	first := dial(t, tpm.Address())
	drawRandom(t, first)
	d, err := Parse(tpm.Address())
	if err != nil {
		t.Fatal(err)
	}
	ask := func(ctx context.Context, command []byte) error {
		c, err := d.Dial(ctx)
		if err != nil {
			return err
		}
		defer c.Close()
		response, err := c.Transmit(ctx, command)
		if err == nil && binary.BigEndian.Uint32(response[6:]) != 0 {
			t.Errorf("command % x: response % x", command, response)
		}
		return err
	}
	// Often enough to fill the queue of clients too.
	for i := range 20 {
		err := ask(soon(t), [][]byte{getRandom, startSession}[i%2])
		if !errors.Is(err, ErrBusy) || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("while the first stays: %v, want ErrBusy", err)
		}
		if !strings.Contains(err.Error(), "another client") {
			t.Errorf("the error %q does not say who holds the TPM", err)
		}
	}
	drawRandom(t, first)

	second := make(chan error)
	go func() { second <- ask(t.Context(), getRandom) }()
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if err := <-second; err != nil {
		t.Errorf("after the first left: %v", err)
	}
	if n := tpm.Count(t).Sessions; n != 0 {
		t.Errorf("%d sessions were started for clients that had gone", n)
	}
}

func TestACommandThatChangesNothingIsAllThatIsSent(t *testing.T) {
	t.Parallel()
	for want, command := range map[string][]byte{"17b": getRandom, "17c 176": startSession} {
		var got []string
		done := make(chan struct{})
		c := dial(t, fakeTPM(t, func(c net.Conn) {
			defer close(done)
			header := make([]byte, headerSize)
			for {
				if _, err := io.ReadFull(c, header); err != nil {
					return
				}
				rest := int64(binary.BigEndian.Uint32(header[2:])) - headerSize
				if _, err := io.CopyN(io.Discard, c, rest); err != nil {
					return
				}
				got = append(got, fmt.Sprintf("%x", binary.BigEndian.Uint32(header[6:])))
				if _, err := c.Write(response(10, 10)); err != nil {
					return
				}
			}
		}))
		if _, err := c.Transmit(t.Context(), command); err != nil {
			t.Error(err)
		}
		c.Close()
		<-done
		if got := strings.Join(got, " "); got != want {
			t.Errorf("the TPM got %s, want %s", got, want)
		}
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
