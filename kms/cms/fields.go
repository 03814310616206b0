package cms

import (
	"bytes"
	"fmt"
)

// fields takes the children of an element in order. All fields of a message
// share its first error, after which they take nothing.
type fields struct {
	of   string
	left []element
	err  *error
}

// next takes the next child; its tag must be the one given.
func (f *fields) next(tag byte, name string) element {
	if *f.err != nil {
		return element{}
	}
	if len(f.left) == 0 {
		f.fail(ErrMalformed, "%s lacks its %s", f.of, name)
		return element{}
	}
	e := f.left[0]
	if e.tag != tag {
		f.fail(ErrMalformed, "%s has tag %#02x in place of its %s", f.of, e.tag, name)
		return element{}
	}
	f.left = f.left[1:]
	return e
}

// in takes the next child and gives its children.
func (f *fields) in(tag byte, name string) *fields {
	return &fields{of: name, left: f.next(tag, name).children, err: f.err}
}

// is takes a primitive child whose content must be the one given.
func (f *fields) is(tag byte, name string, want []byte) {
	if e := f.next(tag, name); *f.err == nil && !bytes.Equal(e.content, want) {
		f.fail(ErrUnsupported, "%s of %s is %x, not %x", name, f.of, e.content, want)
	}
}

// bytes takes a primitive child of n bytes.
func (f *fields) bytes(tag byte, name string, n int) []byte {
	e := f.next(tag, name)
	if *f.err == nil && len(e.content) != n {
		f.fail(ErrMalformed, "%s of %s has %d bytes, not %d", name, f.of, len(e.content), n)
	}
	return e.content
}

// sha256 takes the AlgorithmIdentifier of SHA-256, whose parameters are NULL or
// absent (RFC 4055, section 2.1).
func (f *fields) sha256(name string) {
	algorithm := f.in(tagSequence, name)
	algorithm.is(tagOID, "algorithm", oidSHA256)
	if len(algorithm.left) > 0 {
		algorithm.bytes(tagNull, "parameters", 0)
	}
	algorithm.end()
}

// end refuses further children.
func (f *fields) end() {
	if *f.err == nil && len(f.left) > 0 {
		f.fail(ErrMalformed, "%s has tag %#02x after its last field", f.of, f.left[0].tag)
	}
}

func (f *fields) fail(kind error, format string, args ...any) {
	*f.err = fmt.Errorf("%w: %s", kind, fmt.Sprintf(format, args...))
}
