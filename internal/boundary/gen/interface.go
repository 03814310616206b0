package main

import (
	"fmt"
	"strings"

	"github.com/tpm2-p11/tpm2-p11/internal/boundary"
)

// goInterface is p11/functions_gen.go.
func goInterface() string {
	var b strings.Builder
	fmt.Fprintf(&b, `// %s

package p11

// functions are the methods behind the C functions of the same names. Module has them all.
//
// A nil error is CKR_OK; any other goes through RVOf. Byte arguments are nil when the caller's pointer was NULL. Data and PINs
// (every []byte argument) are only lent: they are wiped when the method returns. Attributes and mechanism parameters may be kept.
// What went to Output is wiped after it was sent. Results besides an error are dropped, except Output's length and the results of GetAttributeValue.
type functions interface {
`, notice)
	for _, f := range boundary.Functions {
		if f.Dispatched() {
			fmt.Fprintf(&b, "\t%s(%s) %s\n", f.Method(), goParams(f), goResults(f))
		}
	}
	b.WriteString("}\n\nvar _ functions = (*Module)(nil)\n")
	return b.String()
}

func goParams(f boundary.Function) string {
	var params []string
	for _, a := range f.Args {
		switch a.Kind {
		case boundary.InitializeArgs:
			params = append(params, "flags Flags", "hasArgs bool")
		case boundary.OutExact, boundary.OutFound:
			params = append(params, a.Name+" uint64")
		case boundary.Ulong, boundary.Bool, boundary.Label, boundary.Bytes, boundary.Mechanism, boundary.OptionalMechanism,
			boundary.Template, boundary.Query, boundary.OutBuffer, boundary.OutLast:
			params = append(params, a.Name+" "+a.Go)
		}
	}
	return strings.Join(params, ", ")
}

func goResults(f boundary.Function) string {
	var results []string
	for _, a := range f.Args {
		switch a.Kind {
		case boundary.Query:
			results = append(results, "[]AttributeResult")
		case boundary.OutList, boundary.OutFound:
			results = append(results, "[]"+a.Go)
		case boundary.OutExact, boundary.OutUlong, boundary.OutStruct:
			results = append(results, a.Go)
		}
	}
	if len(results) == 0 {
		return "error"
	}
	return "(" + strings.Join(append(results, "error"), ", ") + ")"
}

// goNumbers is internal/client/functions_gen.go.
func goNumbers() string {
	var b strings.Builder
	fmt.Fprintf(&b, "// %s\n\npackage client\n\n// The functions' numbers in a request.\nconst (\n", notice)
	for _, f := range boundary.Functions {
		if f.Dispatched() {
			fmt.Fprintf(&b, "\tcall%s = %d\n", f.Method(), f.Number)
		}
	}
	b.WriteString(")\n")
	return b.String()
}
