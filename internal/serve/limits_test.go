package serve

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tpm2-p11/tpm2-p11/config"
	"github.com/tpm2-p11/tpm2-p11/internal/wire"
	"github.com/tpm2-p11/tpm2-p11/p11"
)

// raw is a client without manners.
type raw struct {
	t *testing.T
	net.Conn
	id uint64
}

func (h *house) dial() *raw {
	h.t.Helper()
	conn, err := net.Dial("unix", h.socket)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		h.t.Fatal(err)
	}
	return &raw{t: h.t, Conn: conn}
}

// Numbers of functions, as package boundary has them.
const (
	initialize  = 1
	getInfo     = 3
	openSession = 13
	login       = 19
	signInit    = 43
	generate    = 60
	resume      = 1 << 31
)

// ask makes a call of numbers and gives its return value; an error if the server hung up.
func (r *raw) ask(function uint32, arguments ...uint64) (p11.RV, error) {
	r.t.Helper()
	var w wire.Writer
	w.Uint32(function)
	if function == initialize || function == resume {
		w.Bool(false)
	}
	for _, a := range arguments {
		w.Uint64(a)
	}
	if function == login {
		w.Bytes([]byte("a guess"))
	}
	message, err := w.Message()
	if err != nil {
		r.t.Fatal(err)
	}
	r.id++
	if err := wire.WriteFrame(r, wire.Frame{Version: wire.Version, ID: r.id, Message: message}); err != nil {
		return 0, err
	}
	f, err := wire.ReadFrame(r, wire.MaxMessage, nil)
	if err != nil {
		return 0, err
	}
	return p11.ResponseRV(f.Message), nil
}

// answered demands a return value.
func (r *raw) answered(want p11.RV, function uint32, arguments ...uint64) {
	r.t.Helper()
	if got, err := r.ask(function, arguments...); err != nil || got != want {
		r.t.Fatalf("function %d: %v, %v; want %v", function, got, err, want)
	}
}

// hungUp demands that the server has left.
func (r *raw) hungUp() {
	r.t.Helper()
	if n, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
		r.t.Errorf("the server stays: %d bytes, %v", n, err)
	}
}

