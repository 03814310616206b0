package p11

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/internal/boundary"
	"github.com/tpm2-p11/tpm2-p11/internal/tokens"
	"github.com/tpm2-p11/tpm2-p11/internal/tpmtest"
	"github.com/tpm2-p11/tpm2-p11/internal/wire"
	"github.com/tpm2-p11/tpm2-p11/keystore"
	"github.com/tpm2-p11/tpm2-p11/provider"
	"github.com/tpm2-p11/tpm2-p11/provider/transport"
)

// gone is a TPM that is not there.
type gone struct{}

func (gone) Dial(context.Context) (transport.Conn, error) { return nil, provider.ErrUnavailable }
func (gone) String() string                               { return "gone" }
func (gone) Managed() bool                                { return true }

// caller makes requests that are well formed, of a script's bytes: which function, and which of the values that calls had before.
type caller struct {
	script   []byte
	sessions []uint64
	objects  []uint64
}

func (c *caller) next() byte {
	if len(c.script) == 0 {
		return 0
	}
	b := c.script[0]
	c.script = c.script[1:]
	return b
}

func (c *caller) bytes() []byte {
	n := int(c.next())
	if n == 255 {
		return nil
	}
	n = min(n%80, len(c.script))
	b := c.script[:n]
	c.script = c.script[n:]
	return b
}

// of gives one of the values, and now and then another.
func (c *caller) of(known []uint64) uint64 {
	b := uint64(c.next())
	if len(known) == 0 || b > 250 {
		return b
	}
	return known[int(b)%len(known)]
}

var fuzzedAttributes = slices.Concat(storageAttributes, certificateTemplate, publicKeyTemplate, rsaPublicTemplate, ecPublicTemplate,
	pairPublicTemplate, pairPrivateTemplate, []AttributeType{CKA_VALUE, CKA_UNIQUE_ID, CKA_LOCAL, CKA_PROFILE_ID, 0x4711})

func (c *caller) attribute(w *wire.Writer) {
	a := fuzzedAttributes[int(c.next())%len(fuzzedAttributes)]
	w.Uint64(uint64(a))
	switch c.next() % 4 {
	case 0:
		w.Bytes(boolean(c.next()%2 == 1))
	case 1:
		w.Bytes(ulong(uint64(c.next())))
	default:
		w.Bytes(c.bytes())
	}
}

// request is one call of a function.
func (c *caller) request(f boundary.Function) []byte {
	var w wire.Writer
	w.Uint32(f.Number)
	for _, a := range f.Args {
		switch a.Kind {
		case boundary.InitializeArgs:
			w.Bool(false)
			w.Uint64(0)
		case boundary.Ulong:
			switch a.Go {
			case "SessionHandle":
				w.Uint64(c.of(c.sessions))
			case "ObjectHandle":
				w.Uint64(c.of(c.objects))
			case "Flags":
				w.Uint64(uint64(c.next()) | uint64(CKF_SERIAL_SESSION|CKF_DONT_BLOCK))
			default:
				w.Uint64(uint64(c.next()) % 4)
			}
		case boundary.Bool:
			w.Bool(c.next()%2 == 1)
		case boundary.Label:
			w.Fixed(padded("fuzz"))
		case boundary.Bytes:
			w.Bytes(c.bytes())
		case boundary.Mechanism, boundary.OptionalMechanism:
			w.Uint64(uint64(mechanisms[int(c.next())%len(mechanisms)].id))
			if c.next()%2 == 0 {
				w.Bytes(nil)
			} else {
				w.Bytes(c.bytes())
			}
		case boundary.Template:
			n := uint64(c.next()) % 8
			w.Uint64(n)
			for range n {
				c.attribute(&w)
			}
		case boundary.Query:
			n := uint64(c.next()) % 8
			w.Uint64(n)
			for range n {
				w.Uint64(uint64(fuzzedAttributes[int(c.next())%len(fuzzedAttributes)]))
				w.Bool(c.next()%2 == 1)
				w.Uint64(uint64(c.next()))
			}
		case boundary.OutLast:
			w.Bool(c.next()%2 == 1)
			fallthrough
		case boundary.OutBuffer:
			w.Bool(c.next()%4 == 0)
			w.Uint64(4 * uint64(c.next()))
		case boundary.OutExact, boundary.OutFound:
			w.Uint64(uint64(c.next()))
		}
	}
	message, err := w.Message()
	if err != nil {
		panic(fmt.Sprint("a request too long: ", err))
	}
	return message
}

