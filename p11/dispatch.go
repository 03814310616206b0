package p11

import (
	"bytes"
	"fmt"
	"log/slog"
	"runtime/debug"
	"unicode/utf8"

	"github.com/tpm2-p11/tpm2-p11/internal/tokens"
	"github.com/tpm2-p11/tpm2-p11/internal/wire"
)

// Dispatch does one call: a request as package boundary describes it, from whatever transport brought it, becomes a response.
// The request may be anything; what is no request is CKR_ARGUMENTS_BAD, and a number that is no function's is
// CKR_FUNCTION_NOT_SUPPORTED. A panic is logged and becomes CKR_GENERAL_ERROR. The request is wiped; wiping the response is the caller's.
func (m *Module) Dispatch(request []byte) (response []byte) {
	return dispatch(m, m.Logger, request)
}

// restrained tells whether a function is not for this application, whatever its arguments but the first.
func (m *Module) restrained(h handler, request []byte) bool {
	if !h.changes {
		return false
	}
	l, err := m.library()
	if err != nil {
		return false // which the call itself is answered with
	}
	r := wire.NewReader(request)
	r.Uint32()
	first := r.Uint64()
	if h.bySlot {
		slot, err := l.slot(SlotID(first))
		return err == nil && l.restrains(slot)
	}
	s, err := m.session(SessionHandle(first))
	return err == nil && l.restrains(s.slot)
}

// restrains tells whether the application only uses what a token keeps, and makes session objects alone.
func (l *library) restrains(s *slot) bool {
	if l.guard != nil {
		return !l.guard(s.token.Label(), "", "manage")
	}
	return l.forked && l.set.Config.Forked != "all"
}

// restraint is what the log says of it.
const restraint = "keys may be used here, not changed (for forked children, forked = \"all\" in the configuration lifts that; " +
	"for clients of a socket, the purpose \"manage\" in an [[access]] table)"

// Logger is the log of the configuration, the system's before C_Initialize.
func (m *Module) Logger() *slog.Logger {
	if l, err := m.library(); err == nil {
		return l.log
	}
	return tokens.DefaultLogger()
}

// FunctionName is the name of a request's function, "unknown" for what is none. What begins a module's connection is C_Initialize, and
// what tells of a call that the module refused by itself is "refused".
func FunctionName(request []byte) string {
	number := wire.NewReader(request).Uint32()
	switch number {
	case numberResume:
		return "C_Initialize"
	case numberRefused:
		return "refused"
	}
	if h, ok := handlers[number]; ok {
		return h.name
	}
	return "unknown"
}

// ResponseRV is the return value that a response begins with.
func ResponseRV(response []byte) RV { return RV(wire.NewReader(response).Uint64()) }

// handler decodes one function's request, calls the method, and encodes its response.
type handler struct {
	name    string
	call    func(functions, *call)
	changes bool           // what outlives a session, always: functions that can do it look for themselves (session.mayChange)
	bySlot  bool           // its first argument is a slot; else, where it has any, a session
	drop    func(*session) // ends what a failed call ends; nil for nothing
}

func dispatch(f functions, logger func() *slog.Logger, request []byte) (response []byte) {
	defer clear(request)
	c := &call{in: *wire.NewReader(request)}
	number := c.in.Uint32()
	h, known := handlers[number]
	switch number {
	case numberResume:
		h, known = handler{name: "resume", call: callResume}, true
	case numberRefused:
		h, known = handler{name: "refused", call: callRefused}, true
	}
	defer func() {
		if reason := recover(); reason != nil {
			logger().Error("panic in "+h.name, "reason", fmt.Sprint(reason), "stack", string(debug.Stack()))
			response = c.refuse(CKR_GENERAL_ERROR)
		}
	}()
	switch {
	case c.in.Err() != nil:
		return c.refuse(CKR_ARGUMENTS_BAD)
	case !known:
		return c.refuse(CKR_FUNCTION_NOT_SUPPORTED)
	}
	if m, ok := f.(*Module); ok && m.restrained(h, request) {
		logger().Warn(h.name+" failed", "rv", CKR_TOKEN_WRITE_PROTECTED.Error(),
			"reason", restraint)
		return c.refuse(CKR_TOKEN_WRITE_PROTECTED)
	}
	h.call(f, c)
	return c.response()
}

// call is one request and its response.
type call struct {
	in    wire.Reader
	out   wire.Writer
	fault bool // a method gave what has no place in a response
}

