package policy

// PIN requires the object's authValue (TPM2_PolicyAuthValue).
type PIN struct{}

func (PIN) walk(p *planner) error {
	p.add(AuthValueStep{})
	return nil
}

func (p PIN) resolve(State, bool) (Node, error) { return p, nil }

func (p PIN) check(now State) error {
	if now.NoPIN {
		return &UnsatisfiedError{Node: p, Wants: "the PIN", Has: "no PIN was given"}
	}
	return nil
}

func (PIN) children() []Node           { return nil }
func (PIN) text() string               { return "pin" }
func (PIN) explain(w *explainer)       { w.line("the PIN is given") }
func (PIN) appendJSON(b []byte) []byte { return append(b, `{"pin":true}`...) }

func pinFromTree(tree any, at path) (Node, error) {
	if tree != true {
		return nil, at.errorf("can only be true; leave it out for no PIN")
	}
	return PIN{}, nil
}