// numbers are the metrics, as Prometheus reads them.
func (h *house) numbers() string {
	h.t.Helper()
	w := httptest.NewRecorder()
	h.metrics.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

func (h *house) limited(l config.Limits) {
	c := h.config
	c.Limits = l
	h.server.Reload(c)
}

// A user has so many connections, and a connection so many sessions, as the configuration says. Who leaves makes room.
func TestLimitsOfConnectionsAndSessions(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	h.limited(config.Limits{Clients: 10, ClientsPerUser: 2, Sessions: 3, Calls: 4, Message: 4096})
	one, other := h.dial(), h.dial()
	one.answered(p11.CKR_OK, initialize, 0)
	other.answered(p11.CKR_OK, initialize, 0)
	h.dial().hungUp()
	for range 3 {
		one.answered(p11.CKR_OK, openSession, 0, 4)
	}
	one.answered(p11.CKR_SESSION_COUNT, openSession, 0, 4)
	other.answered(p11.CKR_OK, openSession, 0, 4)

	other.Close()
	for {
		next := h.dial()
		if rv, err := next.ask(initialize, 0); err == nil {
			if rv != p11.CKR_OK {
				t.Error(rv)
			}
			break
		}
		select {
		case <-t.Context().Done():
			t.Fatal("no room is made")
		default:
		}
	}
	h.limited(config.Limits{Clients: 1, ClientsPerUser: 2, Sessions: 3, Calls: 4, Message: 4096})
	h.dial().hungUp()
	for _, want := range []string{`tpm2_p11_refusals_total{reason="clients_per_user"}`, `tpm2_p11_refusals_total{reason="clients"} 1`,
		`tpm2_p11_refusals_total{reason="sessions"} 1`, `tpm2_p11_calls_total{function="C_OpenSession",rv="CKR_SESSION_COUNT"} 1`} {
		if !strings.Contains(h.numbers(), want) {
			t.Errorf("%s is not in\n%s", want, h.numbers())
		}
	}
}

// A message longer than the configuration allows ends the connection before it is read, and so does one that is none.
func TestLimitsOfMessages(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	h.limited(config.Limits{Clients: 10, ClientsPerUser: 10, Sessions: 3, Calls: 4, Message: 4096})
	fits := h.dial()
	if err := wire.WriteFrame(fits, wire.Frame{Version: wire.Version, ID: 1, Message: make([]byte, 4096)}); err != nil {
		t.Fatal(err)
	}
	if _, err := wire.ReadFrame(fits, wire.MaxMessage, nil); err != nil {
		t.Errorf("4096 bytes: %v", err)
	}
	long := h.dial()
	if _, err := long.Write([]byte("\x01\x10\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")); err != nil {
		t.Fatal(err)
	}
	long.hungUp()
	if !strings.Contains(h.numbers(), `tpm2_p11_refusals_total{reason="protocol"} 1`) || !strings.Contains(h.log.String(), "message too long") {
		t.Errorf("it is not told:\n%s\n%s", h.numbers(), h.log)
	}
}

// Whoever is faster than the pace waits; after a pause there is a burst again. No pace delays nobody, and the end of a connection ends
// the wait.
func TestPace(t *testing.T) {
	t.Parallel()
	p := newPace(1)
	for range 2 {
		if !p.wait(t.Context()) {
			t.Error("a burst is delayed")
		}
	}
	for range 2 {
		p.wait(t.Context())
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if p.allow() || p.wait(ended) {
		t.Error("the pace is not kept")
	}
	if none := newPace(0); !none.wait(t.Context()) || none.wait(ended) {
		t.Error("no pace is kept")
	}
}

// Descriptors that a client sends along are let go of, and its calls answered.
func TestDescriptorsOfClientsAreNotKept(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	r := h.dial()
	one, other := pair(t, unix.SOCK_STREAM)
	defer one.Close()
	var descriptors []int
	for range 200 {
		descriptors = append(descriptors, int(other.Fd()))
	}
	frame := "\x04\x00\x00\x00\x01\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00"
	for range 20 {
		if _, _, err := r.Conn.(*net.UnixConn).WriteMsgUnix([]byte(frame), unix.UnixRights(descriptors...), nil); err != nil {
			t.Fatal(err)
		}
		f, err := wire.ReadFrame(r, wire.MaxMessage, nil)
		if err != nil || f.ID != 7 || p11.ResponseRV(f.Message) != p11.CKR_CRYPTOKI_NOT_INITIALIZED {
			t.Fatalf("%+v, %v", f, err)
		}
	}
	// Nobody has the other end any more.
	other.Close()
	if err := unix.SetsockoptTimeval(int(one.Fd()), unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 60}); err != nil {
		t.Fatal(err)
	}
	if n, err := unix.Read(int(one.Fd()), make([]byte, 1)); n != 0 || err != nil {
		t.Errorf("the server has it: %d, %v", n, err)
	}
}

// Clients that stop in the midst of a frame, ask without taking answers, or do both by the dozen delay nobody else.
func TestSlowClientsDelayNobody(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "", webKey)
	for range 20 {
		if _, err := h.dial().Write([]byte("\x04\x00\x00\x00\x01\x00")); err != nil {
			t.Fatal(err)
		}
		greedy := h.dial()
		if err := greedy.SetWriteDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		for id := range uint64(10000) {
			if wire.WriteFrame(greedy, wire.Frame{Version: wire.Version, ID: id, Message: []byte{getInfo, 0, 0, 0}}) != nil {
				break
			}
		}
	}
	k := h.open("web")
	for range 5 {
		if err := works(k); err != nil {
			t.Error(err)
		}
	}
	k.Close()
}

// However long the system's files take to say who somebody is that comes in, those that are in begin, use and end what is theirs.
func TestWhoIsInDoesNotWaitAtTheDoor(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	r := h.dial()
	r.answered(p11.CKR_CRYPTOKI_NOT_INITIALIZED, getInfo)
	h.server.door.Lock()
	defer h.server.door.Unlock()
	waits := h.dial()
	r.answered(p11.CKR_OK, initialize, 0)
	r.answered(p11.CKR_OK, openSession, 0, 4)
	r.Close()
	waits.Close()
}

// A stop lets the call in work end, gives its answer, and takes no other one.
func TestStopFinishesWhatWasBegun(t *testing.T) {
	t.Parallel()
	begun, finish := make(chan struct{}), make(chan struct{})
	app := &played{dispatch: func([]byte) []byte {
		close(begun)
		<-finish
		return []byte("answered")
	}}
	one, other := net.Pipe()
	defer one.Close()
	c := newClient(other, app, defaultTerms, slog.New(slog.DiscardHandler))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.serve()
	}()
	if err := wire.WriteFrame(one, wire.Frame{Version: wire.Version, ID: 7, Message: []byte("call")}); err != nil {
		t.Fatal(err)
	}
	<-begun
	c.stop()
	close(finish)
	f, err := wire.ReadFrame(one, wire.MaxMessage, nil)
	if err != nil || f.ID != 7 || string(f.Message) != "answered" {
		t.Errorf("%+v, %v", f, err)
	}
	<-ended
	if app.finalized == 0 {
		t.Error("the application was not ended")
	}
}

