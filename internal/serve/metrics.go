package serve

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/tpm2-p11/tpm2-p11/p11"
)

// Metrics counts what a server does, for Prometheus. nil counts nothing. Safe for concurrent use.
type Metrics struct {
	set     *metrics.Set
	clients atomic.Int64
}

// buckets are latencies in seconds: a TPM's signature takes from one to some hundred milliseconds.
var buckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

// NewMetrics begins to count.
func NewMetrics() *Metrics {
	m := &Metrics{set: metrics.NewSet()}
	m.set.NewGauge("tpm2_p11_clients", func() float64 { return float64(m.clients.Load()) })
	return m
}

// Listen gives the numbers at unix:/path, to this process's user, or at host:port, to this machine. stop ends it.
func (m *Metrics) Listen(address string) (stop func(), err error) {
	listener, err := listenLocally(address)
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: m, ReadTimeout: scrapePatience, WriteTimeout: scrapePatience, IdleTimeout: scrapePatience, MaxHeaderBytes: 8 << 10}
	go server.Serve(bounded{listener, make(chan struct{}, maxScrapes)})
	return func() { server.Close() }, nil
}

const (
	scrapePatience = 10 * time.Second // that one request for the numbers may take
	maxScrapes     = 16               // connections at once; whoever comes then waits, and takes no descriptor from the server's clients
)

// bounded is a listener with so many connections at once as there are places.
type bounded struct {
	net.Listener
	places chan struct{}
}

// Accept waits for a place, too.
func (b bounded) Accept() (net.Conn, error) {
	b.places <- struct{}{}
	leave := sync.OnceFunc(func() { <-b.places })
	conn, err := b.Listener.Accept()
	if err != nil {
		leave()
		return nil, err
	}
	return placed{conn, leave}, nil
}

// placed is a connection that has a place until it is closed.
type placed struct {
	net.Conn
	leave func()
}

// Close gives the place back.
func (p placed) Close() error {
	defer p.leave()
	return p.Conn.Close()
}

func listenLocally(address string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return makeSocket(path, false)
	}
	tcp, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, err
	}
	if !tcp.IP.IsLoopback() {
		return nil, fmt.Errorf("%s is not of this machine alone: use unix:/path, or a port of 127.0.0.1 or [::1]", address)
	}
	return net.ListenTCP("tcp", tcp)
}

// ServeHTTP gives the numbers in Prometheus' text format.
func (m *Metrics) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		http.Error(w, "GET is all that there is", http.StatusMethodNotAllowed)
	case r.URL.Path != "/metrics":
		http.NotFound(w, r)
	default:
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		m.set.WritePrometheus(w)
	}
}

// refusals are the answers that refuse, by their reason.
var refusals = map[p11.RV]string{
	p11.CKR_FUNCTION_REJECTED:          "policy",
	p11.CKR_PIN_INCORRECT:              "pin",
	p11.CKR_PIN_LOCKED:                 "lockout",
	p11.CKR_USER_NOT_LOGGED_IN:         "login",
	p11.CKR_KEY_FUNCTION_NOT_PERMITTED: "purpose",
	p11.CKR_TOKEN_WRITE_PROTECTED:      "manage",
	p11.CKR_SESSION_COUNT:              "sessions",
	p11.CKR_ENCRYPTED_DATA_INVALID:     "ciphertext",
}

// called counts an answered call.
func (m *Metrics) called(function string, rv p11.RV, took time.Duration) {
	if m == nil {
		return
	}
	m.set.GetOrCreateCounter(fmt.Sprintf("tpm2_p11_calls_total{function=%q,rv=%q}", function, rv.Error())).Inc()
	m.set.GetOrCreatePrometheusHistogramExt(fmt.Sprintf("tpm2_p11_call_seconds{function=%q}", function), buckets).Update(took.Seconds())
	switch reason, refused := refusals[rv]; {
	case rv == p11.CKR_FUNCTION_REJECTED && (function == "C_Login" || function == "C_LoginUser"): // logins have no policy: the token is not the client's
		m.refused("access")
	case refused:
		m.refused(reason)
	}
}

// refused counts a call, or a client, that was turned down.
func (m *Metrics) refused(reason string) {
	if m != nil {
		m.set.GetOrCreateCounter(fmt.Sprintf("tpm2_p11_refusals_total{reason=%q}", reason)).Inc()
	}
}

// connected counts clients that come (1) and go (-1).
func (m *Metrics) connected(n int64) {
	if m != nil {
		m.clients.Add(n)
	}
}

// Command counts an answer of a TPM; see provider.WithObserver.
func (m *Metrics) Command(command string, code uint32, took time.Duration) {
	m.set.GetOrCreateCounter(fmt.Sprintf("tpm2_p11_tpm_commands_total{command=%q,code=\"0x%03x\"}", command, code)).Inc()
	m.set.GetOrCreatePrometheusHistogramExt(fmt.Sprintf("tpm2_p11_tpm_command_seconds{command=%q}", command), buckets).Update(took.Seconds())
}
