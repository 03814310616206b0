package cms

import "fmt"

// Bounds of a message.
const (
	MaxSize     = 64 << 10 // bytes
	maxDepth    = 12       // KMS nests 11 deep
	maxElements = 512      // KMS has 31
)

// Identifier octets (X.690, section 8.1.2).
const (
	tagInteger     = 0x02
	tagOctetString = 0x04
	tagNull        = 0x05
	tagOID         = 0x06
	tagSequence    = 0x30
	tagSet         = 0x31
	tagContext0    = 0x80
	tagContext1    = 0x81

	constructed   = 0x20
	highTagNumber = 0x1f
	indefinite    = 0x80
)

// element is one BER data value. A constructed one has children, a primitive
// one content, which lies in the message.
type element struct {
	tag      byte
	content  []byte
	children []element
}

// reader takes elements off the front of a message.
type reader struct {
	rest  []byte
	count int
}

// parseBER reads exactly one element.
func parseBER(message []byte) (element, error) {
	if len(message) > MaxSize {
		return element{}, fmt.Errorf("%w: %d bytes are more than %d", ErrMalformed, len(message), MaxSize)
	}
	r := &reader{rest: message}
	e, err := r.element(1)
	if err == nil && len(r.rest) > 0 {
		err = fmt.Errorf("%w: %d bytes follow its end", ErrMalformed, len(r.rest))
	}
	return e, err
}

func (r *reader) element(depth int) (element, error) {
	if r.count++; r.count > maxElements || depth > maxDepth {
		return element{}, fmt.Errorf("%w: more than %d elements or %d levels", ErrMalformed, maxElements, maxDepth)
	}
	tag, err := r.tag()
	if err != nil {
		return element{}, err
	}
	length, ends, err := r.length(tag)
	if err != nil {
		return element{}, err
	}
	e := element{tag: tag}
	if ends {
		e.children, err = r.untilEndOfContents(depth)
		return e, err
	}
	e.content, r.rest = r.rest[:length], r.rest[length:]
	if tag&constructed == 0 {
		return e, nil
	}
	inner := &reader{rest: e.content, count: r.count}
	e.content = nil
	for len(inner.rest) > 0 {
		child, err := inner.element(depth + 1)
		if err != nil {
			return element{}, err
		}
		e.children = append(e.children, child)
	}
	r.count = inner.count
	return e, nil
}

// untilEndOfContents reads the children of an element of indefinite length (X.690, section 8.1.5).
func (r *reader) untilEndOfContents(depth int) ([]element, error) {
	var children []element
	for {
		if len(r.rest) >= 2 && r.rest[0] == 0 && r.rest[1] == 0 {
			r.rest = r.rest[2:]
			return children, nil
		}
		child, err := r.element(depth + 1)
		if err != nil {
			return nil, err
		}
		children = append(children, child)
	}
}

func (r *reader) tag() (byte, error) {
	b, err := r.byte()
	if err == nil && (b&highTagNumber == highTagNumber || b == 0) {
		err = fmt.Errorf("%w: tag %#02x", ErrMalformed, b)
	}
	return b, err
}

// length reads length octets (X.690, section 8.1.3); ends tells that
// end-of-contents octets take the length's place.
func (r *reader) length(tag byte) (n int, ends bool, err error) {
	first, err := r.byte()
	if err != nil {
		return 0, false, err
	}
	n = int(first)
	switch {
	case first == indefinite:
		if tag&constructed == 0 {
			return 0, false, fmt.Errorf("%w: indefinite length of a primitive element", ErrMalformed)
		}
		return 0, true, nil
	case first > indefinite:
		if first > indefinite+4 {
			return 0, false, fmt.Errorf("%w: length of %d bytes", ErrMalformed, first-indefinite)
		}
		n = 0
		for range first - indefinite {
			b, err := r.byte()
			if err != nil {
				return 0, false, err
			}
			n = n<<8 | int(b)
		}
	}
	if n > len(r.rest) || n < 0 { // negative where int has 32 bits
		return 0, false, fmt.Errorf("%w: an element of %d bytes where %d are left", ErrMalformed, n, len(r.rest))
	}
	return n, false, nil
}

func (r *reader) byte() (byte, error) {
	if len(r.rest) == 0 {
		return 0, fmt.Errorf("%w: it ends too early", ErrMalformed)
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b, nil
}