// What is forbidden by a new configuration is so at once, for those that are connected too.
func TestReloadHoldsAtOnce(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "", webKey)
	r := h.dial()
	r.answered(p11.CKR_OK, initialize, 0)
	r.answered(p11.CKR_OK, openSession, 0, 6)
	r.answered(p11.CKR_TOKEN_WRITE_PROTECTED, generate, 1, 0, 0)
	c := h.config
	c.Access = []config.Access{{Users: []string{"0"}, Purposes: []string{"manage"}}}
	h.server.Reload(c)
	r.answered(p11.CKR_ARGUMENTS_BAD, generate, 1, 0, 0) // it gets that far: the call is cut short
	h.server.Reload(h.config)
	r.answered(p11.CKR_TOKEN_WRITE_PROTECTED, generate, 1, 0, 0)
	c.Access = []config.Access{{Users: []string{"0"}, Token: "another", Purposes: []string{"manage"}}}
	h.server.Reload(c)
	r.answered(p11.CKR_TOKEN_WRITE_PROTECTED, generate, 1, 0, 0)
}

// Whom the access tables name in vain is told once when they are read, and not to each client.
func TestUnknownUsersAreToldOnce(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	c := h.config
	c.Access = []config.Access{{Users: []string{"no-such-user", "0"}, Groups: []string{"no-such-group"}, Purposes: []string{"sign"}, Line: 7}}
	h.server.Reload(c)
	for range 3 {
		h.dial().answered(p11.CKR_OK, initialize, 0)
	}
	if log := h.log.String(); strings.Count(log, "names nobody") != 2 || !strings.Contains(log, "no-such-user") || !strings.Contains(log, "no-such-group") {
		t.Errorf("the log:\n%s", log)
	}
}

// So are keys and tokens that are not there, as of a slip of the pen; those that are there, or declared, are not.
func TestUnknownKeysAreToldOnce(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "", webKey)
	c := h.config
	c.Tokens[0].Keys = []config.Key{{Label: "declared"}}
	c.Tokens = append(c.Tokens, config.Token{Label: "new", TPM: c.Tokens[0].TPM, Store: filepath.Join(t.TempDir(), "store")})
	c.Access = []config.Access{
		{Users: []string{"0"}, Keys: []string{"web", "wbe", "declared"}, Purposes: []string{"sign"}, Line: 7},
		{Users: []string{"0"}, Token: "tokne", Keys: []string{"web"}, Purposes: []string{"sign"}, Line: 8},
		{Users: []string{"0"}, Token: "token", Purposes: []string{"sign"}, Line: 9},
		{Users: []string{"0"}, Token: "new", Keys: []string{"web"}, Purposes: []string{"sign"}, Line: 10},
	}
	h.server.Reload(c)
	for range 3 {
		h.dial().answered(p11.CKR_OK, initialize, 0)
	}
	log := h.log.String()
	for _, want := range []string{
		`msg="an [[access]] table names no key" line=7 reason="no token has a key \"wbe\"`, `names no token" line=8`, `but [\"new\" \"token\"]"`,
		`names no key" line=10 reason="token \"new\" has no key \"web\"`,
	} {
		if strings.Count(log, want) != 1 {
			t.Errorf("not once in the log: %s", want)
		}
	}
	if strings.Count(log, " names ") != 3 {
		t.Errorf("the log:\n%s", log)
	}
}

