package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tpm2-p11/tpm2-p11/internal/faulttpm"
)

// rig is a TPM of a run's own, with a key of each kind in it.
type rig struct {
	plan
	dir    string
	socket string          // of the TPM
	proxy  *faulttpm.Proxy // between the TPM and processes whose commands are counted

	handles     map[string]string // of keys, by label
	files       map[string]string // of keys in the open token, by label
	ciphertexts map[string][]byte // for keys that decrypt
	theirs      map[string]string // files with ciphertexts for keys of tpm2-pkcs11, by label
	hasProvider bool              // tpm2-openssl is there
	version     string            // of what is measured, as `tpm2-p11 version` says it
	stop        []func()
}

const startTimeout = time.Minute

func newRig(ctx context.Context, p plan) (*rig, error) {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, err
	}
	r := &rig{plan: p, dir: dir, socket: filepath.Join(dir, "tpm"), handles: map[string]string{}, files: map[string]string{}, theirs: map[string]string{}, ciphertexts: map[string][]byte{}}
	r.stop = append(r.stop, func() { os.RemoveAll(dir) })
	if err := r.start(ctx); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *rig) start(ctx context.Context) (err error) {
	version, err := r.output(ctx, nil, filepath.Join(r.build, "tpm2-p11"), "version")
	if err != nil {
		return err
	}
	r.version = strings.TrimSpace(string(version))
	switch r.emulator {
	case "swtpm":
		err = r.daemon(ctx, nil, "swtpm", "socket", "--tpm2", "--tpmstate", "dir="+r.dir, "--flags", "not-need-init,startup-clear",
			"--server", "type=unixio,path="+r.socket, "--ctrl", "type=unixio,path="+r.socket+".ctrl")
	case "nitro-sim":
		err = r.daemon(ctx, nil, filepath.Join(r.build, "nitro-sim"), "--socket", r.socket, "--latency", r.latency.String())
	default:
		err = fmt.Errorf("no TPM %q", r.emulator)
	}
	if err == nil {
		err = r.await(ctx, r.socket)
	}
	if err == nil {
		r.proxy, err = faulttpm.Listen(filepath.Join(r.dir, "counted"), r.socket)
	}
	if err == nil {
		r.stop = append(r.stop, r.proxy.Close)
		err = r.makeKeys(ctx)
	}
	if err == nil {
		_, err = r.output(ctx, nil, "cc", "-O2", "-o", r.path("host"), filepath.Join(r.build, "../tests/bench/testdata/host.c"), "-ldl", "-lpthread")
	}
	if err == nil {
		err = r.others(ctx)
	}
	return err
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

// daemon runs a program until the rig is closed.
func (r *rig) daemon(ctx context.Context, env []string, program string, args ...string) error {
	c := exec.CommandContext(ctx, program, args...)
	var output bytes.Buffer
	c.Env, c.Stdout, c.Stderr = append(os.Environ(), env...), &output, &output
	if err := c.Start(); err != nil {
		return err
	}
	r.stop = append(r.stop, func() {
		_ = c.Process.Signal(syscall.SIGTERM)
		_ = c.Wait()
	})
	return nil
}

// await waits until something listens on a socket.
func (r *rig) await(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
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

// config is a configuration's file: two tokens, one with a PIN, on the TPM behind a socket.
func (r *rig) config(name, socket string) (string, error) {
	text := "log = \"stderr\"\n"
	for _, label := range []string{"open", "pin"} {
		text += fmt.Sprintf("[[token]]\nlabel = %q\ntpm = \"swtpm:path=%s\"\nstore = %q\n", label, socket, r.path(label))
	}
	return r.path(name), os.WriteFile(r.path(name), []byte(text), 0o600)
}

// makeKeys makes the tokens and the keys of the columns.
func (r *rig) makeKeys(ctx context.Context) error {
	direct, err := r.config("direct.conf", r.socket)
	if err != nil {
		return err
	}
	if _, err := r.config("counted.conf", r.proxy.Socket()); err != nil {
		return err
	}
	if err := os.WriteFile(r.path("served.conf"), fmt.Appendf(nil, "log = \"stderr\"\nsocket = %q\n", r.path("serve/socket")), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(r.path("pin.txt"), []byte("12345678"), 0o600); err != nil {
		return err
	}
	env := []string{"TPM2_P11_CONF=" + direct}
	tool := filepath.Join(r.build, "tpm2-p11")
	for _, args := range [][]string{
		{"init", "--token", "open", "--no-pin"},
		{"init", "--token", "pin", "--pin-file", r.path("pin.txt"), "--so-pin-file", r.path("pin.txt")},
	} {
		if _, err := r.output(ctx, env, tool, args...); err != nil {
			return err
		}
	}
	if slices.ContainsFunc(r.columns, func(c column) bool { return c.kind.name == "signed" }) {
		if err := r.approve(ctx, env); err != nil {
			return err
		}
	}
	for _, c := range r.columns {
		if err := r.makeKey(ctx, env, c); err != nil {
			return err
		}
		if err := r.makeKey(ctx, env, column{c.operation, kindsByName["plain"]}); err != nil { // for the raw loop
			return err
		}
	}
	return nil
}

// approve writes the policy of keys with signed policies, and approves this machine's PCRs as a build machine does.
func (r *rig) approve(ctx context.Context, env []string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	approvals := filepath.Join(r.path("open"), "approved.d")
	if err := os.MkdirAll(approvals, 0o755); err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"ci.pem":   pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
		"ci.pub":   pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}),
		signedFile: []byte(signedPolicy),
		imageFile:  []byte(imagePolicy),
	} {
		if err := os.WriteFile(r.path(name), content, 0o600); err != nil {
			return err
		}
	}
	_, err = r.output(ctx, env, filepath.Join(r.build, "tpm2-p11"), "policy", "sign", imageFile, "--token", "open", "--current", "--force",
		"--key", "ci.pem", "--ref", "bench", "--out", filepath.Join(approvals, "image.json"))
	return err
}

