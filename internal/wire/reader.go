package wire

import "encoding/binary"

// Reader takes a message apart. After the first fault every method returns a
// zero value; Err and End tell. It is not safe for concurrent use.
type Reader struct {
	rest []byte
	err  error
}

// NewReader reads message. A message over MaxMessage is a fault.
func NewReader(message []byte) *Reader {
	r := &Reader{rest: message}
	if len(message) > MaxMessage {
		r.Fail()
	}
	return r
}

// Fixed is the next n bytes, a view of the message.
func (r *Reader) Fixed(n int) []byte {
	if n < 0 || n > len(r.rest) {
		r.Fail()
	}
	if r.err != nil {
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

// Byte is one byte.
func (r *Reader) Byte() byte {
	if b := r.Fixed(1); b != nil {
		return b[0]
	}
	return 0
}

// Bool is one byte, 0 or 1; any other is a fault.
func (r *Reader) Bool() bool {
	b := r.Byte()
	if b > 1 {
		r.Fail()
	}
	return b == 1 && r.err == nil
}

// Uint32 is four bytes.
func (r *Reader) Uint32() uint32 {
	if b := r.Fixed(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

// Uint64 is eight bytes.
func (r *Reader) Uint64() uint64 {
	if b := r.Fixed(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// Bytes is a u64 length and as many bytes, a view of the message; nil for NULL, not nil when empty.
func (r *Reader) Bytes() []byte {
	n := r.Uint64()
	if n == null {
		return nil
	}
	if n > uint64(len(r.rest)) {
		r.Fail()
	}
	return r.Fixed(int(n & (1<<31 - 1)))
}

// Count is a u64 number of elements that follow, each of at least size bytes: it is a fault if they cannot be there.
func (r *Reader) Count(size int) int {
	n := r.Uint64()
	if size < 1 || n > uint64(len(r.rest)/size) {
		r.Fail()
	}
	if r.err != nil {
		return 0
	}
	return int(n)
}

// Err is the first fault.
func (r *Reader) Err() error { return r.err }

// End is the first fault; bytes that are left over are one.
func (r *Reader) End() error {
	if len(r.rest) > 0 {
		r.Fail()
	}
	return r.err
}

// Fail makes the message malformed, for what only its reader knows to be impossible.
func (r *Reader) Fail() {
	if r.err == nil {
		r.err = ErrMalformed
	}
	r.rest = nil
}
