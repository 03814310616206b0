package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

func TestWhatIsWrittenIsRead(t *testing.T) {
	t.Parallel()
	var w Writer
	w.Uint32(7)
	w.Uint64(1 << 40)
	w.Byte(9)
	w.Bool(true)
	w.Bool(false)
	w.Bytes([]byte("data"))
	w.Bytes([]byte{})
	w.Bytes(nil)
	w.Fixed([]byte("tail"))
	message, err := w.Message()
	if err != nil {
		t.Fatal(err)
	}
	r := NewReader(message)
	if got := r.Uint32(); got != 7 {
		t.Errorf("Uint32 = %d", got)
	}
	if got := r.Uint64(); got != 1<<40 {
		t.Errorf("Uint64 = %d", got)
	}
	if got := r.Byte(); got != 9 {
		t.Errorf("Byte = %d", got)
	}
	if !r.Bool() || r.Bool() {
		t.Error("Bool is not what was written")
	}
	if got := r.Bytes(); string(got) != "data" {
		t.Errorf("Bytes = %q", got)
	}
	if got := r.Bytes(); got == nil || len(got) != 0 {
		t.Errorf("empty bytes came back as %#v", got)
	}
	if got := r.Bytes(); got != nil {
		t.Errorf("NULL came back as %#v", got)
	}
	if got := r.Fixed(4); string(got) != "tail" {
		t.Errorf("Fixed = %q", got)
	}
	if err := r.End(); err != nil {
		t.Error(err)
	}
}

func TestMalformedMessagesAreRefused(t *testing.T) {
	t.Parallel()
	number := func(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }
	for name, test := range map[string]struct {
		message []byte
		read    func(*Reader)
	}{
		"short number":       {make([]byte, 7), func(r *Reader) { r.Uint64() }},
		"bytes left over":    {make([]byte, 9), func(r *Reader) { r.Uint64() }},
		"length beyond end":  {append(number(4), 1, 2, 3), func(r *Reader) { r.Bytes() }},
		"length of 2^32":     {append(number(1<<32), 1, 2, 3), func(r *Reader) { r.Bytes() }},
		"length of 2^63":     {append(number(1<<63), 1, 2, 3), func(r *Reader) { r.Bytes() }},
		"count beyond end":   {append(number(2), 1, 2, 3), func(r *Reader) { r.Count(2) }},
		"absurd count":       {number(1 << 62), func(r *Reader) { r.Count(8) }},
		"negative length":    {[]byte{}, func(r *Reader) { r.Fixed(-1) }},
		"a bool of 2":        {[]byte{2}, func(r *Reader) { r.Bool() }},
		"more than 1 MiB":    {make([]byte, MaxMessage+1), func(r *Reader) { r.Fixed(MaxMessage + 1) }},
		"fault stays":        {make([]byte, 4), func(r *Reader) { r.Uint64(); r.Uint32() }},
		"elements of 0 byte": {number(1), func(r *Reader) { r.Count(0) }},
	} {
		t.Run(name, func(t *testing.T) {
			r := NewReader(test.message)
			test.read(r)
			if err := r.End(); !errors.Is(err, ErrMalformed) {
				t.Errorf("End = %v, want ErrMalformed", err)
			}
		})
	}
}

func TestMessageOverTheLimitIsNotMade(t *testing.T) {
	t.Parallel()
	var w Writer
	w.Bytes(make([]byte, MaxMessage-8))
	if _, err := w.Message(); err != nil {
		t.Fatalf("a message of exactly MaxMessage: %v", err)
	}
	w.Byte(0)
	if _, err := w.Message(); !errors.Is(err, ErrTooLong) {
		t.Errorf("Message = %v, want ErrTooLong", err)
	}
	w.Reset()
	w.Byte(1)
	if message, err := w.Message(); err != nil || !bytes.Equal(message, []byte{1}) {
		t.Errorf("after Reset: %v, %v", message, err)
	}
}

func TestOutgrownBuffersAreWiped(t *testing.T) {
	t.Parallel()
	var w Writer
	w.Fixed([]byte("secret"))
	first := w.buf
	w.Fixed(make([]byte, 4096))
	if !bytes.Equal(first, make([]byte, len(first))) {
		t.Errorf("the outgrown buffer still holds %q", first)
	}
}

// FuzzReader reads arbitrary bytes as an arbitrary sequence of values: no panic, and no more bytes out than in.
func FuzzReader(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5}, []byte("\x04\x00\x00\x00\x00\x00\x00\x00abcd"))
	f.Fuzz(func(t *testing.T, script, message []byte) {
		r := NewReader(message)
		got := 0
		for _, step := range script {
			switch step % 6 {
			case 0:
				r.Uint32()
			case 1:
				r.Uint64()
			case 2:
				r.Bool()
			case 3:
				got += len(r.Bytes())
			case 4:
				got += len(r.Fixed(int(step)))
			case 5:
				if n := r.Count(8); n*8 > len(r.rest) {
					t.Fatalf("%d elements of 8 bytes in %d bytes", n, len(r.rest))
				}
			}
			if r.Err() != nil && len(r.rest) != 0 {
				t.Fatal("a failed reader still has bytes")
			}
		}
		if got > len(message) {
			t.Fatalf("%d bytes out of %d", got, len(message))
		}
	})
}
