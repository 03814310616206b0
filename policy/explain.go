package policy

import (
	"fmt"
	"strings"
)

// Explain says the policy in plain words, a requirement a line, what is within another one indented.
func (p Policy) Explain() string {
	if p.IsZero() {
		return "nothing is required\n"
	}
	w := new(explainer)
	p.Root.explain(w)
	return w.text.String()
}

type explainer struct {
	text   strings.Builder
	indent string
}

func (w *explainer) line(format string, arguments ...any) {
	fmt.Fprintf(&w.text, w.indent+format+"\n", arguments...)
}

func (w *explainer) list(heading string, nodes []Node) {
	w.line("%s", heading)
	within := explainer{indent: w.indent + "  "}
	for _, n := range nodes {
		n.explain(&within)
	}
	w.text.WriteString(within.text.String())
}
