package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
)

// MarshalJSON gives the tree in its one canonical form.
func (p Policy) MarshalJSON() ([]byte, error) {
	if p.IsZero() {
		return []byte("null"), nil
	}
	return p.Root.appendJSON(nil), nil
}

// UnmarshalJSON reads what FromTree reads; null is the zero Policy. A member that is there twice is refused.
func (p *Policy) UnmarshalJSON(text []byte) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	tree, err := decodeValue(dec, 0)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return fmt.Errorf("%w: text after the policy", ErrInvalid)
	}
	if tree == nil {
		*p = Policy{}
		return nil
	}
	read, err := FromTree(tree)
	if err != nil {
		return err
	}
	*p = read
	return nil
}

// decodeValue decodes one value as encoding/json would, except that it refuses duplicate members.
func decodeValue(dec *json.Decoder, depth int) (any, error) {
	if depth > 4*maxDepth {
		return nil, fmt.Errorf("nests deeper than %d", maxDepth)
	}
	token, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('{'):
		object := make(map[string]any)
		for dec.More() {
			key, err := dec.Token()
			if err != nil {
				return nil, err
			}
			name := key.(string)
			if _, twice := object[name]; twice {
				return nil, fmt.Errorf("member %q is there twice", name)
			}
			if object[name], err = decodeValue(dec, depth+1); err != nil {
				return nil, err
			}
		}
		_, err := dec.Token()
		return object, err
	case json.Delim('['):
		list := []any{}
		for dec.More() {
			v, err := decodeValue(dec, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := dec.Token()
		return list, err
	}
	return token, nil
}
