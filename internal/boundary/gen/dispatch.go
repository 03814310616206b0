package main

import (
	"fmt"
	"strings"

	"github.com/tpm2-p11/tpm2-p11/internal/boundary"
)

// goDispatch is p11/dispatch_gen.go: from bytes to the methods of functions, and back.
func goDispatch() string {
	var b strings.Builder
	fmt.Fprintf(&b, "// %s\n\npackage p11\n\n", notice)
	fmt.Fprintf(&b, "const (\n\tmaxFound = %d // handles in one FindObjects\n\tmaxPart = %d // bytes in one GenerateRandom\n\tnumberResume = %d\n\tnumberRefused = %d\n)\n\n", boundary.MaxFound, boundary.PartSize, boundary.Resume, boundary.Refused)
	b.WriteString("// handlers are the functions by their number on the wire.\nvar handlers = map[uint32]handler{\n")
	for _, f := range boundary.Functions {
		if f.Dispatched() {
			fmt.Fprintf(&b, "\t%d: {%q, call%s, %t, %t, %s},\n", f.Number, f.Name, f.Method(), f.Changes && !f.Own, len(f.Args) > 0 && f.Args[0].Go == "SlotID", goDrop(f))
		}
	}
	b.WriteString("}\n")
	for _, f := range boundary.Functions {
		if f.Dispatched() {
			b.WriteString(goHandler(f))
		}
	}
	for _, s := range boundary.Structs {
		b.WriteString(goPutStruct(s))
	}
	return b.String()
}

// goDrop is the method that ends the operation which a failed call of the function ends, "nil" for none.
func goDrop(f boundary.Function) string {
	if f.EndsWhenRefused() {
		return fmt.Sprintf("(*session).drop%s", f.Operation)
	}
	return "nil"
}

func goHandler(f boundary.Function) string {
	var decode, args, results, encode []string
	partly := false
	for _, a := range f.Args {
		take := ""
		switch a.Kind {
		case boundary.InitializeArgs:
			decode = append(decode, "hasArgs := c.in.Bool()", "flags := Flags(c.in.Uint64())")
			args = append(args, "flags", "hasArgs")
		case boundary.Ulong:
			take = a.Go + "(c.in.Uint64())"
		case boundary.Bool:
			take = "c.in.Bool()"
		case boundary.Label:
			take = "c.in.Fixed(32)"
		case boundary.Bytes:
			take = "c.in.Bytes()"
		case boundary.Mechanism, boundary.OptionalMechanism:
			take = "c.mechanism()"
		case boundary.Template:
			take = "c.template()"
		case boundary.Query:
			take, partly = "c.queries()", true
			results, encode = append(results, "results"), append(encode, "c.putResults(queries, results)")
		case boundary.OutBuffer:
			take, partly = "c.output()", true
			encode = append(encode, "c.putOutput(out)")
		case boundary.OutLast:
			take, partly = "c.lastOutput()", true
			encode = append(encode, "c.putLastOutput(out)")
		case boundary.OutExact:
			take = "c.limited(maxPart)"
			results, encode = append(results, "random"), append(encode, "c.putExact(random, n)")
		case boundary.OutFound:
			take = "c.limited(maxFound)"
			results, encode = append(results, "found"), append(encode, "putList(c, found)")
		case boundary.OutUlong:
			results, encode = append(results, a.Name), append(encode, "c.out.Uint64(uint64("+a.Name+"))")
		case boundary.OutList:
			results, encode = append(results, a.Name), append(encode, "putList(c, "+a.Name+")")
		case boundary.OutStruct:
			results, encode = append(results, a.Name), append(encode, "c.put"+a.Go+"("+a.Name+")")
		}
		if take != "" {
			decode = append(decode, a.Name+" := "+take)
			args = append(args, a.Name)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\nfunc call%s(f functions, c *call) {\n", f.Method())
	for _, line := range decode {
		b.WriteString("\t" + line + "\n")
	}
	call := "f." + f.Method() + "(" + strings.Join(args, ", ") + ")"
	b.WriteString("\tif !c.decoded() {\n\t\treturn\n\t}\n")
	if len(encode) == 0 {
		fmt.Fprintf(&b, "\tc.answer(%s)\n}\n", call)
		return b.String()
	}
	answer := "answer"
	if partly {
		answer = "answerPartly"
	}
	fmt.Fprintf(&b, "\t%s := %s\n\tif c.%s(err) {\n", strings.Join(append(results, "err"), ", "), call, answer)
	for _, line := range encode {
		b.WriteString("\t\t" + line + "\n")
	}
	b.WriteString("\t}\n}\n")
	return b.String()
}

func goPutStruct(s boundary.Struct) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nfunc (c *call) put%s(info %[1]s) {\n", s.Go)
	for _, f := range s.Fields {
		switch f.Type {
		case boundary.NumberField:
			fmt.Fprintf(&b, "\tc.out.Uint64(uint64(info.%s))\n", f.Go)
		case boundary.TextField:
			fmt.Fprintf(&b, "\tc.putText(info.%s, %d)\n", f.Go, f.Size)
		case boundary.VersionField:
			fmt.Fprintf(&b, "\tc.putVersion(info.%s)\n", f.Go)
		}
	}
	b.WriteString("}\n")
	return b.String()
}
