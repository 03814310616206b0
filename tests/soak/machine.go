package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/tpm2-p11/tpm2-p11/internal/faulttpm"
)

// machine is an emulated TPM, a wire to it that breaks, a token with keys, and a service.
type machine struct {
	build, dir string
	sim        *exec.Cmd
	wire       *faulttpm.Proxy
	service    *exec.Cmd
}

const (
	pin      = "a PIN for a soak"
	startsIn = time.Minute
)

// keys are those that applications use.
var keys = map[string][]string{
	"rsa":   {"--type", "rsa2048"},
	"ec":    {"--type", "p256", "--wrapped"},
	"bound": {"--type", "p256", "--pcr", "sha256:7"},
	"mail":  {"--type", "rsa2048", "--use", "decrypt"},
}

func newMachine(ctx context.Context, build string) (*machine, error) {
	dir, err := os.MkdirTemp("", "soak")
	if err != nil {
		return nil, err
	}
	m := &machine{dir: dir}
	if m.build, err = filepath.Abs(build); err == nil {
		err = m.start(ctx)
	}
	if err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

func (m *machine) start(ctx context.Context) (err error) {
	if m.sim, err = m.daemon("sim.log", "nitro-sim", "--socket", m.path("tpm")); err != nil {
		return err
	}
	if err = await(ctx, m.path("tpm")); err != nil {
		return err
	}
	if m.wire, err = faulttpm.Listen(m.path("wire"), m.path("tpm")); err != nil {
		return err
	}
	// What is verified is what the processor computes: all signatures, since the wire changes answers.
	token := fmt.Sprintf("tpm = %q\nstore = %q\nlog = %q\nverify_signatures = \"all\"\n", m.wire.Address(), m.path("store"), "file:"+m.path("log"))
	for name, text := range map[string]string{
		"direct.conf":  token,
		"server.conf":  token + fmt.Sprintf("[[access]]\nusers = [\"%d\"]\npurposes = [\"sign\", \"decrypt\"]\n", os.Geteuid()),
		"service.conf": fmt.Sprintf("socket = %q\nlog = %q\n", m.path("service"), "file:"+m.path("log")),
		"pin":          pin,
	} {
		if err := os.WriteFile(m.path(name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	if _, err := m.command(ctx, "init", "--label", "soak", "--pin-file", m.path("pin"), "--so-pin-file", m.path("pin")); err != nil {
		return err
	}
	for label, how := range keys {
		if _, err := m.command(ctx, append([]string{"key", "create", label, "--force", "--pin-file", m.path("pin")}, how...)...); err != nil {
			return err
		}
		if _, err := m.command(ctx, "key", "public", label, "--out", m.path(label+".pub")); err != nil {
			return err
		}
	}
	return m.serve(ctx)
}

func (m *machine) path(name string) string { return filepath.Join(m.dir, name) }

// close ends what was started and forgets it all.
func (m *machine) close() {
	m.kill(m.service)
	if m.wire != nil {
		m.wire.Close()
	}
	m.kill(m.sim)
	os.RemoveAll(m.dir)
}

func (m *machine) kill(c *exec.Cmd) {
	if c != nil {
		_ = c.Process.Kill()
		_ = c.Wait()
	}
}

func (m *machine) daemon(log, program string, args ...string) (*exec.Cmd, error) {
	out, err := os.OpenFile(m.path(log), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	c := exec.Command(filepath.Join(m.build, program), args...)
	c.Stdout, c.Stderr = out, out
	return c, c.Start()
}

// serve starts the service, anew if it was killed.
func (m *machine) serve(ctx context.Context) (err error) {
	m.kill(m.service)
	if m.service, err = m.daemon("service.log", "tpm2-p11", "serve", "--config", m.path("server.conf"), "--socket", m.path("service")); err != nil {
		return err
	}
	return await(ctx, m.path("service"))
}

// await waits until something listens on a socket.
func await(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, startsIn)
	defer cancel()
	for {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("nothing listens on %s: %w", socket, err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// command runs the command on the token, and gives what it prints.
func (m *machine) command(ctx context.Context, args ...string) (string, error) {
	c := exec.CommandContext(ctx, filepath.Join(m.build, "tpm2-p11"), append(args, "--config", m.path("direct.conf"))...)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("tpm2-p11 %s: %w\n%s", strings.Join(args, " "), err, &stderr)
	}
	return stdout.String(), nil
}

// soak runs the applications until the time is over, with trouble all the while, and then once more without.
func (m *machine) soak(ctx context.Context, duration time.Duration, t *trouble, total *report) error {
	var apps []*app
	defer func() {
		for _, a := range apps {
			m.kill(a.cmd)
		}
	}()
	for _, w := range []struct{ worker, conf string }{{"module", "direct.conf"}, {"signer", "direct.conf"}, {"module", "service.conf"}} {
		a, err := m.launch(w.worker, w.conf)
		if err != nil {
			return err
		}
		apps = append(apps, a)
	}
	m.wire.Inject(t.fault)
	if err := m.unrest(ctx, duration, t, total); err != nil {
		return err
	}
	m.wire.Inject(nil)
	total.Faults += t.count.Load()
	for _, a := range apps {
		r, err := a.finish()
		if err != nil {
			return err
		}
		total.add(r)
	}
	apps = nil
	return nil
}

// unrest kills the service, resets the TPM, and makes and deletes keys, until the time is over.
func (m *machine) unrest(ctx context.Context, duration time.Duration, t *trouble, total *report) error {
	const most = 8 // resets: each counts as a wrong PIN, where the TPM had no time to say good-bye
	end, resets := time.Now().Add(duration), 0
	for round := 0; time.Now().Before(end) && ctx.Err() == nil; round++ {
		_, err := m.command(ctx, "key", "create", fmt.Sprintf("passing %d", round), "--type", "p256", "--pin-file", m.path("pin"))
		total.Operations++
		if err != nil {
			total.Refused++
		}
		switch {
		case round%5 == 1:
			total.Faults++
			if err := m.serve(ctx); err != nil {
				return err
			}
		case round%20 == 12 && resets < most:
			resets++
			total.Faults++
			if out, err := exec.CommandContext(ctx, filepath.Join(m.build, "nitro-sim"), "reset", "--socket", m.path("tpm")).CombinedOutput(); err != nil {
				return fmt.Errorf("resetting the TPM: %w\n%s", err, out)
			}
		}
		select {
		case <-time.After(min(time.Second, time.Until(end))):
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

// persistent is how many persistent objects the TPM has, and whose they are.
func (m *machine) persistent(ctx context.Context) (string, error) {
	return m.command(ctx, "handles")
}

// left deletes the keys that were made in passing and tells what is in the TPM that was not before.
func (m *machine) left(ctx context.Context, before string) (leaks []string, err error) {
	listed, err := m.command(ctx, "key", "list", "--json")
	if err != nil {
		return nil, err
	}
	var list struct{ Keys []struct{ Label string } }
	if err := json.Unmarshal([]byte(listed), &list); err != nil {
		return nil, err
	}
	for _, k := range list.Keys {
		if keys[k.Label] != nil {
			continue
		}
		if _, err := m.command(ctx, "key", "delete", k.Label, "--yes"); err != nil {
			return nil, err
		}
	}
	after, err := m.persistent(ctx)
	if err != nil {
		return nil, err
	}
	if after != before {
		leaks = append(leaks, fmt.Sprintf("the TPM's persistent objects were\n%s\nand are\n%s", before, after))
	}
	m.kill(m.service)
	m.service = nil
	ctx, cancel := context.WithTimeout(ctx, startsIn)
	defer cancel()
	if err := m.wire.AwaitIdle(ctx); err != nil {
		return append(leaks, "a connection to the TPM that nobody uses"), nil
	}
	stats, err := exec.CommandContext(ctx, filepath.Join(m.build, "nitro-sim"), "stats", "--json", "--socket", m.path("tpm")).Output()
	if err != nil {
		return nil, fmt.Errorf("nitro-sim stats: %w", err)
	}
	var held map[string]any
	if err := json.Unmarshal(stats, &held); err != nil {
		return nil, fmt.Errorf("nitro-sim stats gave %s: %w", stats, err)
	}
	for _, what := range []string{"objects", "sessions", "saved_sessions", "connections"} {
		if n, ok := held[what].(float64); !ok || n != 0 {
			leaks = append(leaks, fmt.Sprintf("in the TPM: %v %s", held[what], what))
		}
	}
	return leaks, nil
}
