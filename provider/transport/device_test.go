package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/internal/tpmtest"
	"golang.org/x/sys/unix"
)

// terminal is a character device, a raw pseudo terminal, with its other end.
func terminal(t *testing.T) (path string, other *os.File) {
	t.Helper()
	other, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })
	raw, err := other.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		n, err := unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		if err != nil {
			t.Fatal(err)
		}
		path = fmt.Sprintf("/dev/pts/%d", n)
		if err := unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err != nil {
			t.Fatal(err)
		}
		if err := unix.IoctlSetTermios(int(fd), unix.TCSETS, &unix.Termios{
			Cflag: unix.CS8 | unix.CREAD,
			Cc:    [19]uint8{unix.VMIN: 1},
		}); err != nil {
			t.Fatal(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	return path, other
}

func TestADeviceAnswers(t *testing.T) {
	t.Parallel()
	path, other := terminal(t)
	swtpm, err := net.Dial("unix", tpmtest.Start(t).Socket())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { swtpm.Close() })
	go func() { _, _ = io.Copy(other, swtpm) }()
	go func() { _, _ = io.Copy(swtpm, other) }()
	c := dial(t, "device:"+path)
	drawRandom(t, c)
	for range 2 {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.Transmit(t.Context(), getRandom); !errors.Is(err, ErrBroken) {
		t.Errorf("after Close: error %v, want ErrBroken", err)
	}
}

func TestACommandToADeviceIsLeftAtItsEnd(t *testing.T) {
	t.Parallel()
	cancelled, cancel := context.WithCancel(t.Context())
	defer cancel()
	for want, ctx := range map[error]context.Context{context.DeadlineExceeded: soon(t), context.Canceled: cancelled} {
		path, other := terminal(t)
		c := dial(t, "device:"+path)
		go func() {
			_, _ = io.ReadFull(other, make([]byte, len(getRandom)))
			if errors.Is(want, context.Canceled) {
				cancel()
			}
		}()
		if _, err := c.Transmit(ctx, getRandom); !errors.Is(err, want) {
			t.Errorf("error %v, want %v", err, want)
		}
		if _, err := c.Transmit(t.Context(), getRandom); !errors.Is(err, ErrBroken) {
			t.Errorf("afterwards: error %v, want ErrBroken", err)
		}
	}
}

func TestADevicesMalformedResponseIsRefused(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string][]byte{
		"too short": response(10, 9),
		"too long":  response(10, 4097),
		"more":      response(21, 20),
	} {
		path, other := terminal(t)
		c := dial(t, "device:"+path)
		go func() {
			_, _ = io.ReadFull(other, make([]byte, len(getRandom)))
			_, _ = other.Write(answer)
		}()
		if _, err := c.Transmit(t.Context(), getRandom); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: error %v, want ErrMalformed", name, err)
		}
		if _, err := c.Transmit(t.Context(), response(12, 13)); !errors.Is(err, ErrMalformed) {
			t.Errorf("a malformed command: error %v, want ErrMalformed", err)
		}
	}
}

func TestADeviceThatGoesAway(t *testing.T) {
	t.Parallel()
	path, other := terminal(t)
	c := dial(t, "device:"+path)
	other.Close()
	if _, err := c.Transmit(t.Context(), getRandom); !errors.Is(err, unix.EIO) {
		t.Errorf("error %v, want EIO", err)
	}
}

func TestAMissingDevice(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, d := range []Dialer{
		newDeviceDialer("device:"+dir+"/tpm0", dir+"/tpm0"),
		newDeviceDialer("", dir+"/tpmrm0", dir+"/tpm0"),
	} {
		_, err := d.Dial(t.Context())
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: error %v, want fs.ErrNotExist", d, err)
		} else if !strings.Contains(err.Error(), dir+"/tpm0") || !strings.Contains(err.Error(), "firmware") {
			t.Errorf("the error %q does not name the device and the mend", err)
		}
	}
}

