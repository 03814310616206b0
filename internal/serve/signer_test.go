package serve

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/internal/secret"
	"github.com/tpm2-p11/tpm2-p11/internal/tokens"
	"github.com/tpm2-p11/tpm2-p11/internal/tpmtest"
	"github.com/tpm2-p11/tpm2-p11/internal/wire"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/p11"
	"github.com/tpm2-p11/tpm2-p11/policy"
	"github.com/tpm2-p11/tpm2-p11/provider"
	"github.com/tpm2-p11/tpm2-p11/signer"
)

// house is a token on a TPM of the test's own, and a server for it.
type house struct {
	t      *testing.T
	tpm    *tpmtest.TPM
	config config.Config
	socket string
	stop   func()
	log    *journal

	server  *Server
	metrics *Metrics
}

// newHouse makes the token and its keys; an empty pin makes one without. The server runs.
func newHouse(t *testing.T, pin string, keys ...keystore.KeySpec) *house {
	t.Helper()
	tpm := tpmtest.Start(t)
	dir, err := os.MkdirTemp("", "serve") // short enough for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h := &house{t: t, tpm: tpm, config: config.Default(), socket: filepath.Join(dir, "socket"), log: &journal{}}
	h.config.Log = "off"
	h.config.Tokens = []config.Token{{TPM: tpm.Address(), Store: filepath.Join(dir, "store")}}
	h.furnish(0, pin, keys)
	h.start()
	t.Cleanup(func() { h.stop() })
	return h
}

func (h *house) furnish(slot int, pin string, keys []keystore.KeySpec) {
	h.t.Helper()
	set, err := tokens.Open(h.config)
	if err != nil {
		h.t.Fatal(err)
	}
	defer set.Close()
	token := set.Tokens[slot]
	o := keystore.InitOptions{Label: "token"}
	if pin != "" {
		o.UserPIN, o.SOPIN = secret.From([]byte(pin)), secret.From([]byte("so-"+pin))
		defer o.UserPIN.Wipe()
		defer o.SOPIN.Wipe()
	}
	if err := token.Init(h.t.Context(), o); err != nil {
		h.t.Fatal(err)
	}
	if pin != "" {
		if err := token.Login(h.t.Context(), keystore.User, o.UserPIN); err != nil {
			h.t.Fatal(err)
		}
	}
	for _, spec := range keys {
		if _, err := token.CreateKey(h.t.Context(), spec); err != nil {
			h.t.Fatal(err)
		}
	}
}

// start runs the server; stop ends it and waits.
func (h *house) start() {
	h.t.Helper()
	listener, err := Listen(h.socket, false)
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	h.metrics = NewMetrics()
	h.server = NewServer(h.config, h.metrics, h.log.logger())
	go func() {
		ended <- h.server.Serve(ctx, listener)
	}()
	h.stop = func() {
		cancel()
		if err, ok := <-ended; ok && err != nil {
			h.t.Errorf("the server ends with %v", err)
		}
		close(ended)
		listener.Close()
		h.stop = func() {}
	}
}

// open opens a key through the server.
func (h *house) open(name string, more ...signer.Option) *signer.Key {
	h.t.Helper()
	k, err := signer.Open(h.t.Context(), name, append([]signer.Option{signer.WithSocket(h.socket)}, more...)...)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { k.Close() })
	return k
}

// local opens it in this process.
func (h *house) local(name string) *signer.Key {
	h.t.Helper()
	token := h.config.Tokens[0]
	k, err := signer.Open(h.t.Context(), name, signer.WithTPM(token.TPM), signer.WithStore(token.Store))
	if err != nil {
		h.t.Fatal(err)
	}
	return k
}

var (
	webKey  = keystore.KeySpec{Label: "web", Type: provider.P256, Use: provider.Use{Sign: true}}
	bothKey = keystore.KeySpec{Label: "both", Type: provider.RSA2048, Use: provider.Use{Sign: true, Decrypt: true}}
	oneKey  = keystore.KeySpec{Label: "one", Type: provider.RSA2048, Use: provider.Use{Sign: true}}
)