// learn keeps the handles that a call gave.
func (c *caller) learn(f boundary.Function, response []byte) {
	r := wire.NewReader(response)
	if r.Uint64() != uint64(CKR_OK) {
		return
	}
	switch f.Name {
	case "C_OpenSession":
		c.sessions = append(c.sessions, r.Uint64())
	case "C_CreateObject", "C_CopyObject", "C_GenerateKey", "C_UnwrapKey", "C_DeriveKey":
		c.objects = append(c.objects, r.Uint64())
	case "C_FindObjects":
		for range r.Count(8) {
			c.objects = append(c.objects, r.Uint64())
		}
	}
}

// FuzzSequence gives a token with a key any sequence of well-formed calls, while its TPM is not there. Nothing panics, every answer is one
// of Cryptoki's, and at the end the library can still be finalised and initialised.
func FuzzSequence(f *testing.F) {
	// Open a session, find, sign, digest, create and copy: the numbers are those of the table.
	f.Add([]byte("\x0c\x02\x00"))
	for _, steps := range [][]string{
		{"C_OpenSession", "C_FindObjectsInit", "C_FindObjects", "C_FindObjectsFinal", "C_SignInit", "C_Sign"},
		{"C_OpenSession", "C_DigestInit", "C_DigestUpdate", "C_GetOperationState", "C_SetOperationState", "C_DigestFinal"},
		{"C_OpenSession", "C_CreateObject", "C_CopyObject", "C_GetAttributeValue", "C_SetAttributeValue", "C_DestroyObject"},
		{"C_OpenSession", "C_Login", "C_GenerateKey", "C_EncryptInit", "C_EncryptUpdate", "C_EncryptFinal", "C_WrapKey", "C_UnwrapKey"},
		{"C_OpenSession", "C_MessageSignInit", "C_SignMessage", "C_SignMessageBegin", "C_SignMessageNext", "C_MessageSignFinal", "C_SessionCancel"},
		{"C_Finalize", "C_GetInfo", "C_Initialize", "C_OpenSession", "C_CloseAllSessions", "C_Finalize"},
	} {
		for filler := range byte(8) {
			var script []byte
			for _, name := range steps {
				script = append(script, byte(numbered(f, name)))
				script = append(script, bytes.Repeat([]byte{filler}, 12)...)
			}
			f.Add(script)
		}
	}
	dir := f.TempDir()
	func() {
		machine := tpmtest.Start(f)
		dialer, err := transport.Parse(machine.Address())
		if err != nil {
			f.Fatal(err)
		}
		tpm := provider.New(dialer)
		defer tpm.Close()
		token, err := keystore.Open(keystore.Options{Dir: dir, TPM: tpm})
		if err != nil {
			f.Fatal(err)
		}
		if err := token.Init(context.Background(), keystore.InitOptions{Label: "fuzz"}); err != nil {
			f.Fatal(err)
		}
		if _, err := token.CreateKey(context.Background(), ecKey("web")); err != nil {
			f.Fatal(err)
		}
	}()
	token, err := keystore.Open(keystore.Options{Dir: dir, TPM: provider.New(gone{}), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		var log bytes.Buffer
		m := New(func() (*tokens.Set, error) {
			return &tokens.Set{Tokens: []*keystore.Token{token}, Logger: slog.New(slog.NewTextHandler(&log, nil))}, nil
		})
		if err := m.Initialize(0, false); err != nil {
			t.Fatal(err)
		}
		c := &caller{script: script, objects: []uint64{1}}
		for range 64 {
			if len(c.script) == 0 {
				break
			}
			called := boundary.Functions[int(c.next())%len(boundary.Functions)]
			response := m.Dispatch(c.request(called))
			if n := len(response); n < 8 || n > wire.MaxMessage {
				t.Fatalf("%s: a response of %d bytes", called.Name, n)
			}
			if rv := RV(wire.NewReader(response).Uint64()); rvNames[rv] == "" {
				t.Errorf("%s: 0x%x is no answer of Cryptoki's", called.Name, uint64(rv))
			}
			c.learn(called, response)
		}
		_ = m.Finalize()
		if err := m.Initialize(0, false); err != nil {
			t.Errorf("C_Initialize again: %v", err)
		}
		if err := m.Finalize(); err != nil {
			t.Errorf("C_Finalize: %v", err)
		}
		if strings.Contains(log.String(), "panic in") {
			t.Error(log.String())
		}
	})
}
