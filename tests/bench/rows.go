package main

import (
	"context"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

// batchOf is one run of a row.
type batchOf struct {
	column
	ops, threads int
	counted      bool // through the proxy
}

// row is one way to have an operation done.
type row struct {
	name string
	// offers tells whether it can do this.
	offers func(r *rig, b batchOf) bool
	// prepare starts what it needs besides its own process; it may be nil.
	prepare func(ctx context.Context, r *rig, b batchOf) (stop func(), err error)
	command func(r *rig, b batchOf) (env []string, program string, args []string)
}

// rawRow is what all ratios are to: the first.
const rawRow = "raw"

var rows = []row{
	{name: rawRow, offers: always, command: rawCommandLine},
	{name: "verified raw", offers: func(_ *rig, b batchOf) bool { return b.public() != "" && b.kind.name == "plain" && b.threads == 1 },
		command: func(r *rig, b batchOf) ([]string, string, []string) {
			env, program, args := rawCommandLine(r, b)
			return env, program, append(args, r.path(b.public()))
		}},
	{name: "go signer", offers: always, command: signerCommandLine},
	{name: "module", offers: always, command: func(r *rig, b batchOf) ([]string, string, []string) {
		return moduleEnv(r, b), r.path("host"), moduleArgs(r, b)
	}},
	{name: "module in a forked child", offers: always, command: func(r *rig, b batchOf) ([]string, string, []string) {
		return moduleEnv(r, b), r.path("host"), append(moduleArgs(r, b), "fork")
	}},
	{name: "module through serve", offers: always, prepare: startServe, command: func(r *rig, b batchOf) ([]string, string, []string) {
		return []string{"TPM2_P11_CONF=" + r.path("served.conf")}, r.path("host"), moduleArgs(r, b)
	}},
}

func init() { rows = append(rows, otherRows...) }

func always(*rig, batchOf) bool { return true }

// own is this program, for rows that are Go.
func own() string {
	path, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return path
}

func rawCommandLine(r *rig, b batchOf) ([]string, string, []string) {
	socket := r.socket
	if b.counted {
		socket = r.proxy.Socket()
	}
	return nil, own(), []string{"raw", socket, r.handles[b.label()], b.name, hex.EncodeToString(r.ciphertexts[b.label()]), strconv.Itoa(b.ops)}
}

func signerCommandLine(r *rig, b batchOf) ([]string, string, []string) {
	return moduleEnv(r, b), own(), []string{"signer", "pkcs11:token=" + b.token() + ";object=" + b.label(), b.name,
		hex.EncodeToString(r.ciphertexts[b.label()]), strconv.Itoa(b.ops), strconv.Itoa(b.threads), r.path("pin.txt")}
}

func moduleEnv(r *rig, b batchOf) []string {
	if b.counted {
		return []string{"TPM2_P11_CONF=" + r.path("counted.conf")}
	}
	return []string{"TPM2_P11_CONF=" + r.path("direct.conf")}
}

func moduleArgs(r *rig, b batchOf) []string {
	slot, pin := "0", "-"
	if b.kind.pin {
		slot, pin = "1", r.path("pin.txt")
	}
	return []string{filepath.Join(r.build, "tpm2-p11.so"), slot, b.label(), b.name, r.path(b.label()), strconv.Itoa(b.ops), strconv.Itoa(b.threads), pin}
}

// startServe runs the service, in whose place nothing else touches the TPM.
func startServe(ctx context.Context, r *rig, b batchOf) (func(), error) {
	if err := os.MkdirAll(r.path("serve"), 0o700); err != nil {
		return nil, err
	}
	c := exec.CommandContext(ctx, filepath.Join(r.build, "tpm2-p11"), "serve", "--socket", r.path("serve/socket"))
	c.Env = append(os.Environ(), moduleEnv(r, b)...)
	if err := c.Start(); err != nil {
		return nil, err
	}
	stop := func() {
		_ = c.Process.Signal(os.Interrupt)
		_ = c.Wait()
		os.Remove(r.path("serve/socket"))
	}
	if err := r.await(ctx, r.path("serve/socket")); err != nil {
		stop()
		return nil, errors.Join(errors.New("tpm2-p11 serve"), err)
	}
	return stop, nil
}