func digestOf(message string) []byte {
	digest := sha256.Sum256([]byte(message))
	return digest[:]
}

func works(k *signer.Key) error {
	digest := digestOf("the contract")
	signature, err := k.Sign(rand.Reader, digest, crypto.SHA256)
	if err != nil {
		return err
	}
	switch public := k.Public().(type) {
	case *ecdsa.PublicKey:
		if !ecdsa.VerifyASN1(public, digest, signature) {
			return errors.New("the signature is wrong")
		}
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(public, crypto.SHA256, digest, signature)
	}
	return nil
}

// Whatever a program does with a key of the server's, and whatever it does wrong, it goes as with a key of its own.
func TestServedKeysAreAsOnesOwn(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "", webKey, bothKey, oneKey)
	public := h.open("both").Public().(*rsa.PublicKey)
	good, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, public, []byte("attack at dawn"), []byte("label"))
	if err != nil {
		t.Fatal(err)
	}
	bad := append([]byte{}, good...)
	bad[100] ^= 1
	digest := digestOf("message")
	type use func(k *signer.Key) ([]byte, error)
	sign := func(digest []byte, opts crypto.SignerOpts) use {
		return func(k *signer.Key) ([]byte, error) { return k.Sign(nil, digest, opts) }
	}
	decrypt := func(c []byte, opts crypto.DecrypterOpts) use {
		return func(k *signer.Key) ([]byte, error) { return k.Decrypt(nil, c, opts) }
	}
	pss := func(salt int) *rsa.PSSOptions { return &rsa.PSSOptions{SaltLength: salt, Hash: crypto.SHA256} }
	oaep := &rsa.OAEPOptions{Hash: crypto.SHA256, Label: []byte("label")}
	uses := map[string]use{
		"PKCS #1":                sign(digest, crypto.SHA256),
		"PSS":                    sign(digest, pss(rsa.PSSSaltLengthAuto)),
		"PSS, another salt":      sign(digest, pss(20)),
		"PSS, no salt":           sign(digest, pss(signer.PSSSaltLengthZero)),
		"PSS, a salt too long":   sign(digest, pss(250)),
		"content":                sign([]byte("36 bytes of an old version of TLS..."), crypto.Hash(0)),
		"a digest too short":     sign(digest[1:], crypto.SHA256),
		"SHA-1":                  sign(make([]byte, 20), crypto.SHA1),
		"no options":             sign(digest, nil),
		"OAEP":                   decrypt(good, oaep),
		"a bad ciphertext":       decrypt(bad, oaep),
		"another label":          decrypt(good, &rsa.OAEPOptions{Hash: crypto.SHA256}),
		"a ciphertext too short": decrypt(good[1:], oaep),
		"PKCS #1 decryption":     decrypt(good, nil),
	}
	kinds := []error{signer.ErrAlgorithm, signer.ErrLength, signer.ErrWrongUse, signer.ErrDecrypt, signer.ErrUnsupported}
	type outcome struct {
		out []byte
		err error
	}
	labels := []string{"web", "both", "one"}
	outcomes := func(open func(string) *signer.Key) map[string]outcome {
		all := map[string]outcome{}
		for _, label := range labels {
			k := open(label)
			for name, use := range uses {
				out, err := use(k)
				all[label+", "+name] = outcome{out, err}
			}
			if err := works(k); err != nil {
				t.Errorf("%s: %v", label, err)
			}
			k.Close()
		}
		return all
	}
	served := outcomes(func(label string) *signer.Key { return h.open(label) })
	h.stop() // the emulated TPM has one client at a time
	for name, want := range outcomes(h.local) {
		got := served[name]
		if (got.err == nil) != (want.err == nil) || len(got.out) < len(want.out)-4 {
			t.Errorf("%s: %v with %d bytes, %v with %d in this process", name, got.err, len(got.out), want.err, len(want.out))
		}
		for _, kind := range kinds {
			if errors.Is(got.err, kind) != errors.Is(want.err, kind) {
				t.Errorf("%s: %v, %v in this process", name, got.err, want.err)
			}
		}
	}
}

