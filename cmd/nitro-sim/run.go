//go:build nitrosim

package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/control"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/keyservice"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/mux"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/nsm"
	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/reference"
)

// settings are the flags of the emulator.
type settings struct {
	socket, listen, device, control string
	instance, region                string
	rootOut, time                   string
	latency                         time.Duration
	measured, rmRefuses, rmSwaps    bool
	kms                             string
	service                         service
}

const defaultRegion = "us-east-1"

func runCommand() *cobra.Command {
	var s settings
	c := &cobra.Command{
		Use:   "nitro-sim",
		Short: "A TPM with NitroTPM's attestation, for a laptop",
		Long: `nitro-sim emulates the TPM of an attestable EC2 instance: a TPM 2.0 that gives
attestation documents, signed by a PKI of its own, of its real PCRs. Any number
of clients use it at once, each with sessions and objects of its own, as through
/dev/tpmrm0. All state is in memory.

It speaks swtpm's protocol: --tpm swtpm:path=PATH, tpm2-tools' -T swtpm:path=PATH.
With --kms it serves a KMS too, which trusts its documents (see nitro-sim kms --help).`,
		Example: `  nitro-sim --socket /tmp/tpm --root-out /tmp/root.pem
  nitro-sim --socket /tmp/tpm --kms 127.0.0.1:4599 --principals principals.json --key web
  nitro-sim stats --socket /tmp/tpm`,
		Args: arguments(0),
		RunE: func(*cobra.Command, []string) error { return run(s) },
	}
	f := c.Flags()
	f.StringVar(&s.socket, "socket", "", "serve on a unix socket at PATH, its control channel at PATH.ctrl")
	f.StringVar(&s.listen, "listen", "", "serve on TCP at ADDRESS:PORT, its control channel at the port after it")
	f.StringVar(&s.device, "device", "", "serve on a further unix socket at PATH, which passes every command, as /dev/tpm0 does beside /dev/tpmrm0")
	f.StringVar(&s.control, "control", "", "the emulator's own control socket (default: the socket's path with "+control.Suffix+")")
	f.StringVar(&s.instance, "instance", "i-0123456789abcdef0", "EC2 instance id in documents")
	f.StringVar(&s.region, "region", defaultRegion, "AWS region, in documents' certificates and of the KMS")
	f.StringVar(&s.rootOut, "root-out", "", "write the root certificate of documents to FILE (PEM)")
	f.StringVar(&s.kms, "kms", "", "serve a KMS at ADDRESS:PORT of this machine, over plain http; port 0 is any")
	f.StringVar(&s.time, "time", "", "start the clock of documents at TIME (RFC 3339)")
	f.DurationVar(&s.latency, "latency", 0, "add this time to every command, those of context swaps too")
	f.BoolVar(&s.rmSwaps, "rm-swaps", false, "save what a client holds after each command and load it before the next, as /dev/tpmrm0 does, even when no other client comes between")
	f.BoolVar(&s.measured, "measured", true, "extend PCRs 0 to 7 at each boot, as a firmware does")
	f.BoolVar(&s.rmRefuses, "rm-refuses", false, "neither list the attestation command nor pass it, as a resource manager may: 0x000b0143")
	s.service.flags(f)
	return c
}

// run emulates until a signal ends it.
func run(s settings) error {
	if s.socket == "" && s.listen == "" {
		return usageError{errors.New("give --socket PATH or --listen ADDRESS:PORT")}
	}
	if s.latency < 0 {
		return usageError{errors.New("--latency is negative")}
	}
	if s.kms == "" && s.service.given() {
		return usageError{errors.New("--principals, --key and --fault are for a KMS: give --kms ADDRESS:PORT")}
	}
	now, err := clock(s.time)
	if err != nil {
		return usageError{err}
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)

	authority, err := nsm.New(s.instance, s.region, now())
	if err != nil {
		return err
	}
	hardware, err := reference.PowerOn()
	if err != nil {
		return err
	}
	machine, err := nitrosim.New(hardware, nitrosim.Options{
		Authority: authority, Now: now, Latency: s.latency, Measured: s.measured, Unlisted: s.rmRefuses,
	})
	if err != nil {
		return err
	}
	m, err := mux.New(machine)
	if err != nil {
		return err
	}
	m.Eager = s.rmSwaps

	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	shared := &mux.Server{Mux: m, Strict: s.rmRefuses, Log: log}
	device := &mux.Server{Mux: m, Log: log}
	own := &control.Server{Machine: machine, Mux: m, Servers: []*mux.Server{shared, device}}
	var doors doors
	defer doors.close()
	ready := s.readyLine()
	for _, open := range []func() error{
		func() error { return doors.tpm(shared, s.socket) },
		func() error { return doors.tpm(device, s.device) },
		func() error { return doors.tcp(shared, s.listen) },
		func() error { return doors.unix(s.controlPath(), own.Serve) },
		func() error {
			if s.kms == "" {
				return nil
			}
			served, err := s.service.open(&doors, s.kms, keyservice.Options{
				Region: s.region, Roots: []*x509.Certificate{authority.Root()}, Now: now, Log: log,
			})
			ready += served
			return err
		},
	} {
		if err := open(); err != nil {
			return err
		}
	}
	if s.rootOut != "" {
		root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Root().Raw})
		if err := os.WriteFile(s.rootOut, root, 0o644); err != nil {
			return err
		}
	}
	fmt.Println(ready)
	select {
	case <-stop:
	case err = <-doors.failed:
	}
	shared.Close()
	device.Close()
	return err
}

// clock is the time in documents, and what it is compared with: the present, or
// what goes on from a start.
func clock(start string) (func() time.Time, error) {
	if start == "" {
		return time.Now, nil
	}
	begin, err := time.Parse(time.RFC3339, start)
	if err != nil {
		return nil, fmt.Errorf("--time: %w", err)
	}
	started := time.Now()
	return func() time.Time { return begin.Add(time.Since(started)) }, nil
}

func (s settings) controlPath() string {
	if s.control == "" && s.socket != "" {
		return s.socket + control.Suffix
	}
	return s.control
}

func (s settings) readyLine() string {
	line := "nitro-sim ready:"
	if s.socket != "" {
		line += " swtpm:path=" + s.socket
	}
	if s.listen != "" {
		line += " swtpm at " + s.listen
	}
	if s.device != "" {
		line += " device swtpm:path=" + s.device
	}
	if s.rootOut != "" {
		line += " root " + s.rootOut
	}
	return line
}
