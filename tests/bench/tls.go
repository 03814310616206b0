package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tpm2-p11/tpm2-p11/internal/freeport"
)

// tlsPlan is what `make bench-tls` measures: servers that sign each handshake with a key in the TPM, beside what the TPM signs at most.
type tlsPlan struct {
	plan
	handshakes int // of each server and key
	clients    int // at once
}

// tlsColumns are the keys, and how they sign in TLS 1.3.
var tlsColumns = []column{{operationsByName["pss"], kindsByName["plain"]}, {operationsByName["ecdsa"], kindsByName["plain"]}}

func parseTLS(args []string) (tlsPlan, error) {
	var p tlsPlan
	f := p.flags("bench tls", 10, "rounds that the handshakes are spread over")
	f.IntVar(&p.handshakes, "handshakes", 5000, "handshakes of each server and key")
	f.IntVar(&p.clients, "clients", 16, "clients at once")
	if err := p.take(f, args); err != nil {
		return p, err
	}
	if p.handshakes < p.rounds || p.clients < 1 {
		return p, errors.New("there is at least one client, and one handshake for each round")
	}
	p.columns, p.threads, p.processes = tlsColumns, []int{1}, []int{1}
	return p, nil
}

// server is one way to serve TLS.
type server struct {
	name string
	// command is what serves on an address, with the key of a column, by a configuration.
	command func(r *rig, c column, config, address string) (env []string, program string, args []string, err error)
}

// In the first the key is a file: what handshakes cost on this machine besides signatures by the TPM.
var servers = []server{
	{"nginx, key in a file", func(r *rig, c column, _, address string) ([]string, string, []string, error) {
		return r.nginx(c, address, r.path(c.keyType+".key"), r.path(c.keyType+".crt"))
	}},
	{"nginx, 4 workers", func(r *rig, c column, config, address string) ([]string, string, []string, error) {
		env, program, args, err := r.nginx(c, address, "engine:pkcs11:pkcs11:token=open;object="+c.label()+";type=private", r.certificate(c))
		return append(env, "TPM2_P11_CONF="+config, "PKCS11_MODULE_PATH="+filepath.Join(r.build, "tpm2-p11.so")), program, args, err
	}},
	{"Go's tls.Config", func(r *rig, c column, config, address string) ([]string, string, []string, error) {
		return []string{"TPM2_P11_CONF=" + config}, own(), []string{"tls-server", "pkcs11:token=open;object=" + c.label(), r.certificate(c), address}, nil
	}},
}

// nginx is a server as docs/nginx.md has it.
func (r *rig) nginx(c column, address, key, certificate string) ([]string, string, []string, error) {
	template, err := os.ReadFile(filepath.Join(r.build, "../tests/bench/testdata/nginx.conf"))
	if err != nil {
		return nil, "", nil, err
	}
	text := strings.NewReplacer("@DIR@", r.dir, "@ADDRESS@", address, "@KEY@", key, "@CERTIFICATE@", certificate).Replace(string(template))
	conf := r.path("nginx.conf")
	return nil, "nginx", []string{"-e", r.path("error.log"), "-c", conf}, os.WriteFile(conf, []byte(text), 0o600)
}

func (r *rig) certificate(c column) string { return r.path(c.label() + ".crt") }

// served are the figures of one server with one key.
type served struct {
	rates, ratios, boots []float64 // boots in ms, from its start to the first answer
	latencies            []int64
	failed               int
	commands             int // of the TPM until its first answer
}

func runTLS(ctx context.Context, p tlsPlan) error {
	r, err := newRig(ctx, p.plan)
	if err != nil {
		return err
	}
	defer r.close()
	if err := r.certify(ctx); err != nil {
		return err
	}
	results := map[string]*served{}
	for round := range p.rounds {
		fmt.Fprintf(os.Stderr, "round %d of %d\n", round+1, p.rounds)
		for _, c := range p.columns {
			for _, s := range servers {
				at := c.keyType + s.name
				if results[at] == nil {
					results[at] = &served{}
				}
				if err := r.roundTLS(ctx, p, s, c, round, results[at]); err != nil {
					return fmt.Errorf("%s, %s: %w", s.name, c.keyType, err)
				}
			}
		}
	}
	table, failed := p.table(results)
	table += fmt.Sprintf("\n%s; %d handshakes of each server and key with %d clients, in %d rounds.\n", r.about(), p.handshakes, p.clients, p.rounds)
	fmt.Print(table)
	if p.markdown != "" {
		if err := os.WriteFile(p.markdown, []byte(table), 0o644); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d handshakes failed", failed)
	}
	return nil
}