// A key and its certificate chain, kept by the server, serve TLS in a process that has neither.
func TestServedKeyServesTLS(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "", webKey)
	h.stop()
	own := h.local("web")
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, own.Public(), own)
	if err != nil {
		t.Fatal(err)
	}
	own.Close()
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	set, err := tokens.Open(h.config)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := set.Tokens[0].Keys()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := set.Tokens[0].SetCertificates(entries[0], []*x509.Certificate{leaf}); err != nil {
		t.Fatal(err)
	}
	set.Close()
	h.start()

	certificate, err := h.open("pkcs11:token=token;object=web;type=private").TLSCertificate()
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		one, other := net.Pipe()
		server := tls.Server(one, &tls.Config{Certificates: []tls.Certificate{certificate}})
		go server.Handshake()
		client := tls.Client(other, &tls.Config{RootCAs: roots, ServerName: "localhost", MinVersion: version, MaxVersion: version})
		if err := client.HandshakeContext(t.Context()); err != nil {
			t.Errorf("version %x: %v", version, err)
		}
		one.Close()
		other.Close()
	}
}

// A server that is restarted, under load too, is found again; only a token's PIN is given again, and nothing is left behind.
func TestServedKeysOutliveTheServer(t *testing.T) {
	t.Parallel()
	for _, pin := range []string{"", "123456"} {
		t.Run("PIN="+pin, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, pin, webKey)
			k := h.open("web", signer.WithPIN(func() ([]byte, error) { return []byte(pin), nil }))
			var wait sync.WaitGroup
			for range 8 {
				wait.Go(func() {
					for range 15 {
						if err := works(k); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			for range 2 {
				h.stop()
				h.start()
			}
			wait.Wait()
			if err := k.Close(); err != nil {
				t.Error(err)
			}
			if err := works(k); !errors.Is(err, signer.ErrClosed) {
				t.Errorf("after Close: %v", err)
			}
		})
	}
}

// Each key is found in its own token, whatever others the server has.
func TestServedKeysOfSeveralTokens(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "", webKey)
	h.stop()
	h.config.Tokens = append(h.config.Tokens, config.Token{TPM: h.tpm.Address(), Store: filepath.Join(t.TempDir(), "other")})
	mail := webKey
	mail.Label = "mail"
	h.furnish(1, "", []keystore.KeySpec{mail})
	h.start()
	for _, label := range []string{"web", "mail"} {
		if err := works(h.open(label)); err != nil {
			t.Errorf("%s: %v", label, err)
		}
	}
}

// Where the server's TPM is gone, the error says so, and the key works again when that is back.
func TestServedKeysWithoutATPM(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "", webKey)
	k := h.open("web")
	h.tpm.Stop(t)
	if err := works(k); !errors.Is(err, signer.ErrUnavailable) || !strings.Contains(err.Error(), "does not reach its TPM") {
		t.Errorf("%v", err)
	}
	h.tpm.Restart(t)
	if err := works(k); err != nil {
		t.Error(err)
	}
}

// Whom the server does not know is told what to do.
func TestServedKeysNeedAccess(t *testing.T) {
	t.Parallel()
	socket := rogue(t, func(c net.Conn, f wire.Frame) {
		refusal := binary.LittleEndian.AppendUint64(nil, uint64(p11.CKR_FUNCTION_REJECTED))
		_ = wire.WriteFrame(c, wire.Frame{Version: wire.Version, ID: f.ID, Message: refusal})
	})
	_, err := signer.Open(t.Context(), "web", signer.WithSocket(socket))
	if !errors.Is(err, signer.ErrNoAccess) || errors.Is(err, signer.ErrPolicy) || !strings.Contains(err.Error(), socket) || !strings.Contains(err.Error(), "[[access]]") {
		t.Errorf("%v", err)
	}
}

