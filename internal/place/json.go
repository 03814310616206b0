package place

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
)

// DecodeJSON decodes one JSON value as encoding/json does (numbers as json.Number), refusing members that are there twice,
// values nested deeper than 100, places of more than 2 MiB together, and text after the value. The lines are known as far as the
// text was read, and the error is about the line of the whole text's place, "".
func DecodeJSON(text []byte) (any, Lines, error) {
	d := decoder{text: text, Decoder: json.NewDecoder(bytes.NewReader(text)), marker: marker{lines: Lines{}}, last: 1}
	d.UseNumber()
	value, err := d.value("", 0)
	if err == nil {
		if _, after := d.Token(); after != io.EOF {
			value, err = nil, fmt.Errorf("text follows the value")
		}
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		d.lines[""] = d.line()
	}
	return value, d.lines, err
}

type decoder struct {
	*json.Decoder
	marker
	text    []byte
	counted int64 // bytes of text whose lines were counted
	last    int   // the line that they end on
}

// line is where the last token ends.
func (d *decoder) line() int {
	end := d.InputOffset()
	d.last += bytes.Count(d.text[d.counted:end], []byte("\n"))
	d.counted = end
	return d.last
}

func (d *decoder) value(at string, depth int) (any, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("values nest deeper than %d", maxNesting)
	}
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	if at != "" {
		d.mark(at, d.line())
	}
	if d.err != nil {
		return nil, d.err
	}
	switch token {
	case json.Delim('{'):
		return d.object(at, depth)
	case json.Delim('['):
		list := []any{}
		for d.More() {
			v, err := d.value(Element(at, len(list)), depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := d.Token()
		return list, err
	}
	return token, nil
}

func (d *decoder) object(at string, depth int) (any, error) {
	object := make(map[string]any)
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		name := key.(string)
		if _, twice := object[name]; twice {
			return nil, fmt.Errorf("member %q is there twice", name)
		}
		member := Join(at, name)
		d.mark(member, d.line())
		if object[name], err = d.value(member, depth+1); err != nil {
			return nil, err
		}
	}
	_, err := d.Token()
	return object, err
}
