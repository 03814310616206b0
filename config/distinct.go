package config

import "fmt"

// distinct refuses tokens that would take something from each other, and an offline cache that would take a store's folder.
func (c Config) distinct() error {
	for i, token := range c.Tokens {
		if dir := c.KMS.Offline.Dir; dir == token.Store {
			return &Error{Path: c.Path, Line: c.KMS.Line, Err: fmt.Errorf("[kms.offline] has the store %s as its dir: its copies need a folder of their own", dir)}
		}
		for _, other := range c.Tokens[:i] {
			if line, err := token.clash(other); err != nil {
				return &Error{Path: c.Path, Line: line, Err: err}
			}
		}
	}
	return nil
}

// clash tells what two tokens cannot both have, and on which line the later one says so.
func (t Token) clash(other Token) (line int, err error) {
	if t.Label == other.Label {
		return t.Line, fmt.Errorf("token %q is on line %d already", t.Label, other.Line)
	}
	if t.Store == other.Store {
		return t.Line, fmt.Errorf("token %q has the store of token %q: a store is one token", t.Label, other.Label)
	}
	if t.TPM != other.TPM {
		return 0, nil
	}
	for _, auth := range []struct{ name, mine, others string }{
		{"owner", t.OwnerAuthFile, other.OwnerAuthFile}, {"endorsement", t.EndorsementAuthFile, other.EndorsementAuthFile},
	} {
		if auth.mine != "" && auth.others != "" && auth.mine != auth.others {
			return t.Line, fmt.Errorf("token %q has another %s_auth_file than token %q, and a TPM has one %[2]s authorisation", t.Label, auth.name, other.Label)
		}
	}
	for _, k := range t.Keys {
		for _, taken := range other.Keys {
			if k.Handle == taken.Handle {
				return k.Line, fmt.Errorf("key %q has the handle 0x%08x of key %q on line %d, in the same TPM",
					k.Label, k.Handle, taken.Label, taken.Line)
			}
		}
	}
	return 0, nil
}
