package policy

import (
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// Command requires that the object is used by one TPM command alone (TPM2_PolicyCommandCode).
type Command struct{ Code tpm2.TPMCC }

// commands are those that a policy can authorise and that have a name here.
var commands = map[string]tpm2.TPMCC{
	"sign":        tpm2.TPMCCSign,
	"decrypt":     tpm2.TPMCCRSADecrypt,
	"unseal":      tpm2.TPMCCUnseal,
	"ecdh":        tpm2.TPMCCECDHZGen,
	"change-auth": tpm2.TPMCCObjectChangeAuth,
	"certify":     tpm2.TPMCCCertify,
	"quote":       tpm2.TPMCCQuote,
}

func (c Command) walk(p *planner) error {
	if p.guide != nil {
		if err := p.guide.allow(c); err != nil {
			return err
		}
	}
	p.add(CommandStep(c))
	return nil
}

func (c Command) resolve(State, bool) (Node, error) { return c, nil }

func (c Command) check(now State) error {
	if now.Command == 0 || now.Command == c.Code {
		return nil
	}
	return &UnsatisfiedError{Node: c, Wants: c.name() + " alone", Has: "it is to be used to " + Command{now.Command}.name()}
}

func (c Command) name() string {
	for name, code := range commands {
		if code == c.Code {
			return name
		}
	}
	return fmt.Sprintf("0x%x", uint32(c.Code))
}

func (c Command) children() []Node     { return nil }
func (c Command) text() string         { return c.name() + " alone" }
func (c Command) explain(w *explainer) { w.line("it is used to %s, and for nothing else", c.name()) }

func (c Command) appendJSON(b []byte) []byte { return fmt.Appendf(b, `{"command":%q}`, c.name()) }

func commandFromTree(tree any, at path) (Node, error) {
	name, ok := tree.(string)
	if !ok {
		return nil, at.errorf(`is a command such as "sign", not %s`, describe(tree))
	}
	if code, known := commands[name]; known {
		return Command{code}, nil
	}
	if code, ok := parseNumber(name); ok {
		return Command{tpm2.TPMCC(code)}, nil
	}
	return nil, at.errorf("%q is no command that is known (known: %s, or a command code such as 0x15d)", name, strings.Join(sorted(commands), ", "))
}