// makeKey makes a column's key if it is not there yet.
func (r *rig) makeKey(ctx context.Context, env []string, c column) error {
	tool := filepath.Join(r.build, "tpm2-p11")
	if r.handles[c.label()] != "" {
		return nil
	}
	args := append([]string{"key", "create", c.label(), "--token", c.token(), "--type", c.keyType, "--use", c.use, "--json"}, c.kind.create...)
	if c.kind.pin {
		args = append(args, "--pin-file", r.path("pin.txt"))
	}
	made, err := r.output(ctx, env, tool, args...)
	if err != nil {
		return err
	}
	var answer struct{ Key struct{ Handle, File string } }
	if err := json.Unmarshal(made, &answer); err != nil {
		return fmt.Errorf("%s: %w", made, err)
	}
	r.handles[c.label()], r.files[c.label()] = answer.Key.Handle, filepath.Join(r.path(c.token()), answer.Key.File+".pem")
	public, err := r.output(ctx, env, tool, "key", "public", c.label())
	if err != nil {
		return err
	}
	if name := c.public(); name != "" {
		return os.WriteFile(r.path(name), public, 0o600)
	}
	if c.use != "decrypt" {
		return nil
	}
	if r.ciphertexts[c.label()], err = encrypt(public); err != nil {
		return err
	}
	return os.WriteFile(r.path(c.label()), r.ciphertexts[c.label()], 0o600)
}

func (c column) token() string {
	if c.kind.pin {
		return "pin"
	}
	return "open"
}

// encrypt is OAEP with SHA-256 for a public key in PEM.
func encrypt(public []byte) ([]byte, error) {
	key, err := publicRSA(public)
	if err != nil {
		return nil, err
	}
	return rsa.EncryptOAEP(sha256.New(), rand.Reader, key, []byte("a data key of thirty-two bytes .."), nil)
}

func publicRSA(text []byte) (*rsa.PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("no PEM")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	rsaKey, ok := key.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%T is no RSA key", key)
	}
	return rsaKey, nil
}

// output runs a program to its end.
func (r *rig) output(ctx context.Context, env []string, program string, args ...string) ([]byte, error) {
	c := exec.CommandContext(ctx, program, args...)
	var stderr bytes.Buffer
	c.Dir, c.Env, c.Stderr = r.dir, append(os.Environ(), env...), &stderr
	out, err := c.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w\n%s", filepath.Base(program), strings.Join(args, " "), err, stderr.String())
	}
	return out, nil
}

func (r *rig) close() {
	for i := len(r.stop) - 1; i >= 0; i-- {
		r.stop[i]()
	}
}
