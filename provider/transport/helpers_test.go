package transport

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tpm2-p11/tpm2-p11/internal/tpmtest"
)

// getRandom asks for 16 random bytes: a response of 28 bytes.
var getRandom = []byte{0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x7b, 0, 16}

// soon is a deadline for what must not happen.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

func dial(t *testing.T, address string) Conn {
	t.Helper()
	d, err := Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	c, err := d.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// drawRandom has the TPM draw random bytes twice and expects good, different answers.
func drawRandom(t *testing.T, c Conn) {
	t.Helper()
	var before []byte
	for range 2 {
		response, err := c.Transmit(t.Context(), getRandom)
		if err != nil {
			t.Fatal(err)
		}
		if len(response) != 28 || binary.BigEndian.Uint32(response[6:]) != 0 {
			t.Fatalf("the answer is % x", response)
		}
		if bytes.Equal(before, response) {
			t.Error("the same random bytes twice")
		}
		before = bytes.Clone(response)
	}
}

// fakeTPM is a server on a unix socket that behaves as it is told to.
func fakeTPM(t *testing.T, behave func(net.Conn)) (address string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "tpm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	listener, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	serve(t, listener, behave)
	return "swtpm:path=" + listener.Addr().String()
}

// serve runs handle for each connection, one after another, until the test ends.
func serve(t *testing.T, listener net.Listener, handle func(net.Conn)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			handle(c)
			c.Close()
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-done
	})
}

// tcpBridge makes a swtpm's unix socket reachable over TCP.
func tcpBridge(t *testing.T, tpm *tpmtest.TPM) (port string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, listener, func(c net.Conn) {
		swtpm, err := net.Dial("unix", tpm.Socket())
		if err != nil {
			t.Error(err)
			return
		}
		defer swtpm.Close()
		go func() {
			_, _ = io.Copy(c, swtpm)
			c.Close()
		}()
		_, _ = io.Copy(swtpm, c)
	})
	_, port, err = net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}
