package keyservice

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Fault is a way to answer wrongly, to see what clients make of it.
type Fault string

// The faults. Those from WrongKey on befall attested requests only.
const (
	Throttle    Fault = "throttle"    // ThrottlingException
	Unavailable Fault = "unavailable" // KMSInternalException, HTTP status 500
	Close       Fault = "close"       // the connection is closed without an answer, after the request was carried out
	Truncate    Fault = "truncate"    // it is closed in the middle of the answer
	WrongKey    Fault = "wrong-key"   // the answer is closed for another public key
	Flip        Fault = "flip"        // one bit of the closed answer is flipped
	Short       Fault = "short"       // the last byte of the plaintext is missing
	Open        Fault = "open"        // the plaintext comes in the clear
)

var allFaults = []Fault{Throttle, Unavailable, Close, Truncate, WrongKey, Flip, Short, Open}

// PathFaults is the server's own door: POST a fault and a number, "throttle:2",
// for it to befall the next two requests that it can befall. It is not part of AWS's API.
const PathFaults = "/faults"

// faults counts what is still to go wrong.
type faults struct {
	mu   sync.Mutex
	left map[Fault]int
}

// take tells whether a fault is due, and counts it.
func (f *faults) take(kind Fault) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left[kind] == 0 {
		return false
	}
	f.left[kind]--
	return true
}

// instead is a refusal in place of doing what was asked for.
func (f *faults) instead() error {
	if f.take(Throttle) {
		return refuse("ThrottlingException", "Rate exceeded")
	}
	if f.take(Unavailable) {
		return &refusal{"KMSInternalException", "an internal error, on demand", http.StatusInternalServerError}
	}
	return nil
}

// Inject lets a fault befall the next requests that it can befall; 0 for none.
func (s *Server) Inject(f Fault, requests int) {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	if s.faults.left == nil {
		s.faults.left = map[Fault]int{}
	}
	s.faults.left[f] = requests
}

// ParseFault reads "throttle:2", or "throttle" for one.
func ParseFault(text string) (f Fault, requests int, err error) {
	name, number, given := strings.Cut(text, ":")
	n := uint64(1)
	if given {
		n, err = strconv.ParseUint(number, 10, 31)
	}
	if err != nil || !slices.Contains(allFaults, Fault(name)) {
		return "", 0, fmt.Errorf("%q is not a fault and a number, like throttle:2; the faults are %q", text, allFaults)
	}
	return Fault(name), int(n), nil
}

func (s *Server) serveFaults(w http.ResponseWriter, r *http.Request) {
	const longest = 64
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, longest))
	if err != nil || r.Method != http.MethodPost {
		http.Error(w, "POST a fault and a number, like throttle:2", http.StatusMethodNotAllowed)
		return
	}
	f, n, err := ParseFault(strings.TrimSpace(string(body)))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.Inject(f, n)
}