func TestTheDefaultIsTheFirstDeviceThatExists(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	managed, raw := filepath.Join(dir, "tpmrm0"), filepath.Join(dir, "tpm0")
	d := newDeviceDialer("", managed, raw)
	for _, step := range []struct{ made, want string }{{"", managed}, {raw, raw}, {managed, managed}} {
		if step.made != "" {
			if err := os.WriteFile(step.made, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := d.String(); got != "device:"+step.want {
			t.Errorf("after %q was made: %s, want %s", step.made, got, step.want)
		}
	}
}

func TestADeviceWithoutPermission(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "tpmrm0")
	if err := os.WriteFile(path, nil, 0); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(path, 0, 4321); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		mode fs.FileMode
		mend string
	}{{0, "udev rules"}, {0o060, "to the group that owns it"}} {
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		restore := withoutCapabilities(t)
		_, err := newDeviceDialer("device:"+path, path).Dial(t.Context())
		restore()
		if !errors.Is(err, fs.ErrPermission) {
			t.Errorf("error %v, want fs.ErrPermission", err)
		} else if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), c.mend) || !strings.Contains(err.Error(), "tss") {
			t.Errorf("the error %q does not name the device and the mend", err)
		}
	}
}

// A terminal in exclusive mode refuses a second open with EBUSY, as /dev/tpm0 does.
func TestABusyDeviceIsWaitedFor(t *testing.T) {
	t.Parallel()
	path, _ := terminal(t)
	holder, err := openDevice(path)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	if err := unix.IoctlSetInt(int(holder.Fd()), unix.TIOCEXCL, 0); err != nil {
		t.Fatal(err)
	}
	d := newDeviceDialer("device:"+path, path)

	defer withoutCapabilities(t)()
	if _, err := d.Dial(soon(t)); !errors.Is(err, ErrBusy) || !errors.Is(err, unix.EBUSY) {
		t.Errorf("while it is held: error %v, want ErrBusy", err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	context.AfterFunc(soon(t), cancel)
	if _, err := d.Dial(cancelled); !errors.Is(err, context.Canceled) || errors.Is(err, ErrBusy) {
		t.Errorf("a cancelled wait: error %v, want context.Canceled alone", err)
	}

	released := make(chan error, 1)
	context.AfterFunc(soon(t), func() {
		released <- unix.IoctlSetInt(int(holder.Fd()), unix.TIOCNXCL, 0)
	})
	c, err := d.Dial(t.Context())
	if err := <-released; err != nil {
		t.Error(err)
	}
	if err != nil {
		t.Fatalf("after it was let go: %v", err)
	}
	c.Close()
}

// withoutCapabilities takes root's effective capabilities from this goroutine's
// thread, until the function it returns is called: permissions count then.
func withoutCapabilities(t *testing.T) (restore func()) {
	t.Helper()
	runtime.LockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var old [2]unix.CapUserData
	if err := unix.Capget(&header, &old[0]); err != nil {
		t.Fatal(err)
	}
	none := old
	none[0].Effective, none[1].Effective = 0, 0
	if err := unix.Capset(&header, &none[0]); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := unix.Capset(&header, &old[0]); err != nil {
			t.Error(err)
		}
		runtime.UnlockOSThread()
	}
}

// What a resource manager's device is called decides, and not what else its address says.
func TestWhichTPMsAreManaged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	link := filepath.Join(dir, "tpm")
	if err := os.WriteFile(filepath.Join(dir, "tpmrm1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("tpmrm1", link); err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]bool{
		"device:/dev/tpmrm0":              true,
		"device:/dev/tpm0":                false,
		"device:" + link:                  true,
		"device:/dev/tpmrm0/tpm0":         false,
		"swtpm:path=/run/tpmrm0":          false,
		"swtpm:path=/tpmrm/s":             false,
		"swtpm:host=tpmrm.example,port=1": false,
		"mssim:host=localhost,port=2321":  false,
	} {
		d, err := Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		if got := d.Managed(); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
}
