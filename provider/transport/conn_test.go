package transport

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"time"
)

// response has size bytes and says that it has announced.
func response(size int, announced uint32) []byte {
	b := make([]byte, size)
	copy(b, []byte{0x80, 0x01, byte(announced >> 24), byte(announced >> 16), byte(announced >> 8), byte(announced)})
	return b
}

// takeCommand reads one getRandom.
func takeCommand(c net.Conn) {
	_, _ = io.ReadFull(c, make([]byte, len(getRandom)))
}

func TestAResponseThatComesInPiecesIsWhole(t *testing.T) {
	t.Parallel()
	for _, size := range []int{10, 11, 500, 4096} {
		want := response(size, uint32(size))
		c := dial(t, fakeTPM(t, func(c net.Conn) {
			takeCommand(c)
			for i := range want {
				if _, err := c.Write(want[i : i+1]); err != nil {
					return
				}
			}
			takeCommand(c)
			_, _ = c.Write(want)
		}))
		for range 2 {
			got, err := c.Transmit(t.Context(), getRandom)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes: got %d, error %v", size, len(got), err)
			}
		}
		c.Close()
	}
}

func TestAMalformedResponseBreaksTheConnection(t *testing.T) {
	t.Parallel()
	for name, bytes := range map[string][]byte{
		"announces nothing":             response(10, 0),
		"announces less than a header":  response(10, 9),
		"announces more than a buffer":  response(10, 4097),
		"announces 4 GiB":               response(10, 0xffffffff),
		"ends early":                    response(20, 21),
		"ends in its header":            response(9, 10),
		"is longer than it announces":   response(21, 20),
		"is followed by another":        append(response(12, 12), response(10, 10)...),
		"is longer than a whole buffer": response(5000, 4096),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := dial(t, fakeTPM(t, func(c net.Conn) {
				takeCommand(c)
				_, _ = c.Write(bytes)
			}))
			if _, err := c.Transmit(t.Context(), getRandom); !errors.Is(err, ErrMalformed) {
				t.Errorf("error %v, want ErrMalformed", err)
			}
			if _, err := c.Transmit(t.Context(), getRandom); !errors.Is(err, ErrBroken) {
				t.Errorf("afterwards: error %v, want ErrBroken", err)
			}
		})
	}
}

func TestALostConnectionAfterTheCommandIsNotErrBroken(t *testing.T) {
	t.Parallel()
	c := dial(t, fakeTPM(t, takeCommand))
	if _, err := c.Transmit(t.Context(), getRandom); !errors.Is(err, io.EOF) || errors.Is(err, ErrBroken) {
		t.Errorf("error %v, want io.EOF without ErrBroken: the TPM may have carried the command out", err)
	}
	if _, err := c.Transmit(t.Context(), getRandom); !errors.Is(err, ErrBroken) {
		t.Errorf("afterwards: error %v, want ErrBroken", err)
	}
}

func TestAResponseNobodyAskedForIsNotTakenForOne(t *testing.T) {
	t.Parallel()
	sent := make(chan struct{})
	c := dial(t, fakeTPM(t, func(c net.Conn) {
		takeCommand(c)
		_, _ = c.Write(response(12, 12))
		<-sent
		_, _ = c.Write(response(14, 14))
		sent <- struct{}{}
		_, _ = io.Copy(io.Discard, c)
	}))
	if _, err := c.Transmit(t.Context(), getRandom); err != nil {
		t.Fatal(err)
	}
	sent <- struct{}{}
	<-sent
	if got, err := c.Transmit(t.Context(), getRandom); !errors.Is(err, ErrBroken) || !errors.Is(err, ErrMalformed) {
		t.Errorf("got %d bytes, error %v, want ErrBroken", len(got), err)
	}
}

func TestASilentTPMIsLeftAtTheDeadline(t *testing.T) {
	t.Parallel()
	for name, behave := range map[string]func(net.Conn){
		"says nothing": func(c net.Conn) { _, _ = io.Copy(io.Discard, c) },
		"stops in the middle": func(c net.Conn) {
			takeCommand(c)
			_, _ = c.Write(response(15, 20))
			_, _ = io.Copy(io.Discard, c)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := dial(t, fakeTPM(t, behave))
			if _, err := c.Transmit(soon(t), getRandom); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %v, want context.DeadlineExceeded", err)
			}
			if _, err := c.Transmit(t.Context(), getRandom); !errors.Is(err, ErrBroken) {
				t.Errorf("afterwards: error %v, want ErrBroken", err)
			}
		})
	}
}

