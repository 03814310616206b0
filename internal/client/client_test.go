package client

import (
	"context"
	"net"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/internal/wire"
)

// A server that works on a request says so, as often as it likes.
func TestSignsOfLife(t *testing.T) {
	t.Parallel()
	ours, theirs := net.Pipe()
	defer theirs.Close()
	c := newConn(ours)
	defer c.close()
	go func() {
		f, err := wire.ReadFrame(theirs, wire.MaxMessage, nil)
		for range 3 {
			_ = wire.WriteFrame(theirs, wire.Frame{Version: wire.Version, ID: wire.SignOfLife})
		}
		if err == nil {
			_ = wire.WriteFrame(theirs, wire.Frame{Version: wire.Version, ID: f.ID, Message: make([]byte, 8)})
		}
	}()
	if err := c.call(t.Context(), callGetInfo, func(*wire.Writer) {}, nil); err != nil {
		t.Error(err)
	}
}

// FuzzServer has a server answer with arbitrary bytes: the client neither panics nor waits once the connection has ended, and what it
// gives is of bounded size.
func FuzzServer(f *testing.F) {
	frame := func(message string) string {
		return string([]byte{byte(len(message)), 0, 0, 0, wire.Version, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0}) + message
	}
	f.Add([]byte(frame("\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00")))
	f.Add([]byte(frame("\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\x7f")))
	f.Add([]byte(frame("\x12\x00\x00\x00\x00\x00\x00\x00")))
	f.Add([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		ours, theirs := net.Pipe()
		c := newConn(ours)
		defer c.close()
		go func() {
			defer theirs.Close()
			if _, err := wire.ReadFrame(theirs, wire.MaxMessage, nil); err == nil {
				_, _ = theirs.Write(sent)
			}
		}()
		handles, err := c.find(context.Background(), 1, Attributes{0: {1}})
		if err != nil && len(handles) != 0 || len(handles) > len(sent) {
			t.Errorf("%d handles of %d bytes, %v", len(handles), len(sent), err)
		}
	})
}