// decoded tells whether the arguments were what they should be; if not it answers.
func (c *call) decoded() bool {
	if c.in.End() != nil {
		c.answer(CKR_ARGUMENTS_BAD)
		return false
	}
	return true
}

// answer begins the response. It tells whether outputs follow.
func (c *call) answer(err error) bool { return c.begin(err) == CKR_OK }

// answerPartly is answer for functions that tell lengths although they fail.
func (c *call) answerPartly(err error) bool {
	switch c.begin(err) {
	case CKR_OK, CKR_BUFFER_TOO_SMALL, CKR_ATTRIBUTE_SENSITIVE, CKR_ATTRIBUTE_TYPE_INVALID:
		return true
	}
	return false
}

func (c *call) begin(err error) RV {
	rv := RVOf(err)
	if err != nil && rv == CKR_OK {
		rv = CKR_GENERAL_ERROR
	}
	c.out.Uint64(uint64(rv))
	return rv
}

func (c *call) response() []byte {
	message, err := c.out.Message()
	if err != nil || c.fault {
		return c.refuse(CKR_GENERAL_ERROR)
	}
	return message
}

// refuse is a response of rv alone, whatever was written before.
func (c *call) refuse(rv RV) []byte {
	c.out.Reset()
	c.out.Uint64(uint64(rv))
	message, _ := c.out.Message() // eight bytes are never too long
	return message
}

// limited is a number that must not be over most.
func (c *call) limited(most uint64) uint64 {
	n := c.in.Uint64()
	if n > most {
		c.in.Fail()
	}
	return n
}

func (c *call) mechanism() Mechanism {
	return Mechanism{Type: MechanismType(c.in.Uint64()), Parameter: kept(c.in.Bytes())}
}

func (c *call) template() []Attribute {
	attributes := make([]Attribute, c.in.Count(16))
	for i := range attributes {
		attributes[i] = Attribute{Type: AttributeType(c.in.Uint64()), Value: kept(c.in.Bytes())}
	}
	return attributes
}

func (c *call) queries() []AttributeQuery {
	queries := make([]AttributeQuery, c.in.Count(17))
	for i := range queries {
		queries[i] = AttributeQuery{Type: AttributeType(c.in.Uint64()), Query: c.in.Bool(), Capacity: c.in.Uint64()}
	}
	return queries
}

func (c *call) output() *Output { return &Output{Query: c.in.Bool(), Capacity: c.in.Uint64()} }

// lastOutput is nil when the caller says that more is to follow.
func (c *call) lastOutput() *Output {
	if wanted, out := c.in.Bool(), c.output(); wanted {
		return out
	}
	return nil
}

// kept is a copy that outlives the request; nil stays nil, and empty stays empty.
func kept(b []byte) []byte {
	if b == nil {
		return nil
	}
	return append([]byte{}, b...)
}

// putOutput sends a result, and wipes it: it may be a plaintext.
func (c *call) putOutput(o *Output) {
	length, data := o.Result()
	defer clear(data)
	if data != nil && (o.Query || length > o.Capacity || length != uint64(len(data))) {
		c.fault = true
		return
	}
	c.out.Uint64(length)
	c.out.Bytes(data)
}

func (c *call) putLastOutput(o *Output) {
	if o != nil {
		c.putOutput(o)
	}
}

func (c *call) putExact(b []byte, n uint64) {
	defer clear(b)
	c.fault = c.fault || uint64(len(b)) != n
	c.out.Bytes(b)
}

func (c *call) putResults(queries []AttributeQuery, results []AttributeResult) {
	defer wipeResults(results)
	c.fault = c.fault || len(results) != len(queries)
	c.out.Uint64(uint64(len(results)))
	for _, r := range results {
		c.out.Bool(r.Unavailable)
		c.out.Uint64(r.Length)
		c.out.Bytes(r.Value)
	}
}

func putList[T ~uint64](c *call, list []T) {
	c.out.Uint64(uint64(len(list)))
	for _, v := range list {
		c.out.Uint64(uint64(v))
	}
}

func (c *call) putVersion(v Version) { c.out.Fixed([]byte{v.Major, v.Minor}) }

// putText sends a fixed field: padded with spaces, or cut between two characters.
func (c *call) putText(text string, size int) {
	if len(text) > size {
		end := size
		for end > 0 && !utf8.RuneStart(text[end]) {
			end--
		}
		text = text[:end]
	}
	field := bytes.Repeat([]byte{' '}, size)
	copy(field, text)
	c.out.Fixed(field)
}
