package wire

import "encoding/binary"

// Writer puts a message together. After a message became too long every
// method does nothing; Message tells. What it outgrows is wiped. The zero
// value is ready; it is not safe for concurrent use.
type Writer struct {
	buf []byte
	err error
}

// Fixed appends bytes whose number both sides know.
func (w *Writer) Fixed(b []byte) { copy(w.extend(len(b)), b) }

// Byte appends one byte.
func (w *Writer) Byte(v byte) { w.Fixed([]byte{v}) }

// Bool appends one byte, 0 or 1.
func (w *Writer) Bool(v bool) {
	if v {
		w.Byte(1)
	} else {
		w.Byte(0)
	}
}

// Uint32 appends four bytes.
func (w *Writer) Uint32(v uint32) { w.Fixed(binary.LittleEndian.AppendUint32(nil, v)) }

// Uint64 appends eight bytes.
func (w *Writer) Uint64(v uint64) { w.Fixed(binary.LittleEndian.AppendUint64(nil, v)) }

// Bytes appends a u64 length and the bytes, NULL for nil.
func (w *Writer) Bytes(b []byte) {
	if b == nil {
		w.Uint64(null)
		return
	}
	w.Uint64(uint64(len(b)))
	w.Fixed(b)
}

// Reset wipes what was written and begins anew.
func (w *Writer) Reset() {
	clear(w.buf)
	w.buf, w.err = w.buf[:0], nil
}

// Message is the message, or ErrTooLong. The Writer must not be used after it.
func (w *Writer) Message() ([]byte, error) {
	if w.err != nil {
		return nil, w.err
	}
	return w.buf, nil
}

// extend makes room for n more bytes and returns it, nil when it would be too long.
func (w *Writer) extend(n int) []byte {
	if w.err == nil && n > MaxMessage-len(w.buf) {
		w.Reset()
		w.err = ErrTooLong
	}
	if w.err != nil {
		return nil
	}
	at := len(w.buf)
	if at+n > cap(w.buf) {
		grown := make([]byte, at, max(256, 2*cap(w.buf), at+n))
		copy(grown, w.buf)
		clear(w.buf)
		w.buf = grown
	}
	w.buf = w.buf[:at+n]
	return w.buf[at:]
}
