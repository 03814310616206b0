package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tpm2-p11/tpm2-p11/internal/tpmtest"
)

// simulator speaks the reference simulator's protocol before a real swtpm.
type simulator struct {
	address string
	mangle  func(wire []byte) []byte // what is sent for a response; nil sends it as it is
	mu      sync.Mutex
	signals []uint32 // of the platform port
	endings int      // how often a client took its leave on the command port
}

func startSimulator(t *testing.T, mangle func([]byte) []byte) *simulator {
	t.Helper()
	tpm := tpmtest.Start(t)
	s := &simulator{mangle: mangle}
	command, platform, address := ports(t)
	s.address = address
	serve(t, platform, s.servePlatform)
	serve(t, command, func(c net.Conn) { s.serveCommands(t, tpm, c) })
	return s
}

func readUint32(r io.Reader) (uint32, bool) {
	var b [4]byte
	_, err := io.ReadFull(r, b[:])
	return binary.BigEndian.Uint32(b[:]), err == nil
}

func (s *simulator) servePlatform(c net.Conn) {
	for {
		signal, ok := readUint32(c)
		if !ok {
			return
		}
		s.mu.Lock()
		s.signals = append(s.signals, signal)
		s.mu.Unlock()
		if signal == 20 {
			return
		}
		_, _ = c.Write(make([]byte, 4))
	}
}

func (s *simulator) serveCommands(t *testing.T, tpm *tpmtest.TPM, c net.Conn) {
	swtpm, err := net.Dial("unix", tpm.Socket())
	if err != nil {
		t.Error(err)
		return
	}
	defer swtpm.Close()
	for {
		switch code, ok := readUint32(c); {
		case !ok:
			return
		case code == 20:
			s.mu.Lock()
			s.endings++
			s.mu.Unlock()
			return
		case code != 8:
			t.Errorf("an unknown code %d", code)
			return
		}
		var locality [1]byte
		if _, err := io.ReadFull(c, locality[:]); err != nil || locality[0] != 0 {
			t.Errorf("locality %d, error %v", locality[0], err)
			return
		}
		size, _ := readUint32(c)
		if _, err := io.CopyN(swtpm, c, int64(size)); err != nil {
			t.Error(err)
			return
		}
		header := make([]byte, 10)
		if _, err := io.ReadFull(swtpm, header); err != nil {
			t.Error(err)
			return
		}
		rest := make([]byte, binary.BigEndian.Uint32(header[2:])-10)
		if _, err := io.ReadFull(swtpm, rest); err != nil {
			t.Error(err)
			return
		}
		wire := binary.BigEndian.AppendUint32(nil, uint32(10+len(rest)))
		wire = slices.Concat(wire, header, rest, make([]byte, 4))
		if s.mangle != nil && len(rest) > 0 { // the answer to getRandom, not to Startup
			if wire = s.mangle(wire); wire == nil {
				_, _ = io.Copy(io.Discard, c)
				return
			}
			_, _ = c.Write(wire)
			return
		}
		for i := range wire { // in the smallest pieces
			_, _ = c.Write(wire[i : i+1])
		}
	}
}

