package cms

import "slices"

// Element is one BER data value: content, or children where there are any.
type Element struct {
	Tag        byte
	Indefinite bool
	Content    []byte
	Children   []*Element
}

// Encode gives the element's bytes.
func (e *Element) Encode() []byte {
	content := slices.Clone(e.Content)
	for _, child := range e.Children {
		content = append(content, child.Encode()...)
	}
	out := []byte{e.Tag}
	switch n := len(content); {
	case e.Indefinite:
		return append(append(append(out, 0x80), content...), 0, 0)
	case n < 0x80:
		out = append(out, byte(n))
	case n < 1<<8:
		out = append(out, 0x81, byte(n))
	default: // no answer of KMS comes near 64 KiB
		out = append(out, 0x82, byte(n>>8), byte(n))
	}
	return append(out, content...)
}

// Message is the envelope as a ContentInfo, with definite and indefinite
// lengths where KMS has them.
func (e *Envelope) Message() *Element {
	content := primitive(0x80, e.Ciphertext)
	if e.Form == Constructed {
		content = open(0xa0, primitive(0x04, e.Ciphertext))
	}
	sha256 := func() *Element { return sequence(oid("\x60\x86\x48\x01\x65\x03\x04\x02\x01"), primitive(0x05, nil)) }
	oaep := sequence(
		oid("\x2a\x86\x48\x86\xf7\x0d\x01\x01\x07"),
		sequence(
			closed(0xa0, sha256()),
			closed(0xa1, sequence(oid("\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08"), sha256())),
		),
	)
	recipient := sequence(primitive(0x02, []byte{2}), primitive(0x80, e.Recipient), oaep, primitive(0x04, e.EncryptedKey))
	return open(0x30,
		oid("\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03"),
		open(0xa0, open(0x30,
			primitive(0x02, []byte{2}),
			closed(0x31, recipient),
			open(0x30,
				oid("\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01"),
				sequence(oid("\x60\x86\x48\x01\x65\x03\x04\x01\x2a"), primitive(0x04, e.IV)),
				content,
			),
		)),
	)
}

func primitive(tag byte, content []byte) *Element    { return &Element{Tag: tag, Content: content} }
func oid(content string) *Element                    { return primitive(0x06, []byte(content)) }
func closed(tag byte, children ...*Element) *Element { return &Element{Tag: tag, Children: children} }
func sequence(children ...*Element) *Element         { return closed(0x30, children...) }
func open(tag byte, children ...*Element) *Element {
	return &Element{Tag: tag, Indefinite: true, Children: children}
}
