package p11

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/internal/tokens"
	"github.com/tpm2-p11/tpm2-p11/internal/wire"
)

// player has the methods a test gives it; calling any other is a nil dereference, which Dispatch must survive.
type player struct {
	functions
	login       func(session SessionHandle, user UserType, pin []byte) error
	find        func(session SessionHandle, template []Attribute) error
	found       func(max uint64) ([]ObjectHandle, error)
	signInit    func(mechanism Mechanism, key ObjectHandle) error
	sign        func(data []byte, out *Output) error
	attributes  func(queries []AttributeQuery) ([]AttributeResult, error)
	random      func(n uint64) ([]byte, error)
	info        Info
	sessionInfo SessionInfo
}

func (p *player) Login(s SessionHandle, u UserType, pin []byte) error { return p.login(s, u, pin) }
func (p *player) FindObjectsInit(s SessionHandle, t []Attribute) error {
	return p.find(s, t)
}
func (p *player) FindObjects(_ SessionHandle, max uint64) ([]ObjectHandle, error) {
	return p.found(max)
}
func (p *player) SignInit(_ SessionHandle, m Mechanism, k ObjectHandle) error {
	return p.signInit(m, k)
}
func (p *player) Sign(_ SessionHandle, data []byte, out *Output) error { return p.sign(data, out) }
func (p *player) GetAttributeValue(_ SessionHandle, _ ObjectHandle, q []AttributeQuery) ([]AttributeResult, error) {
	return p.attributes(q)
}
func (p *player) GenerateRandom(_ SessionHandle, n uint64) ([]byte, error) { return p.random(n) }
func (p *player) GetInfo() (Info, error)                                   { return p.info, nil }
func (p *player) GetSessionInfo(SessionHandle) (SessionInfo, error)        { return p.sessionInfo, nil }

