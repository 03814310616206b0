package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/internal/serve"
	"github.com/tpm2-p11/tpm2-p11/internal/tokens"
)

// serveFlags say what is served.
type serveFlags struct {
	fd          int
	supervised  bool // by the process that started this one
	supervising bool // the process that started this one
	socket      string
	metrics     string
}

func serveCommand(a *app) *cobra.Command {
	var flags serveFlags
	c := &cobra.Command{
		Use:   "serve",
		Short: "Answer for the keys in another process's stead",
		Long: `serve answers the calls of the PKCS#11 module in other processes.

With --socket it is a service: programs whose configuration names the socket use its keys and need no right to the
TPM. Who may use which keys, and for what, is in the [[access]] tables of its own configuration. A socket that systemd
passes is taken instead. SIGHUP reads the configuration again, SIGTERM lets calls in work end. --metrics counts
calls, TPM commands and refusals for Prometheus, at a unix socket or a port of this machine.

With --fd it is the helper of a server that forks: the module starts it by itself, with the server's rights, and
it ends with the last process of that server.`,
		Example: "  tpm2-p11 serve --socket /run/tpm2-p11/socket",
		Args:    exactly(),
		RunE: a.verb(func(ctx context.Context, _ []string) error {
			return a.serve(ctx, flags)
		}),
	}
	c.Flags().IntVar(&flags.fd, "fd", -1, "serve the forked children that pass their connections over this `DESCRIPTOR`")
	c.Flags().StringVar(&flags.socket, "socket", "", "serve whoever connects to this `SOCKET` and may use keys")
	c.Flags().StringVar(&flags.metrics, "metrics", "", "give numbers for Prometheus at this `ADDRESS`, unix:/path or 127.0.0.1:port")
	c.Flags().BoolVar(&flags.supervised, "supervised", false, "")
	c.Flags().BoolVar(&flags.supervising, "supervising", false, "")
	for _, of := range []string{"supervised", "supervising"} {
		if err := c.Flags().MarkHidden(of); err != nil {
			panic(err) // the lines above define it
		}
	}
	return c
}

func (a *app) serve(ctx context.Context, flags serveFlags) error {
	switch {
	case flags.socket != "" && flags.fd >= 0:
		return usagef("--socket and --fd exclude each other")
	case flags.metrics != "" && flags.socket == "":
		return usagef("--metrics goes with --socket")
	case flags.socket != "":
		return a.serveSocket(ctx, flags.socket, flags.metrics)
	case flags.fd >= 0:
		return a.serveDescriptor(flags)
	}
	return usagef("what is to be served? --socket is missing")
}

// serveSocket is the service.
func (a *app) serveSocket(ctx context.Context, path, metricsAddress string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	load := func() (config.Config, error) {
		c, err := config.Load(a.global.config)
		if err != nil {
			return c, err
		}
		log := c.Log
		if c, err = a.override(c); err != nil {
			return c, err
		}
		if !a.global.verbose {
			c.Log = log // a service's refusals are read in its log
		}
		return c, tokens.Check(c)
	}
	c, err := load()
	if err != nil {
		return err
	}
	if err := tokens.CheckLog(c); err != nil {
		if err := a.warn(err.Error()); err != nil {
			return err
		}
	}
	log := tokens.NewLogger(c)
	listener, err := serve.Listen(path, len(c.Access) > 0)
	if err != nil {
		return err
	}
	defer listener.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var metrics *serve.Metrics
	if metricsAddress != "" {
		metrics = serve.NewMetrics()
		stop, err := metrics.Listen(metricsAddress)
		if err != nil {
			return fmt.Errorf("--metrics: %w", err)
		}
		defer stop()
	}
	server := serve.NewServer(c, metrics, log)
	go reloadOnHangup(ctx, load, server, path, log)
	go serve.KeepAlive(ctx)
	told := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(told)
		serve.Notify("STOPPING=1")
	})
	serve.Notify("READY=1")
	err = server.Serve(ctx, listener)
	cancel()
	<-told
	return err
}

// reloadOnHangup reads the configuration again when asked to. One that is wrong is told, and the one before stays.
func reloadOnHangup(ctx context.Context, load func() (config.Config, error), server *serve.Server, path string, log *slog.Logger) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
		}
		c, err := load()
		if err != nil {
			log.Error("the configuration cannot be read: the one before stays", "reason", err.Error())
			continue
		}
		server.Reload(c)
		if err := serve.Admit(path, len(c.Access) > 0); err != nil {
			log.Error("who may connect cannot be changed", "reason", err.Error())
		}
		log.Info("the configuration was read again")
	}
}

// serveDescriptor is the helper: one process that serves, and its supervisor. Each starts the other again when that dies or hangs.
func (a *app) serveDescriptor(flags serveFlags) error {
	if err := checkControlSocket(flags.fd); err != nil {
		return err
	}
	// It ends when nobody is left to be served, and not before: a stop of the server's whole group must not take the keys from
	// workers that still finish their connections.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH, syscall.SIGQUIT)
	unix.CloseOnExec(flags.fd)
	control := os.NewFile(uintptr(flags.fd), "control")
	load := func() (config.Config, error) { return config.Load(a.global.config) }
	log := configuredLogger(load)
	var starter *serve.Partner
	if flags.supervised || flags.supervising {
		unix.CloseOnExec(serve.PartnerLink)
		var err error
		if starter, err = serve.Starter(os.NewFile(serve.PartnerLink, "link")); err != nil {
			return fmt.Errorf("the link to the other process: %w", err)
		}
	}
	if !flags.supervised {
		serve.Attend(control, starter, "server", again("--supervised"), log)
		return nil
	}
	go serve.Attend(control, starter, "supervisor", again("--supervising"), log)
	return serve.Helper(control, serve.NewSource(load, true), log)
}

// again makes the command for the other one of a helper's two processes.
func again(role string) func() *exec.Cmd {
	return func() *exec.Cmd {
		cmd := exec.Command("/proc/self/exe", "serve", "--fd", "3", role)
		cmd.Args[0] = os.Args[0]
		cmd.Stderr = os.Stderr
		return cmd
	}
}

// configuredLogger is the log that the configuration asks for, the system's if it cannot be read.
func configuredLogger(load func() (config.Config, error)) *slog.Logger {
	c, err := load()
	if err != nil {
		return tokens.DefaultLogger()
	}
	return tokens.NewLogger(c)
}

// checkControlSocket refuses what the module would not have given.
func checkControlSocket(fd int) error {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || kind != unix.SOCK_SEQPACKET {
		return usageError{errors.Join(fmt.Errorf("--fd %d is no control socket: the module starts its helper by itself", fd), err)}
	}
	return nil
}