// The numbers tell of calls, of TPM commands and of refusals, at this machine's addresses alone.
func TestMetrics(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "", webKey)
	k := h.open("web")
	if err := works(k); err != nil {
		t.Fatal(err)
	}
	// A module's connection begins with what is C_Initialize to it; whoever speaks another version is one client, however much it says.
	module := h.dial()
	module.answered(p11.CKR_OK, resume, 0, 0)
	other := h.dial()
	if _, err := other.Write(make([]byte, 4000)); err != nil {
		t.Fatal(err)
	}
	for range 4000 / 16 {
		if _, err := wire.ReadFrame(other, wire.MaxMessage, nil); err != nil {
			t.Fatal(err)
		}
	}
	numbers := h.numbers()
	if strings.Contains(numbers, `function="unknown",rv="CKR_OK"`) || !strings.Contains(numbers, `calls_total{function="C_Initialize",rv="CKR_OK"}`) {
		t.Errorf("a module's greeting is counted so:\n%s", numbers)
	}
	for _, want := range []string{
		`tpm2_p11_refusals_total{reason="version"} 1`,
		`tpm2_p11_calls_total{function="C_Sign",rv="CKR_OK"} 1`, `tpm2_p11_call_seconds_count{function="C_Sign"} 1`,
		`tpm2_p11_tpm_commands_total{command="TPM2_Sign",code="0x000"} 1`, `tpm2_p11_tpm_command_seconds_count{command="TPM2_Sign"} 1`,
		`tpm2_p11_clients 3`,
	} {
		if !strings.Contains(numbers, want+"\n") {
			t.Errorf("%s is not in\n%s", want, numbers)
		}
	}
	for _, address := range []string{"0.0.0.0:0", ":0", "192.0.2.1:9090", "nowhere", "unix:/nowhere/at/all"} {
		if stop, err := h.metrics.Listen(address); err == nil {
			stop()
			t.Errorf("numbers are given at %s", address)
		}
	}
}

// A login to a token of which the client may use nothing is turned down for want of access, and no policy's refusal.
func TestMetricsOfLogins(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "123456", webKey)
	elsewhere := func(token, _, _ string) bool { return token == "another" }
	app := p11.NewServed(h.server.source.OpenFor(func(log *slog.Logger) *slog.Logger { return log }), elsewhere, 1, p11.NewUsers().New())
	here, there := net.Pipe()
	terms := defaultTerms
	terms.metrics = h.metrics
	go newClient(there, app, terms, h.log.logger()).serve()
	t.Cleanup(func() { here.Close() })
	stranger := &raw{t: t, Conn: here}
	stranger.answered(p11.CKR_OK, initialize, 0)
	stranger.answered(p11.CKR_OK, openSession, 0, 4)
	stranger.answered(p11.CKR_FUNCTION_REJECTED, login, 1, uint64(p11.CKU_USER))
	if numbers := h.numbers(); !strings.Contains(numbers, `tpm2_p11_refusals_total{reason="access"} 1`) || strings.Contains(numbers, `reason="policy"`) {
		t.Errorf("it is counted so:\n%s", numbers)
	}
}

// Who guesses PINs and has the server started again, time after time, does not bring the TPM to its lockout.
func TestGuessesDoNotLockTheTPMAfterRestarts(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "123456", webKey)
	h.tpm.SetMaxTries(t, 3)
	for _, want := range []p11.RV{p11.CKR_PIN_INCORRECT, p11.CKR_PIN_INCORRECT, p11.CKR_PIN_LOCKED, p11.CKR_PIN_LOCKED} {
		h.stop()
		h.start()
		mallory := h.dial()
		mallory.answered(p11.CKR_OK, initialize, 0)
		mallory.answered(p11.CKR_OK, openSession, 0, 4)
		mallory.answered(want, login, 1, uint64(p11.CKU_USER))
	}
	h.stop()
	if n := h.tpm.FailedTries(t); n != 2 {
		t.Errorf("%d of 3 tries were had", n)
	}
}

// queue is a listener at which somebody always waits.
type queue struct {
	net.Listener
	taken []net.Conn
}

func (q *queue) Accept() (net.Conn, error) {
	one, other := net.Pipe()
	q.taken = append(q.taken, other)
	return one, nil
}

// Whoever asks for the numbers beside many others waits until one of them is done.
func TestMetricsHaveSoManyReaders(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := &queue{}
		b := bounded{q, make(chan struct{}, 2)}
		var readers []net.Conn
		go func() {
			for range 3 {
				reader, _ := b.Accept()
				readers = append(readers, reader)
			}
		}()
		synctest.Wait()
		if len(q.taken) != 2 || len(readers) != 2 {
			t.Fatalf("%d are taken at once", len(q.taken))
		}
		for range 2 { // the second time it has no place to give back
			readers[0].Close()
			synctest.Wait()
		}
		if len(readers) != 3 || len(b.places) != 2 {
			t.Errorf("%d were taken, %d have a place", len(readers), len(b.places))
		}
	})
}