// message puts a request or an expected response together: a uint32 or int is a number, a []byte is counted bytes, a string is bytes as they are.
func message(t testing.TB, parts ...any) []byte {
	t.Helper()
	var w wire.Writer
	for _, part := range parts {
		switch v := part.(type) {
		case uint32:
			w.Uint32(v)
		case int:
			w.Uint64(uint64(v))
		case RV:
			w.Uint64(uint64(v))
		case bool:
			w.Bool(v)
		case []byte:
			w.Bytes(v)
		case string:
			w.Fixed([]byte(v))
		default:
			t.Fatalf("message cannot hold a %T", part)
		}
	}
	m, err := w.Message()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// numbered is the number of a function.
func numbered(t testing.TB, name string) uint32 {
	t.Helper()
	for number, h := range handlers {
		if h.name == name {
			return number
		}
	}
	t.Fatalf("no function is called %s", name)
	return 0
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestCallsCarryArgumentsAndResults(t *testing.T) {
	t.Parallel()
	null := []byte(nil)
	for _, test := range []struct {
		name     string
		function string
		args     []any
		p        *player
		want     []any
	}{
		{"a PIN", "C_Login", []any{7, 1, []byte("1234")},
			&player{login: func(s SessionHandle, u UserType, pin []byte) error {
				if s != 7 || u != 1 || string(pin) != "1234" {
					t.Errorf("Login(%d, %d, %q)", s, u, pin)
				}
				return nil
			}}, []any{CKR_OK}},
		{"a NULL PIN is no empty one", "C_Login", []any{7, 1, null},
			&player{login: func(_ SessionHandle, _ UserType, pin []byte) error {
				if pin != nil {
					t.Errorf("pin is %#v", pin)
				}
				return CKR_PIN_INCORRECT
			}}, []any{CKR_PIN_INCORRECT}},
		{"an empty PIN is no NULL", "C_Login", []any{7, 1, []byte{}},
			&player{login: func(_ SessionHandle, _ UserType, pin []byte) error {
				if pin == nil {
					t.Error("pin is nil")
				}
				return nil
			}}, []any{CKR_OK}},
		{"an error that wraps CKR_OK is no success", "C_Login", []any{7, 1, null},
			&player{login: func(SessionHandle, UserType, []byte) error { return fmt.Errorf("odd: %w", CKR_OK) }}, []any{CKR_GENERAL_ERROR}},
		{"a template", "C_FindObjectsInit", []any{7, 2, 3, []byte("key"), 0x102, null},
			&player{find: func(_ SessionHandle, got []Attribute) error {
				if len(got) != 2 || got[0].Type != 3 || string(got[0].Value) != "key" || got[1].Type != 0x102 || got[1].Value != nil {
					t.Errorf("template is %v", got)
				}
				return nil
			}}, []any{CKR_OK}},
		{"a mechanism", "C_SignInit", []any{7, 0xd, []byte("parameter"), 5},
			&player{signInit: func(m Mechanism, k ObjectHandle) error {
				if m.Type != 0xd || string(m.Parameter) != "parameter" || k != 5 {
					t.Errorf("SignInit(%v, %d)", m, k)
				}
				return nil
			}}, []any{CKR_OK}},
		{"found handles", "C_FindObjects", []any{7, 3},
			&player{found: func(uint64) ([]ObjectHandle, error) { return []ObjectHandle{4, 5}, nil }}, []any{CKR_OK, 2, 4, 5}},
		{"an output", "C_Sign", []any{7, []byte("data"), false, 9},
			&player{sign: func(_ []byte, out *Output) error { return out.Put([]byte("signature")) }}, []any{CKR_OK, 9, []byte("signature")}},
		{"an empty output", "C_Sign", []any{7, []byte("data"), false, 9},
			&player{sign: func(_ []byte, out *Output) error { return out.Put([]byte{}) }}, []any{CKR_OK, 0, []byte{}}},
		{"the size of an output", "C_Sign", []any{7, []byte("data"), true, 0},
			&player{sign: func(_ []byte, out *Output) error { return out.Put([]byte("signature")) }}, []any{CKR_OK, 9, null}},
		{"too little room", "C_Sign", []any{7, []byte("data"), false, 8},
			&player{sign: func(_ []byte, out *Output) error { return out.Put([]byte("signature")) }}, []any{CKR_BUFFER_TOO_SMALL, 9, null}},
		{"no output after a failure", "C_Sign", []any{7, []byte("data"), false, 9},
			&player{sign: func(_ []byte, out *Output) error { out.Put([]byte("signature")); return CKR_DEVICE_ERROR }}, []any{CKR_DEVICE_ERROR}},
		{"attributes, some of them secret", "C_GetAttributeValue", []any{7, 5, 2, 3, false, 8, 0x11, true, 0},
			&player{attributes: func(q []AttributeQuery) ([]AttributeResult, error) {
				if len(q) != 2 || q[0] != (AttributeQuery{3, false, 8}) || q[1] != (AttributeQuery{0x11, true, 0}) {
					t.Errorf("queries are %v", q)
				}
				return []AttributeResult{{Length: 3, Value: []byte("key")}, {Unavailable: true}}, CKR_ATTRIBUTE_SENSITIVE
			}}, []any{CKR_ATTRIBUTE_SENSITIVE, 2, false, 3, []byte("key"), true, 0, null}},
		{"fewer attributes than asked for", "C_GetAttributeValue", []any{7, 5, 1, 3, true, 0},
			&player{attributes: func([]AttributeQuery) ([]AttributeResult, error) { return nil, nil }}, []any{CKR_GENERAL_ERROR}},
		{"an attribute over 1 MiB", "C_GetAttributeValue", []any{7, 5, 1, 3, false, 2 * wire.MaxMessage},
			&player{attributes: func([]AttributeQuery) ([]AttributeResult, error) {
				return []AttributeResult{{Length: wire.MaxMessage, Value: make([]byte, wire.MaxMessage)}}, nil
			}}, []any{CKR_GENERAL_ERROR}},
		{"random bytes", "C_GenerateRandom", []any{7, 4},
			&player{random: func(n uint64) ([]byte, error) { return []byte("abcd")[:n], nil }}, []any{CKR_OK, []byte("abcd")}},
		{"too few random bytes", "C_GenerateRandom", []any{7, 4},
			&player{random: func(uint64) ([]byte, error) { return []byte("abc"), nil }}, []any{CKR_GENERAL_ERROR}},
		{"strings are padded, or cut between characters", "C_GetInfo", nil,
			&player{info: Info{CryptokiVersion: Version{2, 40}, ManufacturerID: "tpm2-p11", Flags: 1, LibraryDescription: strings.Repeat("x", 31) + "ü", LibraryVersion: Version{1, 2}}},
			[]any{CKR_OK, "\x02\x28", "tpm2-p11" + strings.Repeat(" ", 24), 1, strings.Repeat("x", 31) + " ", "\x01\x02"}},
		{"a structure", "C_GetSessionInfo", []any{7}, &player{sessionInfo: SessionInfo{1, 2, 3, 4}}, []any{CKR_OK, 1, 2, 3, 4}},
	} {
		t.Run(test.name, func(t *testing.T) {
			request := message(t, append([]any{numbered(t, test.function)}, test.args...)...)
			if got, want := dispatch(test.p, quiet, request), message(t, test.want...); !bytes.Equal(got, want) {
				t.Errorf("answered\n%x, want\n%x", got, want)
			}
		})
	}
}

func TestRequestsThatAreNoneAreRefused(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		request []byte
		want    RV
	}{
		"nothing":                          {nil, CKR_ARGUMENTS_BAD},
		"half a number":                    {[]byte{1, 0}, CKR_ARGUMENTS_BAD},
		"a function that is not there":     {message(t, uint32(9999)), CKR_FUNCTION_NOT_SUPPORTED},
		"missing arguments":                {message(t, numbered(t, "C_Login"), 7), CKR_ARGUMENTS_BAD},
		"bytes left over":                  {message(t, numbered(t, "C_GetInfo"), false), CKR_ARGUMENTS_BAD},
		"an absurd count of attributes":    {message(t, numbered(t, "C_FindObjectsInit"), 7, 1<<60), CKR_ARGUMENTS_BAD},
		"more random bytes than fit":       {message(t, numbered(t, "C_GenerateRandom"), 7, maxPart+1), CKR_ARGUMENTS_BAD},
		"more handles than fit":            {message(t, numbered(t, "C_FindObjects"), 7, maxFound+1), CKR_ARGUMENTS_BAD},
		"a request over 1 MiB":             {make([]byte, wire.MaxMessage+1), CKR_ARGUMENTS_BAD},
		"a buffer longer than the message": {message(t, numbered(t, "C_Login"), 7, 1, 5, "1234"), CKR_ARGUMENTS_BAD},
	} {
		t.Run(name, func(t *testing.T) {
			if got, want := dispatch(&player{}, quiet, test.request), message(t, test.want); !bytes.Equal(got, want) {
				t.Errorf("answered %x, want %v", got, test.want)
			}
		})
	}
}

func TestPanicIsLoggedAndAnswered(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	logger := func() *slog.Logger { return slog.New(slog.NewTextHandler(&log, nil)) }
	p := &player{login: func(SessionHandle, UserType, []byte) error { panic("what now") }}
	got := dispatch(p, logger, message(t, numbered(t, "C_Login"), 7, 1, []byte("canary")))
	if !bytes.Equal(got, message(t, CKR_GENERAL_ERROR)) {
		t.Errorf("answered %x, want CKR_GENERAL_ERROR", got)
	}
	for _, want := range []string{"C_Login", "what now", "dispatch_test.go"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not name %q:\n%s", want, &log)
		}
	}
	if strings.Contains(log.String(), "canary") {
		t.Errorf("the log tells the PIN:\n%s", &log)
	}
}

