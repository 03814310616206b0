package provider

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Structure tags (TPM 2.0 Part 2, section 6.9).
const (
	tagNoSessions = 0x8001
	tagSessions   = 0x8002
)

const (
	headerSize  = 10
	maxResponse = 4096
)

func put16(b []byte, v uint16) []byte { return binary.BigEndian.AppendUint16(b, v) }
func put32(b []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(b, v) }

// put2B appends a TPM2B: a 16-bit size and the bytes.
func put2B(b, data []byte) []byte {
	if len(data) > math.MaxUint16 {
		panic("provider: TPM2B of more than 65535 bytes")
	}
	return append(put16(b, uint16(len(data))), data...)
}

// reader takes a response apart. After the first field that is not there every read gives zero and err is set.
// Slices that it gives share the response's memory.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
	}
	r.b = nil
}

func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.fail("%d bytes are missing", n-len(r.b))
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) u8() uint8 {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// sized reads a TPM2B.
func (r *reader) sized() []byte { return r.take(int(r.u16())) }

// end is the reader's error, or one if something is left.
func (r *reader) end() error {
	if r.err == nil && len(r.b) != 0 {
		r.fail("%d bytes too many", len(r.b))
	}
	return r.err
}

// header reads a response's header and gives its tag, its code and the rest.
func header(raw []byte) (tag uint16, code uint32, rest reader, err error) {
	r := reader{b: raw}
	tag = r.u16()
	size := r.u32()
	code = r.u32()
	switch {
	case r.err != nil:
	case len(raw) > maxResponse:
		r.fail("%d bytes", len(raw))
	case int64(size) != int64(len(raw)):
		r.fail("its size field says %d of %d bytes", size, len(raw))
	case tag != tagNoSessions && tag != tagSessions:
		r.fail("tag 0x%04X", tag)
	case code != 0 && (tag != tagNoSessions || len(raw) != headerSize):
		r.fail("response code 0x%X with parameters", code)
	}
	return tag, code, r, r.err
}
