package main

import (
	"fmt"
	"strings"

	"github.com/tpm2-p11/tpm2-p11/internal/boundary"
)

// cEntryPoints is cgo/entry_gen.c: the C functions that are not written by hand.
func cEntryPoints() string {
	var b strings.Builder
	fmt.Fprintf(&b, "/* %s */\n#include \"boundary.h\"\n#include \"call.h\"\n\n", notice)
	b.WriteString("/* Functions that are not supported yet look at none of their arguments. */\n#pragma GCC diagnostic ignored \"-Wunused-parameter\"\n")
	for _, s := range boundary.Structs {
		b.WriteString(cGetStruct(s))
	}
	for _, f := range boundary.Functions {
		switch f.Status {
		case boundary.Supported:
			fmt.Fprintf(&b, "\nCK_RV %s(%s)\n{\n%s}\n", f.Name, cParams(f), cBody(f))
		case boundary.Unsupported:
			fmt.Fprintf(&b, "\nCK_RV %s(%s)\n{\n%s}\n", f.Name, cParams(f), cAnswer("CKR_FUNCTION_NOT_SUPPORTED"))
		case boundary.NotParallel:
			fmt.Fprintf(&b, "\nCK_RV %s(%s)\n{\n%s}\n", f.Name, cParams(f), cAnswer("CKR_FUNCTION_NOT_PARALLEL"))
		}
	}
	return b.String()
}

func cAnswer(rv string) string {
	return "\tCK_RV rv = boundary_ready();\n\n\treturn rv != CKR_OK ? rv : " + rv + ";\n"
}

func cBody(f boundary.Function) string {
	if f.InParts {
		return cBodyInParts(f)
	}
	return "\tstruct call call;\n\n" + cCall(f, "\t") + "\treturn call_end(&call);\n"
}

// cBodyInParts repeats the call for each part of the one buffer, which is checked as a whole when the session is told.
func cBodyInParts(f boundary.Function) string {
	last := len(f.Args) - 1
	buffer, length := f.Args[last].Params[0], f.Args[last].Params[1]
	inner := f
	inner.Args = append([]boundary.Arg{}, f.Args...)
	inner.Args[last].Params = []string{"part_at(" + buffer + ", done)", "part"}
	return "\tCK_ULONG done = 0, part;\n\tCK_RV rv;\n\n\tdo {\n\t\tstruct call call;\n\n" +
		"\t\tpart = part_length(" + length + " - done);\n" +
		strings.Replace(cCall(inner, "\t\t"), ", hSession);\n", ", hSession);\n\t\tneed_for(&call, "+buffer+", "+length+");\n", 1) +
		"\t\trv = call_end(&call);\n\t\tdone += part;\n\t} while (rv == CKR_OK && done < " + length + ");\n\treturn rv;\n"
}

// cCall is a call's beginning, its arguments, its sending and its outputs.
func cCall(f boundary.Function, indent string) string {
	lines := []string{"call_begin(&call, CALL_" + f.Name + ");"}
	for _, a := range f.Args {
		if line := cPut(a); line != "" {
			lines = append(lines, line)
		}
	}
	lines = append(lines, "call_send(&call);")
	for _, a := range f.Args {
		if line := cGet(a); line != "" {
			lines = append(lines, line)
		}
	}
	return indent + strings.Join(lines, "\n"+indent) + "\n"
}

func cPut(a boundary.Arg) string {
	p := a.Params
	switch a.Kind {
	case boundary.Ulong:
		return fmt.Sprintf("put_ulong(&call, %s);", p[0])
	case boundary.Bool:
		return fmt.Sprintf("put_bool(&call, %s);", p[0])
	case boundary.Label:
		return fmt.Sprintf("put_label(&call, %s);", p[0])
	case boundary.Bytes:
		return fmt.Sprintf("put_bytes(&call, %s, %s, %s);", p[0], p[1], a.TooLong)
	case boundary.Mechanism:
		return fmt.Sprintf("put_mechanism(&call, %s);", p[0])
	case boundary.OptionalMechanism:
		return fmt.Sprintf("put_optional_mechanism(&call, %s);", p[0])
	case boundary.Template:
		return fmt.Sprintf("put_template(&call, %s, %s);", p[0], p[1])
	case boundary.Query:
		return fmt.Sprintf("put_query(&call, %s, %s);", p[0], p[1])
	case boundary.OutBuffer:
		return fmt.Sprintf("put_buffer(&call, %s, %s);", p[0], p[1])
	case boundary.OutLast:
		return fmt.Sprintf("put_last_buffer(&call, %s, %s);", p[0], p[1])
	case boundary.OutExact:
		return fmt.Sprintf("put_ulong(&call, %s);", p[1])
	case boundary.Reserved:
		return fmt.Sprintf("forbid(&call, %s);", p[0])
	case boundary.OutFound:
		return fmt.Sprintf("put_found(&call, %s, %s, %s);", p[0], p[1], p[2])
	case boundary.OutList:
		return fmt.Sprintf("need(&call, %s);", p[1])
	case boundary.OutUlong, boundary.OutStruct:
		return fmt.Sprintf("need(&call, %s);", p[0])
	}
	return ""
}

func cGet(a boundary.Arg) string {
	p := a.Params
	switch a.Kind {
	case boundary.Query:
		return fmt.Sprintf("get_query(&call, %s, %s);", p[0], p[1])
	case boundary.OutBuffer:
		return fmt.Sprintf("get_buffer(&call, %s, %s);", p[0], p[1])
	case boundary.OutLast:
		return fmt.Sprintf("get_last_buffer(&call, %s, %s);", p[0], p[1])
	case boundary.OutExact:
		return fmt.Sprintf("get_exact(&call, %s, %s);", p[0], p[1])
	case boundary.OutFound:
		return fmt.Sprintf("get_found(&call, %s, %s, %s);", p[0], p[1], p[2])
	case boundary.OutList:
		return fmt.Sprintf("get_list(&call, %s, %s);", p[0], p[1])
	case boundary.OutUlong:
		return fmt.Sprintf("get_ulong(&call, %s);", p[0])
	case boundary.OutStruct:
		return fmt.Sprintf("get_%s(&call, %s);", a.Go, p[0])
	}
	return ""
}

func cGetStruct(s boundary.Struct) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nstatic void get_%s(struct call *c, %s *info)\n{\n\tif (c->rv != CKR_OK)\n\t\treturn;\n", s.Go, s.Name)
	for _, f := range s.Fields {
		switch f.Type {
		case boundary.NumberField:
			fmt.Fprintf(&b, "\tget_ulong(c, &info->%s);\n", f.C)
		case boundary.TextField:
			fmt.Fprintf(&b, "\tget_text(c, info->%s, sizeof info->%[1]s);\n", f.C)
		case boundary.VersionField:
			fmt.Fprintf(&b, "\tget_version(c, &info->%s);\n", f.C)
		}
	}
	b.WriteString("}\n")
	return b.String()
}
