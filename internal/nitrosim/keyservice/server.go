package keyservice

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/tpm2-p11/tpm2-p11/internal/nitrosim/cms"
)

// Options say whom and what a server knows.
type Options struct {
	Region     string
	Principals []Principal
	Roots      []*x509.Certificate // of attestation documents; none: no document is accepted
	Now        func() time.Time    // the clock that documents and certificates are compared with; nil: time.Now
	Form       cms.Form            // of answers to attested requests
	Log        *slog.Logger        // a line for each request; nil: none. No plaintext, no credentials
}

// Server is a KMS of one region. It is safe for concurrent use.
type Server struct {
	Options
	principals map[string]Principal // by access key id
	now        func() time.Time     // the clock of signatures

	mu      sync.RWMutex
	keys    map[string]*key // by ARN
	aliases map[string]*key // by ARN

	faults faults
}

// New makes a server without keys.
func New(o Options) (*Server, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Region == "" {
		return nil, fmt.Errorf("the KMS has no region")
	}
	s := &Server{Options: o, principals: map[string]Principal{}, now: time.Now, keys: map[string]*key{}, aliases: map[string]*key{}}
	for _, p := range o.Principals {
		if err := p.check(); err != nil {
			return nil, err
		}
		if _, twice := s.principals[p.AccessKeyID]; twice {
			return nil, fmt.Errorf("access key %s stands for two principals", p.AccessKeyID)
		}
		s.principals[p.AccessKeyID] = p
	}
	return s, nil
}

const (
	contentType  = "application/x-amz-json-1.1"
	targetPrefix = "TrentService." // KMS's name on the wire
	maxRequest   = 1 << 20         // bytes; the largest field, a document, has 256 KiB
)

// ServeHTTP answers KMS's requests, and PathFaults.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == PathFaults {
		s.serveFaults(w, r)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		s.write(w, nil, &refusal{"RequestEntityTooLargeException", err.Error(), http.StatusRequestEntityTooLarge})
		return
	}
	answer, err := s.answer(r, body)
	s.write(w, answer, err)
}

// answer authenticates a request and carries it out.
func (s *Server) answer(r *http.Request, body []byte) (any, error) {
	if r.Method != http.MethodPost || r.URL.Path != "/" || r.URL.RawQuery != "" || r.Header.Get("Content-Type") != contentType {
		return nil, &refusal{"UnknownOperationException", "", http.StatusNotFound}
	}
	who, err := s.authenticate(r, body)
	if err != nil {
		s.Log.Warn("request refused", "error", err)
		return nil, err
	}
	if err := s.faults.instead(); err != nil {
		return nil, err
	}
	name := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), targetPrefix)
	run, known := operations[name]
	if !known {
		return nil, refuse("UnknownOperationException", "%s is not emulated", name)
	}
	c := &call{server: s, who: who, operation: name}
	if c.request, err = readRequest(body); err != nil {
		return nil, err
	}
	var answer any
	if err = c.attest(); err == nil {
		answer, err = run(c)
	}
	s.log(c, err)
	return answer, err
}

// log tells of a request what a key policy may look at.
func (s *Server) log(c *call, err error) {
	about := []any{"principal", c.who, "key", c.keyARN(), "attested", c.claims != nil}
	if err == nil {
		s.Log.Info(c.operation, about...)
		return
	}
	if c.claims != nil {
		about = append(about, "PCR4", hex.EncodeToString(c.claims.PCRs[4]), "PCR7", hex.EncodeToString(c.claims.PCRs[7]), "PCR12", hex.EncodeToString(c.claims.PCRs[12]))
	}
	s.Log.Warn(c.operation+" refused", append(about, "error", err)...)
}

// write sends an answer or a refusal.
func (s *Server) write(w http.ResponseWriter, answer any, err error) {
	status := http.StatusOK
	if err != nil {
		r := asRefusal(err)
		status, answer = r.status, map[string]string{"__type": r.code, "message": r.message}
	}
	body, err := json.Marshal(answer)
	if err != nil {
		panic(err) // answers are structs and maps
	}
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "no-cache, no-store, must-revalidate, private")
	h.Set("Content-Length", fmt.Sprint(len(body)))
	h.Set("X-Amzn-RequestId", newUUID())
	if s.faults.take(Close) {
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(status)
	if s.faults.take(Truncate) {
		w.Write(body[:len(body)/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	w.Write(body)
}

// newUUID is a random UUID (RFC 9562, version 4).
func newUUID() string {
	b := make([]byte, 16)
	rand.Read(b)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