// A PIN that is wrong, missing, or a key's own.
func TestServedKeysAskForPINs(t *testing.T) {
	t.Parallel()
	own := secret.From([]byte("correct horse"))
	defer own.Wipe()
	h := newHouse(t, "", keystore.KeySpec{Label: "payroll", Type: provider.P256, Use: provider.Use{Sign: true}, OwnPIN: own})
	with := func(pin string) signer.Option {
		return signer.WithPIN(func() ([]byte, error) { return []byte(pin), nil })
	}
	if _, err := signer.Open(t.Context(), "payroll", signer.WithSocket(h.socket)); !errors.Is(err, signer.ErrKeyPINNeeded) {
		t.Errorf("without a PIN: %v", err)
	}
	if err := works(h.open("payroll", with("correct horse"))); err != nil {
		t.Error(err)
	}
	if err := works(h.open("payroll", with("battery staple"))); !errors.Is(err, signer.ErrPIN) {
		t.Errorf("with a wrong PIN: %v", err)
	}

	h = newHouse(t, "123456", webKey)
	if _, err := signer.Open(t.Context(), "web", signer.WithSocket(h.socket)); !errors.Is(err, signer.ErrPINNeeded) {
		t.Errorf("without a PIN: %v", err)
	}
	if _, err := signer.Open(t.Context(), "web", signer.WithSocket(h.socket), with("654321")); !errors.Is(err, signer.ErrPIN) {
		t.Errorf("with a wrong PIN: %v", err)
	}
}

// In a token with a PIN each key is asked for what it wants itself, as in a process with the TPM: one with a PIN of its own for that, one
// without for none. No PIN goes where it is wrong, and the TPM counts nothing.
func TestServedKeysOfATokenWithAPINTakeTheirOwn(t *testing.T) {
	t.Parallel()
	own := secret.From([]byte("correct horse"))
	defer own.Wipe()
	sign := provider.Use{Sign: true}
	h := newHouse(t, "123456", webKey,
		keystore.KeySpec{Label: "payroll", Type: provider.P256, Use: sign, OwnPIN: own},
		keystore.KeySpec{Label: "vault", Type: provider.P256, Use: sign, OwnPIN: own, Policy: pinOrPCR8},
		keystore.KeySpec{Label: "nopin", Type: provider.P256, Use: sign, NoPIN: true})
	with := func(pin string) signer.Option {
		return signer.WithPIN(func() ([]byte, error) { return []byte(pin), nil })
	}
	unasked := signer.WithPIN(func() ([]byte, error) {
		t.Error("a PIN is asked for")
		return []byte("battery staple"), nil
	})
	payroll := h.open("payroll", with("correct horse"))
	for name, k := range map[string]*signer.Key{
		"a PIN of its own": payroll, "a policy that does without it": h.open("vault", unasked),
		"no PIN": h.open("nopin"), "no PIN, though there is one": h.open("nopin", unasked), "the token's PIN": h.open("web", with("123456")),
	} {
		for range 2 {
			if err := works(k); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	for label, missing := range map[string]error{"payroll": signer.ErrKeyPINNeeded, "web": signer.ErrPINNeeded} {
		if _, err := signer.Open(t.Context(), label, signer.WithSocket(h.socket)); !errors.Is(err, missing) {
			t.Errorf("%s without a PIN: %v", label, err)
		}
	}
	h.stop()
	h.start()
	if err := works(payroll); err != nil {
		t.Errorf("at another server: %v", err)
	}
	h.stop() // the emulated TPM has one client at a time
	if n := h.tpm.FailedTries(t); n != 0 {
		t.Errorf("the TPM counts %d wrong PINs", n)
	}
}

// pinOrPCR8 asks for no PIN while PCR 8 is as a TPM starts with it.
var pinOrPCR8 = policy.Policy{Root: policy.Any{policy.PCR{Bank: tpm2.TPMAlgSHA256, Values: map[uint][]byte{8: make([]byte, 32)}}, policy.PIN{}}}

// What cannot be opened says why.
func TestServedKeysThatCannotBeOpened(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "", webKey)
	_, err := signer.Open(t.Context(), "mail", signer.WithSocket(h.socket))
	if !errors.Is(err, signer.ErrNotFound) {
		t.Errorf("a key that is not there: %v", err)
	}
	_, err = signer.Open(t.Context(), "web", signer.WithSocket(h.socket+".none"))
	if !errors.Is(err, signer.ErrUnavailable) || !strings.Contains(err.Error(), h.socket+".none") {
		t.Errorf("no server: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err = signer.Open(ctx, "web", signer.WithSocket(h.socket+".none")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no server within the caller's time: %v", err)
	}
}

// rogue is a server that answers each frame as it likes.
func rogue(t *testing.T, answer func(conn net.Conn, f wire.Frame)) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rogue")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close(); os.RemoveAll(dir) })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for {
					f, err := wire.ReadFrame(conn, wire.MaxMessage, nil)
					if err != nil {
						return
					}
					answer(conn, f)
				}
			}()
		}
	}()
	return path
}

