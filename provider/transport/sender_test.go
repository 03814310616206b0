package transport

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// senders are connections whose TPM behaves as it is told to.
func senders(t *testing.T, behave func(io.ReadWriter)) map[string]Sender {
	t.Helper()
	path, other := terminal(t)
	go behave(other)
	return map[string]Sender{
		"device": dial(t, "device:"+path).(Sender),
		"socket": dial(t, fakeTPM(t, func(c net.Conn) { behave(c) })).(Sender),
	}
}

// answers gives one response after another, each to a command.
func answers(responses ...[]byte) func(io.ReadWriter) {
	return func(tpm io.ReadWriter) {
		for _, r := range responses {
			if _, err := io.ReadFull(tpm, make([]byte, len(getRandom))); err != nil {
				return
			}
			_, _ = tpm.Write(r)
		}
		_, _ = io.Copy(io.Discard, tpm)
	}
}

func TestAResponseIsReceivedLater(t *testing.T) {
	t.Parallel()
	for name, c := range senders(t, answers(response(10, 10), response(12, 12), response(14, 14), response(16, 16))) {
		if got, err := c.Transmit(t.Context(), getRandom); err != nil || len(got) != 10 {
			t.Errorf("%s: the first response has %d bytes, error %v", name, len(got), err)
		}
		for _, size := range []int{12, 14} {
			if err := c.Send(getRandom); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if got, err := c.Receive(t.Context()); err != nil || !bytes.Equal(got, response(size, uint32(size))) {
				t.Errorf("%s: received % x, error %v", name, got, err)
			}
		}
		if got, err := c.Transmit(t.Context(), getRandom); err != nil || len(got) != 16 {
			t.Errorf("%s: the last response has %d bytes, error %v", name, len(got), err)
		}
		if err := c.Send(response(12, 13)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: a malformed command: error %v, want ErrMalformed", name, err)
		}
	}
}

// sendOne sends a command after one that was answered.
func sendOne(t *testing.T, c Sender) {
	t.Helper()
	if _, err := c.Transmit(t.Context(), getRandom); err != nil {
		t.Fatal(err)
	}
	if err := c.Send(getRandom); err != nil {
		t.Fatal(err)
	}
}

func TestAResponseThatDoesNotComeIsNotAwaitedForEver(t *testing.T) {
	t.Parallel()
	for name, c := range senders(t, answers(response(10, 10))) {
		sendOne(t, c)
		if _, err := c.Receive(soon(t)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: error %v, want context.DeadlineExceeded", name, err)
		}
		if _, err := c.Receive(t.Context()); err == nil {
			t.Errorf("%s: a response was received twice", name)
		}
		for what, err := range map[string]error{"Send": c.Send(getRandom), "Transmit": second(c.Transmit(t.Context(), getRandom))} {
			if !errors.Is(err, ErrBroken) {
				t.Errorf("%s: %s afterwards: error %v, want ErrBroken", name, what, err)
			}
		}
	}
}

func TestAConnectionIsClosedBeforeTheResponseCame(t *testing.T) {
	t.Parallel()
	for name, c := range senders(t, answers(response(10, 10))) {
		sendOne(t, c)
		if err := c.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := c.Receive(t.Context()); err == nil {
			t.Errorf("%s: a response came through a closed connection", name)
		}
	}
}

// An swtpm lets others send before it listens to them: nothing that matters is sent before it answered.
func TestNothingIsSentToATPMThatMayNotListen(t *testing.T) {
	t.Parallel()
	c := dial(t, fakeTPM(t, func(c net.Conn) {
		_ = c.SetReadDeadline(time.Now().Add(time.Minute))
		if n, _ := io.Copy(io.Discard, c); n > 0 {
			t.Errorf("%d bytes came", n)
		}
	})).(Sender)
	if err := c.Send(getRandom); !errors.Is(err, ErrBusy) {
		t.Errorf("error %v, want ErrBusy", err)
	}
}

func second(_ []byte, err error) error { return err }