func TestSecretsAreWipedAndAttributesAreKept(t *testing.T) {
	t.Parallel()
	var pin []byte
	var kept []Attribute
	plaintext := []byte("plaintext")
	p := &player{
		login: func(_ SessionHandle, _ UserType, b []byte) error { pin = b; return nil },
		find:  func(_ SessionHandle, template []Attribute) error { kept = template; return nil },
		sign:  func(_ []byte, out *Output) error { return out.Put(plaintext) },
	}
	for _, request := range [][]byte{
		message(t, numbered(t, "C_Login"), 7, 1, []byte("1234")),
		message(t, numbered(t, "C_FindObjectsInit"), 7, 1, 3, []byte("label")),
		message(t, numbered(t, "C_Sign"), 7, []byte("data"), false, 64),
	} {
		dispatch(p, quiet, request)
		if !bytes.Equal(request, make([]byte, len(request))) {
			t.Errorf("the request still holds %x", request)
		}
	}
	if !bytes.Equal(pin, make([]byte, 4)) {
		t.Errorf("the PIN is still %q", pin)
	}
	if !bytes.Equal(plaintext, make([]byte, len(plaintext))) {
		t.Errorf("the output is still %q", plaintext)
	}
	if string(kept[0].Value) != "label" {
		t.Errorf("the attribute became %q", kept[0].Value)
	}
}

// FuzzDispatch gives a library without tokens any request: it answers, with no panic below and no message over the limit.
func FuzzDispatch(f *testing.F) {
	for number := range handlers {
		for _, n := range []int{1, 5} {
			f.Add(append(message(f, number), make([]byte, 8*n)...))
		}
	}
	f.Add(message(f, numbered(f, "C_Login"), 7, 1, []byte("1234")))
	f.Add(message(f, numbered(f, "C_SignInit"), 7, 0xd, []byte(strings.Repeat("\x00", 24)), 5))
	f.Add(message(f, numbered(f, "C_CreateObject"), 7, 2, 0, []byte("\x01\x00\x00\x00\x00\x00\x00\x00"), 3, []byte("label")))
	f.Fuzz(func(t *testing.T, request []byte) {
		var log bytes.Buffer
		m := New(func() (*tokens.Set, error) {
			return &tokens.Set{Logger: slog.New(slog.NewTextHandler(&log, nil))}, nil
		})
		if err := m.Initialize(0, false); err != nil {
			t.Fatal(err)
		}
		if binary.LittleEndian.Uint32(append(slices.Clone(request), 0, 0, 0, 0)) == numbered(t, "C_WaitForSlotEvent") {
			go func() { _ = m.Finalize() }() // which is what it may wait for
		}
		response := m.Dispatch(request)
		if n := len(response); n < 8 || n > wire.MaxMessage {
			t.Errorf("a response of %d bytes", n)
		}
		if strings.Contains(log.String(), "panic in") {
			t.Error(log.String())
		}
	})
}