// A server that is none, or hangs, holds nobody up for longer than the caller wants, and leaves no goroutine behind.
func TestServersThatAreNone(t *testing.T) {
	for name, answer := range map[string]func(net.Conn, wire.Frame){
		"silence": func(net.Conn, wire.Frame) {},
		"garbage": func(c net.Conn, f wire.Frame) { fmt.Fprint(c, "HTTP/1.1 400 Bad Request\r\n\r\n") },
		"another version": func(c net.Conn, f wire.Frame) {
			_ = wire.WriteFrame(c, wire.Frame{Version: 99, ID: f.ID, Message: make([]byte, 8)})
		},
		"answers to nothing": func(c net.Conn, f wire.Frame) {
			_ = wire.WriteFrame(c, wire.Frame{Version: wire.Version, ID: f.ID + 7, Message: make([]byte, 8)})
		},
		"too little": func(c net.Conn, f wire.Frame) {
			_ = wire.WriteFrame(c, wire.Frame{Version: wire.Version, ID: f.ID, Message: make([]byte, 3)})
		},
		"too much": func(c net.Conn, f wire.Frame) {
			_ = wire.WriteFrame(c, wire.Frame{Version: wire.Version, ID: f.ID, Message: make([]byte, 80)})
		},
		"a million slots": func(c net.Conn, f wire.Frame) {
			var w wire.Writer
			w.Uint64(0)
			if f.Message[0] == 5 { // C_GetSlotList
				w.Uint64(1 << 40)
			}
			m, _ := w.Message()
			_ = wire.WriteFrame(c, wire.Frame{Version: wire.Version, ID: f.ID, Message: m})
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := runtime.NumGoroutine()
			socket := rogue(t, answer)
			patience := 300 * time.Millisecond
			if name == "another version" { // whose answer must come in time
				patience = time.Minute
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if _, err := signer.Open(ctx, "web", signer.WithSocket(socket)); err == nil {
				t.Fatal("it is believed")
			} else if name == "another version" && !strings.Contains(err.Error(), "version 99") {
				t.Errorf("it does not say why: %v", err)
			}
			for deadline := time.Now().Add(time.Minute); runtime.NumGoroutine() > before+1; runtime.Gosched() {
				if time.Now().After(deadline) {
					t.Fatalf("%d goroutines instead of %d", runtime.NumGoroutine(), before+1)
				}
			}
		})
	}
}

// A server that hangs holds up nobody for ever who has all the time in the world.
func TestServersThatHang(t *testing.T) {
	t.Parallel()
	socket := rogue(t, func(net.Conn, wire.Frame) {})
	_, err := signer.Open(context.Background(), "web", signer.WithSocket(socket))
	if !errors.Is(err, signer.ErrUnavailable) || !strings.Contains(err.Error(), "silent") {
		t.Errorf("%v", err)
	}
}

// Whoever gives up waiting for a signature leaves the others alone.
func TestServedKeysLetGo(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "", webKey)
	k := h.open("web")
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		if _, err := k.SignContext(ctx, digestOf("message"), crypto.SHA256); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		cancel()
	}
	if err := works(k); err != nil {
		t.Error(err)
	}
}