func TestCancellingBreaksACommandOff(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	c := dial(t, fakeTPM(t, func(c net.Conn) {
		takeCommand(c)
		cancel()
		_, _ = io.Copy(io.Discard, c)
	}))
	if _, err := c.Transmit(ctx, getRandom); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	if _, err := c.Transmit(t.Context(), getRandom); !errors.Is(err, ErrBroken) {
		t.Errorf("afterwards: error %v, want ErrBroken", err)
	}
}

func TestNothingIsSentForAContextThatHasEnded(t *testing.T) {
	t.Parallel()
	c := dial(t, fakeTPM(t, func(c net.Conn) {
		takeCommand(c)
		_, _ = c.Write(response(10, 10))
		_, _ = io.Copy(io.Discard, c)
	}))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Transmit(ctx, getRandom); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	if _, err := c.Transmit(t.Context(), getRandom); err != nil {
		t.Errorf("the connection was lost for it: %v", err)
	}
}

func TestAMalformedCommandIsNotSent(t *testing.T) {
	t.Parallel()
	c := dial(t, fakeTPM(t, func(c net.Conn) {
		takeCommand(c)
		_, _ = c.Write(response(10, 10))
		_, _ = io.Copy(io.Discard, c)
	}))
	for name, command := range map[string][]byte{
		"empty":                  nil,
		"shorter than a header":  response(9, 9),
		"shorter than it says":   response(12, 13),
		"longer than it says":    response(12, 11),
		"longer than any buffer": response(4097, 4097),
	} {
		if _, err := c.Transmit(t.Context(), command); !errors.Is(err, ErrMalformed) {
			t.Errorf("a command %s: error %v, want ErrMalformed", name, err)
		}
	}
	if _, err := c.Transmit(t.Context(), getRandom); err != nil {
		t.Errorf("a good command afterwards: %v", err)
	}
}

func TestAClosedConnectionTakesNoCommands(t *testing.T) {
	t.Parallel()
	c := dial(t, fakeTPM(t, takeCommand))
	for range 2 {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.Transmit(t.Context(), getRandom); !errors.Is(err, ErrBroken) {
		t.Errorf("error %v, want ErrBroken", err)
	}
}

func TestCommandTimeout(t *testing.T) {
	t.Parallel()
	for code, want := range map[byte]time.Duration{
		0x31: 5 * time.Minute, // TPM2_CreatePrimary
		0x53: 5 * time.Minute, // TPM2_Create
		0x91: 5 * time.Minute, // TPM2_CreateLoaded
		0x5d: time.Minute,     // TPM2_Sign
		0x7b: time.Minute,     // TPM2_GetRandom
	} {
		command := []byte{0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x01, code}
		if got := CommandTimeout(command); got != want {
			t.Errorf("command 0x1%02x: %v, want %v", code, got, want)
		}
		command[6] = 0x20 // a vendor's command is another one
		if got := CommandTimeout(command); got != time.Minute {
			t.Errorf("command 0x200001%02x: %v", code, got)
		}
	}
	if got := CommandTimeout(nil); got != time.Minute {
		t.Errorf("no command: %v", got)
	}
}

// FuzzAnswer has TPMs, and the reference simulator, answer with any bytes, in two pieces: one response of the size that it says, or an error.
func FuzzAnswer(f *testing.F) {
	response := []byte{0x80, 1, 0, 0, 0, 12, 0, 0, 0, 0, 1, 2}
	f.Add(response, 0)
	f.Add(append([]byte{0, 0, 0, 12}, append(slices.Clone(response), 0, 0, 0, 0)...), 4)
	f.Add([]byte{0x80, 1, 0, 0, 0xff, 0xff, 0, 0, 0, 0}, 10)
	f.Fuzz(func(t *testing.T, sent []byte, cut int) {
		cut = min(max(cut, 0), len(sent))
		for _, kind := range []framing{bare{}, simFraming{}} {
			got, err := kind.read(io.MultiReader(bytes.NewReader(sent[:cut]), bytes.NewReader(sent[cut:])), make([]byte, maxSize+16))
			if err != nil {
				continue
			}
			if size := binary.BigEndian.Uint32(got[2:]); int(size) != len(got) || !bytes.Contains(sent, got) {
				t.Errorf("%T: %d bytes of a response that says %d", kind, len(got), size)
			}
		}
	})
}