func TestTheSimulatorIsSwitchedOnAndAnswers(t *testing.T) {
	t.Parallel()
	s := startSimulator(t, nil)
	for range 2 { // the second finds a TPM that is started up
		c := dial(t, s.address)
		drawRandom(t, c)
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	drawRandom(t, dial(t, s.address)) // the second connection's end was served by now
	s.mu.Lock()
	defer s.mu.Unlock()
	once := []uint32{1, 11, 20} // power on, NV on, session end
	if diff := cmp.Diff(slices.Concat(once, once, once), s.signals); diff != "" {
		t.Errorf("signals to the platform (-want +got):\n%s", diff)
	}
	if s.endings != 2 {
		t.Errorf("%d clients took their leave, want 2", s.endings)
	}
}

func TestASimulatorsMalformedResponseIsRefused(t *testing.T) {
	t.Parallel()
	put := func(at int, value uint32) func([]byte) []byte {
		return func(wire []byte) []byte {
			binary.BigEndian.PutUint32(wire[at:], value)
			return wire
		}
	}
	for name, c := range map[string]struct {
		mangle func([]byte) []byte
		want   error
	}{
		"too long":                {put(0, 4097), ErrMalformed},
		"too short":               {put(0, 9), ErrMalformed},
		"cut off":                 {func(wire []byte) []byte { return wire[:20] }, ErrMalformed},
		"cut off after its size":  {func(wire []byte) []byte { return wire[:4] }, ErrMalformed},
		"cut off before its end":  {func(wire []byte) []byte { return wire[:len(wire)-4] }, ErrMalformed},
		"two sizes, inner larger": {put(6, 29), ErrMalformed},
		"two sizes, outer larger": {put(6, 27), ErrMalformed},
		"silence":                 {func([]byte) []byte { return nil }, context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := dial(t, startSimulator(t, c.mangle).address)
			ctx := t.Context()
			if errors.Is(c.want, context.DeadlineExceeded) {
				ctx = soon(t)
			}
			if _, err := conn.Transmit(ctx, getRandom); !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
			if _, err := conn.Transmit(t.Context(), getRandom); !errors.Is(err, ErrBroken) {
				t.Errorf("afterwards: error %v, want ErrBroken", err)
			}
		})
	}
}

func TestASimulatorThatDidNotCarryOutTheCommand(t *testing.T) {
	t.Parallel()
	c := dial(t, startSimulator(t, func(wire []byte) []byte {
		wire[len(wire)-1] = 1
		return wire
	}).address)
	if _, err := c.Transmit(t.Context(), getRandom); err == nil {
		t.Error("its status was taken for success")
	}
}

// ports gives two listeners on ports in a row, and the simulator's address.
func ports(t *testing.T) (command, platform net.Listener, address string) {
	t.Helper()
	for {
		command, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := command.Addr().(*net.TCPAddr).Port
		platform, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port+1)))
		if err != nil {
			command.Close()
			continue
		}
		return command, platform, "mssim:host=127.0.0.1,port=" + strconv.Itoa(port)
	}
}

func TestASimulatorThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	silence := func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }
	obey := func(c net.Conn) { (&simulator{}).servePlatform(c) }
	answer := func(size int64, wire ...byte) func(net.Conn) { // to what is size bytes long
		return func(c net.Conn) {
			_, _ = io.CopyN(io.Discard, c, size)
			_, _ = c.Write(wire)
			silence(c)
		}
	}
	for name, c := range map[string]struct {
		platform, command func(net.Conn)
		want              error  // nil for any
		says              string // in the error
	}{
		"its platform port is held":  {silence, silence, ErrBusy, "platform port"},
		"its platform port hangs up": {func(net.Conn) {}, silence, nil, "switching the TPM on"},
		"it refuses to switch on":    {answer(4, 0, 0, 0, 1), silence, nil, "status 0x1"},
		"its command port is held":   {obey, silence, ErrBusy, "another client"},
		"its TPM is in failure mode": {obey, answer(9+12, 0, 0, 0, 10, 0x80, 1, 0, 0, 0, 10, 0, 0, 1, 1, 0, 0, 0, 0), nil, "response code 0x101"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			command, platform, address := ports(t)
			serve(t, platform, c.platform)
			serve(t, command, c.command)
			d, err := Parse(address)
			if err != nil {
				t.Fatal(err)
			}
			ctx := t.Context()
			if c.want != nil {
				ctx = soon(t)
			}
			_, err = d.Dial(ctx)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Fatalf("error %v, want %v", err, c.want)
			}
			for _, part := range []string{address, c.says} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the error %q does not say %q", err, part)
				}
			}
		})
	}
}
