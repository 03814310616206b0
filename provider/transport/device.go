package transport

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// deviceDialer opens a Linux TPM device.
type deviceDialer struct {
	address string   // "" for the default
	paths   []string // the first that exists is opened
}

func newDeviceDialer(address string, paths ...string) *deviceDialer {
	return &deviceDialer{address: address, paths: paths}
}

// path is the first path that exists, else the first.
func (d *deviceDialer) path() string {
	for _, p := range d.paths {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return d.paths[0]
}

func (d *deviceDialer) String() string {
	if d.address == "" {
		return "device:" + d.path()
	}
	return d.address
}

// Managed tells the kernel's resource manager, /dev/tpmrmN.
func (d *deviceDialer) Managed() bool {
	path := d.path()
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	return strings.HasPrefix(filepath.Base(path), "tpmrm")
}

func (d *deviceDialer) Dial(ctx context.Context) (Conn, error) {
	ctx, cancel := withDeadline(ctx, DialTimeout)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", d, err)
	}
	path := d.path()
	// /dev/tpm0 can be open once only; the kernel does not queue the others.
	file, err := waitTurn(ctx, syscall.EBUSY, func() (*os.File, error) { return openDevice(path) })
	if err != nil {
		return nil, d.explain(path, err)
	}
	return &deviceConn{address: d.String(), file: file}, nil
}

// openDevice opens a device without Go's poller: it would make the file
// non-blocking, and the TPM driver's poll and read then wait for the running
// command all the same, in the poller's thread.
func openDevice(path string) (*os.File, error) {
	for {
		fd, err := syscall.Open(path, syscall.O_RDWR|syscall.O_CLOEXEC, 0)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), path), nil
		case !errors.Is(err, syscall.EINTR):
			return nil, &fs.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

// explain adds to a failed open what can be done about it.
func (d *deviceDialer) explain(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist) && len(d.paths) > 1:
		return fmt.Errorf("this machine shows no TPM: neither of %s is there: %w", strings.Join(d.paths, ", "), absentError{absentMend})
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ENXIO):
		return fmt.Errorf("%w: %s", err, absentMend)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %s", err, permissionMend(path))
	}
	return fmt.Errorf("%s: %w", d, err)
}

// absentError is fs.ErrNotExist in the words of what to do about it.
type absentError struct{ mend string }

func (e absentError) Error() string { return e.mend }

func (absentError) Is(target error) bool { return target == fs.ErrNotExist }

const absentMend = "switch the TPM on in the firmware or the virtual machine's settings, and load its driver (tpm_crb or tpm_tis)"

// permissionMend says how a user gets to use a device.
func permissionMend(path string) string {
	if info, err := os.Stat(path); err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Gid != 0 && info.Mode().Perm()&0o060 == 0o060 {
			return fmt.Sprintf("add this user to the group that owns it, gid %d, usually tss (usermod -aG tss USER), and log in again", st.Gid)
		}
	}
	return "no group but root's may use it: install the udev rules for TPMs (package tpm-udev or tpm2-tss), " +
		"add this user to group tss (usermod -aG tss USER), and log in again"
}

// deviceConn is a Conn over a TPM device: one write for a command, then the
// response is read.
type deviceConn struct {
	address string
	file    *os.File
	command [maxSize]byte
	buf     [maxSize + 1]byte
	broken  error

	running  chan deviceResult // the exchange whose response was not received yet, nil for none
	patience time.Duration     // with it
}

type deviceResult struct {
	response []byte
	err      error
}

// Transmit hands the command to the driver. The driver cannot be interrupted: a
// command whose context ends is abandoned, and the device stays open, until the
// TPM has answered or the driver's own timeout has passed.
func (c *deviceConn) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", c.address, err)
	}
	if err := c.Send(command); err != nil {
		return nil, err
	}
	return c.Receive(ctx)
}

func (c *deviceConn) Send(command []byte) error {
	if err := checkCommand(command); err != nil {
		return err
	}
	if c.broken != nil {
		return fmt.Errorf("%s: %w: %w", c.address, ErrBroken, c.broken)
	}
	done := make(chan deviceResult, 1)
	c.running, c.patience = done, CommandTimeout(command)
	// An abandoned exchange may outlive the caller's own slice.
	own := c.command[:copy(c.command[:], command)]
	go func() {
		response, err := c.exchange(own)
		done <- deviceResult{response, err}
	}()
	return nil
}

func (c *deviceConn) Receive(ctx context.Context) ([]byte, error) {
	if c.broken != nil {
		return nil, fmt.Errorf("%s: %w", c.address, c.broken)
	}
	ctx, cancel := withDeadline(ctx, c.patience)
	defer cancel()
	var r deviceResult
	select {
	case r = <-c.running:
		c.running = nil
	case <-ctx.Done():
		r.err = ctx.Err()
	}
	if r.err != nil {
		c.broken = r.err
		c.file.Close() // takes effect when the exchange is over
		return nil, fmt.Errorf("%s: %w", c.address, r.err)
	}
	return r.response, nil
}

func (c *deviceConn) exchange(command []byte) ([]byte, error) {
	if _, err := c.file.Write(command); err != nil {
		return nil, err
	}
	return readResponse(c.file, c.buf[:])
}

func (c *deviceConn) Close() error {
	if c.broken != nil {
		return nil
	}
	c.broken = errClosed
	if c.running == nil {
		clear(c.command[:])
		clear(c.buf[:])
	}
	return c.file.Close()
}
