package wire

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

func TestFramesComeAsTheyWent(t *testing.T) {
	t.Parallel()
	frames := []Frame{
		{Version: Version, ID: 7, Message: []byte("first")},
		{Version: 9, ID: 1 << 60, Message: []byte{}},
		{Version: Version, ID: 8, Message: bytes.Repeat([]byte("long"), MaxMessage/4)},
	}
	var stream bytes.Buffer
	for _, f := range frames {
		if err := WriteFrame(&stream, f); err != nil {
			t.Fatal(err)
		}
	}
	begun := 0
	r := iotest.HalfReader(&stream)
	for _, want := range frames {
		got, err := ReadFrame(r, MaxMessage, func() { begun++ })
		if err != nil || got.Version != want.Version || got.ID != want.ID || !bytes.Equal(got.Message, want.Message) {
			t.Errorf("version %d, id %d, %d bytes, %v", got.Version, got.ID, len(got.Message), err)
		}
	}
	if _, err := ReadFrame(r, MaxMessage, nil); err != io.EOF {
		t.Errorf("after the last: %v", err)
	}
	if begun != len(frames) {
		t.Errorf("%d frames were begun", begun)
	}
}

func TestBadFramesAreRefused(t *testing.T) {
	t.Parallel()
	var whole bytes.Buffer
	if err := WriteFrame(&whole, Frame{Version: Version, ID: 1, Message: []byte("message")}); err != nil {
		t.Fatal(err)
	}
	for n := 1; n < whole.Len(); n++ {
		if _, err := ReadFrame(bytes.NewReader(whole.Bytes()[:n]), MaxMessage, nil); !errors.Is(err, ErrCutOff) {
			t.Errorf("%d of %d bytes: %v", n, whole.Len(), err)
		}
	}
	long := append([]byte{1, 0, 16, 0}, make([]byte, 12)...)
	if _, err := ReadFrame(bytes.NewReader(long), MaxMessage, nil); !errors.Is(err, ErrTooLong) {
		t.Errorf("MaxMessage+1: %v", err)
	}
	if err := WriteFrame(io.Discard, Frame{Message: make([]byte, MaxMessage+1)}); !errors.Is(err, ErrTooLong) {
		t.Errorf("writing MaxMessage+1: %v", err)
	}
}

// FuzzReadFrame reads arbitrary bytes as frames: no panic, no frame that is not in them.
func FuzzReadFrame(f *testing.F) {
	f.Add([]byte("\x04\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00abcd"))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := bytes.NewReader(stream)
		for {
			before := r.Len()
			frame, err := ReadFrame(r, MaxMessage, nil)
			if err != nil {
				return
			}
			if before-r.Len() != HeaderSize+len(frame.Message) {
				t.Fatalf("%d bytes made a message of %d", before-r.Len(), len(frame.Message))
			}
		}
	})
}