// certify makes the certificates of the keys, and keys in files.
func (r *rig) certify(ctx context.Context) error {
	env := []string{"TPM2_P11_CONF=" + r.path("direct.conf")}
	for _, c := range r.columns {
		if _, err := r.output(ctx, env, filepath.Join(r.build, "tpm2-p11"), "key", "self-sign", c.label(), "--token", "open",
			"--subject", "CN=localhost", "--dns", "localhost", "--out", r.certificate(c)); err != nil {
			return err
		}
		algorithm := map[string][]string{"rsa2048": {"rsa:2048"}, "p256": {"ec", "-pkeyopt", "ec_paramgen_curve:P-256"}}[c.keyType]
		args := slices.Concat([]string{"req", "-x509", "-nodes", "-newkey"}, algorithm, []string{"-subj", "/CN=localhost",
			"-addext", "subjectAltName=DNS:localhost", "-keyout", r.path(c.keyType + ".key"), "-out", r.path(c.keyType + ".crt")})
		if _, err := r.output(ctx, nil, "openssl", args...); err != nil {
			return err
		}
	}
	return nil
}

// roundTLS is a raw batch, and the handshakes of a server after it.
func (r *rig) roundTLS(ctx context.Context, p tlsPlan, s server, c column, round int, results *served) error {
	if round == 0 && s.name != servers[0].name {
		r.proxy.Reset()
		counted, err := r.serve(ctx, s, c, r.path("counted.conf"))
		if err != nil {
			return err
		}
		counted.stop()
		results.commands = until(r.proxy.Codes(), c.command, 1)
	}
	n := shareOf(p.handshakes, p.rounds, round)
	raw, err := r.batch(ctx, rows[0], batchOf{column: c, ops: max(n/4, 20), threads: 1})
	if err != nil {
		return err
	}
	running, err := r.serve(ctx, s, c, r.path("direct.conf"))
	if err != nil {
		return err
	}
	defer running.stop()
	began := time.Now()
	latencies, failed := handshakes(running.client, p.clients, n)
	rate := float64(len(latencies)) / time.Since(began).Seconds()
	for _, err := range failed[:min(3, len(failed))] {
		fmt.Fprintln(os.Stderr, "a handshake failed:", err)
	}
	results.failed += len(failed)
	results.latencies = append(results.latencies, latencies...)
	results.rates = append(results.rates, rate)
	results.ratios = append(results.ratios, rate*float64(raw.Wall)/1e9/float64(len(raw.Nanoseconds)))
	results.boots = append(results.boots, running.boot)
	return nil
}

// running is a server that answered once.
type running struct {
	client client
	boot   float64 // ms until it did
	stop   func()
}

// serve starts a server and waits for its first answer.
func (r *rig) serve(ctx context.Context, s server, c column, config string) (running, error) {
	address, err := freeAddress()
	if err != nil {
		return running{}, err
	}
	env, program, args, err := s.command(r, c, config, address)
	if err != nil {
		return running{}, err
	}
	certificate := r.certificate(c)
	if s.name == servers[0].name {
		certificate = r.path(c.keyType + ".crt")
	}
	client, err := newClient(address, certificate)
	if err != nil {
		return running{}, err
	}
	command := exec.CommandContext(ctx, program, args...)
	command.Env, command.Stderr = append(os.Environ(), env...), os.Stderr
	began := time.Now()
	if err := command.Start(); err != nil {
		return running{}, err
	}
	stop := func() {
		_ = command.Process.Signal(syscall.SIGTERM)
		_ = command.Wait()
	}
	for time.Since(began) < startTimeout {
		if err = client.handshake(); err == nil {
			return running{client, float64(time.Since(began).Microseconds()) / 1e3, stop}, nil
		}
		time.Sleep(time.Millisecond)
	}
	stop()
	return running{}, fmt.Errorf("%s does not answer: %w", s.name, err)
}

// freeAddress is one that nobody listens on.
func freeAddress() (string, error) {
	port, err := freeport.Next()
	return net.JoinHostPort("127.0.0.1", port), err
}

// tlsLegend says what a reader of the table alone could not know.
const tlsLegend = `
Handshakes to raw signatures: handshakes/s, divided by the signatures/s of one process that sends the TPM the finished signing
commands and nothing else, measured just before. A handshake takes one signature: 1 is what the TPM can do.
`

func (p tlsPlan) table(results map[string]*served) (table string, failed int) {
	var b strings.Builder
	fmt.Fprintln(&b, "| key | server | handshakes to raw signatures | handshakes/s | failed of | median ms | p99 ms | start to first 200 OK, ms | TPM commands to the first signature |")
	fmt.Fprintln(&b, "|---|---|---|---|---|---|---|---|---|")
	for _, c := range p.columns {
		for _, s := range servers {
			m := results[c.keyType+s.name]
			slices.Sort(m.latencies)
			commands := ""
			if m.commands > 0 {
				commands = strconv.Itoa(m.commands)
			}
			fmt.Fprintf(&b, "| %s | %s | %.3f | %.0f | %d of %d | %.1f | %.1f | %.0f | %s |\n", c.keyType, s.name, median(m.ratios), median(m.rates), m.failed,
				p.handshakes, float64(at100(m.latencies, 50))/1e6, float64(at100(m.latencies, 99))/1e6, median(m.boots), commands)
			failed += m.failed
		}
	}
	b.WriteString(tlsLegend)
	return b.String(), failed
}
