package policy

import (
	"fmt"

	"github.com/tpm2-p11/tpm2-p11/internal/place"
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
	tree, _, err := place.DecodeJSON(text)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
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
