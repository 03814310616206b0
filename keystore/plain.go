package keystore

import (
	"encoding/base64"
	"unicode/utf8"
)

// readPlain reads a sidecar of the form that encode gives, as decodeStrict would, at a tenth of the cost: a search reads those of a whole
// store. The policy is not understood, but returned as it stands there, nil when there is none. False tells nothing but that the text
// has another form: what is right, or why it is wrong, decodeStrict knows.
func readPlain(text []byte) (s sidecar, policy []byte, ok bool) {
	p := plain{rest: text}
	seen := uint(0)
	for separator := byte('{'); separator != 0; {
		p.token(separator)
		name := p.text()
		p.token(':')
		field := uint(0)
		switch string(name) {
		case "version":
			field, s.Version = 1<<0, formatVersion
			p.token('0' + formatVersion)
		case "name":
			field = 1 << 1
			p.check(s.Name.UnmarshalText(p.text()))
		case "label":
			field, s.Label = 1<<2, string(p.text())
		case "cka_id":
			field = 1 << 3
			p.check(s.CKAID.UnmarshalText(p.text()))
		case "subject":
			field, s.Subject = 1<<4, p.base64()
		case "handle":
			field = 1 << 5
			p.check(s.Handle.UnmarshalText(p.text()))
		case "state":
			field, s.State = 1<<6, State(p.text())
		case "auth":
			field, s.Auth = 1<<7, authKind(p.text())
		case "policy":
			field, policy = 1<<8, p.object()
		case "created":
			field = 1 << 9
			p.check(s.Created.UnmarshalText(p.text()))
		case "srk":
			field = 1 << 10
			p.check(s.SRK.UnmarshalText(p.text()))
		case "public":
			field, s.Public = 1<<11, p.base64()
		}
		if p.bad || field == 0 || seen&field != 0 {
			return sidecar{}, nil, false
		}
		seen |= field
		if separator = 0; p.next() == ',' {
			separator = ','
		}
	}
	p.token('}')
	if p.next(); p.bad || len(p.rest) > 0 || s.Version == 0 {
		return sidecar{}, nil, false
	}
	return s, policy, true
}

// plain reads JSON without escapes. What it does not understand makes it bad.
type plain struct {
	rest []byte
	bad  bool
}

func (p *plain) check(err error) { p.bad = p.bad || err != nil }

// next is the next character that is no space; at the end 0, which is none of JSON's.
func (p *plain) next() byte {
	for i, c := range p.rest {
		if c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			p.rest = p.rest[i:]
			return c
		}
	}
	p.rest = nil
	return 0
}

func (p *plain) token(c byte) {
	if p.next() != c {
		p.bad = true
		return
	}
	p.rest = p.rest[1:]
}

// text reads a string.
func (p *plain) text() []byte {
	p.token('"')
	for i, c := range p.rest {
		if c == '"' {
			text := p.rest[:i]
			p.rest = p.rest[i+1:]
			p.bad = p.bad || !utf8.Valid(text)
			return text
		}
		if c == '\\' || c < ' ' {
			break
		}
	}
	p.bad = true
	return nil
}

func (p *plain) base64() []byte {
	value, err := base64.StdEncoding.AppendDecode(nil, p.text())
	p.check(err)
	p.bad = p.bad || len(value) == 0
	return value
}

// object reads an object as far as to find its end.
func (p *plain) object() []byte {
	if p.next() != '{' {
		p.bad = true
		return nil
	}
	whole := p.rest
	for depth := 0; !p.bad; {
		switch p.next() {
		case 0:
			p.bad = true
			return nil
		case '"':
			p.text()
			continue
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		if p.rest = p.rest[1:]; depth == 0 {
			return whole[:len(whole)-len(p.rest)]
		}
	}
	return nil
}
