package policy

import "github.com/google/go-tpm/tpm2"

// PIN requires the object's authValue (TPM2_PolicyAuthValue).
type PIN struct{}

func (PIN) extend(d *digest) error {
	AuthValueStep{}.extend(d)
	return nil
}

func (PIN) steps(tpm2.TPMIAlgHash) ([]Step, error) { return []Step{AuthValueStep{}}, nil }
func (p PIN) resolve(Reader, bool) (Node, error)   { return p, nil }
func (PIN) check(Reader) error                     { return nil }
func (PIN) children() []Node                       { return nil }
func (PIN) text() string                           { return "pin" }
func (PIN) appendJSON(b []byte) []byte             { return append(b, `{"pin":true}`...) }

func pinFromTree(tree any, at path) (Node, error) {
	if tree != true {
		return nil, at.errorf("can only be true; leave it out for no PIN")
	}
	return PIN{}, nil
}
