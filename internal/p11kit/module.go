// Package p11kit signs with keys in any PKCS #11 module. A program that is not linked with C cannot load one: p11-kit does, by
// `p11-kit remote`, in a process of its own, and this package makes its calls over that process's standard input and output.
//
// The messages are those of p11-kit's own clients, versions 0 to 2 of its protocol: p11-kit 0.24 and later.
package p11kit

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/tpm2-p11/tpm2-p11/internal/wire"
	"github.com/tpm2-p11/tpm2-p11/p11"
)

var (
	// ErrNotInstalled says that there is no p11-kit.
	ErrNotInstalled = errors.New("p11-kit is not installed, which loads other PKCS #11 modules")
	// ErrModule says that a module cannot be loaded, or ended.
	ErrModule = errors.New("the PKCS #11 module cannot be used")
)

// module is a PKCS #11 module in another process.
type module struct {
	path    string
	version byte // of the protocol
	process *exec.Cmd
	in      io.WriteCloser
	out     io.Reader
	said    bytes.Buffer // on its standard error; complete after wait
	waited  bool
}

// load starts a process with a module, and initialises it. The process ends with ctx at the latest.
func load(ctx context.Context, path string) (*module, error) {
	if strings.Contains(path, "/") {
		if _, err := os.Stat(path); err != nil { // p11-kit would end without a word
			return nil, fmt.Errorf("%w: %w", ErrModule, err)
		}
	}
	m := &module{path: path, process: exec.CommandContext(ctx, "p11-kit", "remote", path)}
	m.process.Stderr = &m.said
	in, err := m.process.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := m.process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	m.in, m.out = in, out
	switch err := m.process.Start(); {
	case errors.Is(err, exec.ErrNotFound):
		return nil, ErrNotInstalled
	case err != nil:
		return nil, fmt.Errorf("p11-kit: %w", err)
	}
	if err := m.greet(); err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

// handshake is what C_Initialize begins with.
const handshake = "PRIVATE-GNOME-KEYRING-PKCS11-PROTOCOL-V-1"

// newest is the newest version of the protocol that is spoken here. The other side answers with it, or an older one.
const newest = 2

func (m *module) greet() error {
	version := []byte{newest}
	if _, err := m.in.Write(version); err != nil {
		return m.lost(err)
	}
	if _, err := io.ReadFull(m.out, version); err != nil {
		return m.lost(err)
	}
	if m.version = version[0]; m.version > newest {
		return fmt.Errorf("%w: p11-kit answers in version %d of its protocol", ErrModule, m.version)
	}
	_, err := m.call(initialize, "ayyay", "", func(r *request) {
		r.bytes([]byte(handshake), false)
		r.w.Byte(0)
		r.bytes(nil, false)
	})
	return err
}

// close ends the process; with its standard input, it finalises the module.
func (m *module) close() {
	m.in.Close()
	if !m.waited {
		m.waited = true
		_ = m.process.Wait()
	}
}

// lost is the error of a process that does not answer any more: what it said itself, if it did.
func (m *module) lost(err error) error {
	m.close()
	if said := strings.TrimSpace(m.said.String()); said != "" {
		lines := strings.Split(said, "\n")
		return fmt.Errorf("%w: %s", ErrModule, lines[len(lines)-1])
	}
	return fmt.Errorf("%w: %s: p11-kit did not load it, or it ended: %w", ErrModule, m.path, err)
}

// Calls, by their numbers in the protocol.
const (
	failed            = 0
	initialize        = 1
	getSlotList       = 4
	getTokenInfo      = 6
	openSession       = 10
	login             = 18
	getAttributeValue = 24
	findObjectsInit   = 26
	findObjects       = 27
	findObjectsFinal  = 28
	signInit          = 42
	sign              = 43
)

// call sends a request and gives what follows the response's signature. Signatures say what a message holds: ay bytes, u a number, …
// An error of the module is a p11.RV.
func (m *module) call(number uint32, takes, gives string, write func(*request)) (*response, error) {
	r := request{}
	defer r.w.Reset()
	r.u32(number)
	r.counted([]byte(takes))
	write(&r)
	body, err := r.w.Message()
	if err != nil {
		return nil, err
	}
	// A code, which comes back, the length of options, which nobody has, and that of what follows.
	header := binary.BigEndian.AppendUint32(nil, number)
	header = binary.BigEndian.AppendUint32(header, 0)
	header = binary.BigEndian.AppendUint32(header, uint32(len(body)))
	for _, part := range [][]byte{header, body} {
		if _, err := m.in.Write(part); err != nil {
			return nil, m.lost(err)
		}
	}
	if _, err := io.ReadFull(m.out, header); err != nil {
		return nil, m.lost(err)
	}
	options, length := binary.BigEndian.Uint32(header[4:]), binary.BigEndian.Uint32(header[8:])
	if options > wire.MaxMessage || length > wire.MaxMessage {
		return nil, fmt.Errorf("%w: %s: %w", ErrModule, m.path, wire.ErrTooLong)
	}
	answer := make([]byte, options+length)
	if _, err := io.ReadFull(m.out, answer); err != nil {
		return nil, m.lost(err)
	}
	return m.parse(answer[options:], number, gives)
}

func (m *module) parse(answer []byte, number uint32, gives string) (*response, error) {
	r := &response{wire.NewReader(answer)}
	got, signature := r.u32(), string(r.counted())
	switch {
	case got == failed && signature == "u":
		rv := p11.RV(r.u64())
		if err := r.End(); err != nil {
			return nil, m.malformed(err)
		}
		return nil, rv
	case got != number || signature != gives || r.Err() != nil:
		return nil, m.malformed(wire.ErrMalformed)
	}
	return r, nil
}

func (m *module) malformed(err error) error {
	return fmt.Errorf("%w: %s: p11-kit's answer: %w", ErrModule, m.path, err)
}

// request is a message that is being written.
type request struct{ w wire.Writer }

func (r *request) u32(v uint32) { r.w.Fixed(binary.BigEndian.AppendUint32(nil, v)) }
func (r *request) u64(v uint64) { r.w.Fixed(binary.BigEndian.AppendUint64(nil, v)) }

// counted is a length and as many bytes.
func (r *request) counted(b []byte) {
	r.u32(uint32(len(b)))
	r.w.Fixed(b)
}

// nothing is the length of a NULL pointer.
const nothing = 0xffffffff

// bytes is an argument of bytes, or a NULL pointer.
func (r *request) bytes(b []byte, null bool) {
	r.w.Byte(1)
	if null {
		r.u32(nothing)
		return
	}
	r.counted(b)
}

// mechanism is one without a parameter.
func (r *request) mechanism(id p11.MechanismType, version byte) {
	r.u32(uint32(id))
	if version < 2 {
		r.u32(nothing)
	}
}

// response is a message that is being read.
type response struct{ *wire.Reader }

func (r *response) u32() uint32 {
	if b := r.Fixed(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *response) u64() uint64 {
	if b := r.Fixed(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// counted is a length and as many bytes, nil for NULL.
func (r *response) counted() []byte {
	n := r.u32()
	if n == nothing {
		return nil
	}
	return r.Fixed(int(n))
}

// bytes is a result of bytes.
func (r *response) bytes() []byte {
	if !r.Bool() {
		r.Fail() // the buffer, which has room for everything, was too small
	}
	return r.counted()
}

// numbers is a result of numbers.
func (r *response) numbers() (list []uint64) {
	if !r.Bool() {
		r.Fail()
	}
	for n := r.u32(); n > 0 && r.Err() == nil; n-- {
		list = append(list, r.u64())
	}
	return list
}
