package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
)

// Override is what a program's caller says in place of a configuration; "" leaves it as it is.
type Override struct {
	TPM   string // address, of all tokens
	Store string // folder, of the one token that there is, or that Token chooses: no other is left then
	Token string // label
}

// ErrSeveralTokens is an Override's store for a configuration of several tokens.
var ErrSeveralTokens = errors.New("the configuration has several tokens, and it is not clear whose store it is")

// With lays o over the configuration. What the file was not allowed to say is refused here too, as an *Error: tokens that
// come together on one TPM must not name two owner authorisations, nor keys at one handle.
func (c Config) With(o Override) (Config, error) {
	c.Tokens = slices.Clone(c.Tokens)
	if o.Store != "" {
		if len(c.Tokens) > 1 {
			c.Tokens = slices.DeleteFunc(c.Tokens, func(t Token) bool { return t.Label != o.Token })
		}
		if len(c.Tokens) != 1 {
			return Config{}, fmt.Errorf("store %s: %w", o.Store, ErrSeveralTokens)
		}
		var err error
		if c.Tokens[0].Store, err = filepath.Abs(o.Store); err != nil {
			return Config{}, err
		}
	}
	if o.TPM == "" {
		return c, nil
	}
	for i := range c.Tokens {
		c.Tokens[i].TPM, c.Tokens[i].TPMLine = o.TPM, 0
	}
	if err := c.distinct(); err != nil {
		return Config{}, fmt.Errorf("all tokens on the TPM %s: %w", o.TPM, err)
	}
	return c, nil
}
