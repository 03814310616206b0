//go:build nitrosim

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"

	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/mux"
)

// doors are the sockets that are served.
type doors struct {
	listeners []net.Listener
	failed    chan error // the first listener that fails
}

// tpm serves a TPM and swtpm's control channel on unix sockets; "" for neither.
func (d *doors) tpm(s *mux.Server, path string) error {
	if path == "" {
		return nil
	}
	if err := d.unix(path, s.Serve); err != nil {
		return err
	}
	return d.unix(path+".ctrl", mux.ServeControl)
}

// tcp serves the same on a port and the one after it; "" for neither.
func (d *doors) tcp(s *mux.Server, address string) error {
	if address == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return usageError{fmt.Errorf("--listen: %w", err)}
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || number == 0 || number == 65535 {
		return usageError{fmt.Errorf("--listen: port %q is not 1 to 65534", port)}
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	d.serve(l, s.Serve)
	l, err = net.Listen("tcp", net.JoinHostPort(host, strconv.FormatUint(number+1, 10)))
	if err != nil {
		return err
	}
	d.serve(l, mux.ServeControl)
	return nil
}

// unix serves on a unix socket that only this user and its group may use. A
// socket that nobody serves any more is replaced.
func (d *doors) unix(path string, serve func(net.Listener) error) error {
	if path == "" {
		return nil
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
		return fmt.Errorf("%s: somebody serves there already", path)
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	d.serve(l, serve)
	return os.Chmod(path, 0o660)
}

func (d *doors) serve(l net.Listener, serve func(net.Listener) error) {
	if d.failed == nil {
		d.failed = make(chan error, 1)
	}
	d.listeners = append(d.listeners, l)
	go func() {
		if err := serve(l); err != nil {
			select {
			case d.failed <- err:
			default:
			}
		}
	}()
}

// close closes the sockets and removes them.
func (d *doors) close() {
	for _, l := range d.listeners {
		l.Close()
	}
}
