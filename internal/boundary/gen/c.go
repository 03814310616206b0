package main

import (
	"fmt"
	"strings"

	"github.com/tpm2-p11/tpm2-p11/internal/boundary"
	"github.com/tpm2-p11/tpm2-p11/internal/wire"
)

// cFunctionsHeader is cgo/functions_gen.h: prototypes and the function lists.
func cFunctionsHeader() string {
	var b strings.Builder
	fmt.Fprintf(&b, "/* %s */\n#ifndef FUNCTIONS_GEN_H\n#define FUNCTIONS_GEN_H\n\n", notice)
	for _, l := range functionLists {
		fmt.Fprintf(&b, "typedef struct %s %[1]s, *%[1]s_PTR, **%[1]s_PTR_PTR;\n", l.name)
	}
	b.WriteString("\n#pragma GCC visibility push(default)\n")
	for _, f := range boundary.Functions {
		fmt.Fprintf(&b, "CK_RV %s(%s);\n", f.Name, cParams(f))
	}
	b.WriteString("#pragma GCC visibility pop\n")
	for _, l := range functionLists {
		fmt.Fprintf(&b, "\nstruct %s {\n\tCK_VERSION version;\n", l.name)
		for _, f := range l.functions() {
			fmt.Fprintf(&b, "\tCK_RV (*%s)(%s);\n", f.Name, cParams(f))
		}
		b.WriteString("};\n")
	}
	b.WriteString("\n#endif\n")
	return b.String()
}

// functionList is one of the structures that hold the functions.
type functionList struct {
	name, variable string
	version        boundary.Version
	major, minor   int
}

var functionLists = []functionList{
	{"CK_FUNCTION_LIST", "function_list", boundary.V2_40, 2, 40},
	{"CK_FUNCTION_LIST_3_0", "function_list_3_0", boundary.V3_0, 3, 0},
	{"CK_FUNCTION_LIST_3_2", "function_list_3_2", boundary.V3_2, 3, 2},
}

// functions are the members of a list, in their order.
func (l functionList) functions() (list []boundary.Function) {
	for _, f := range boundary.Functions {
		if f.Since <= l.version {
			list = append(list, f)
		}
	}
	return list
}

// cMessagesHeader is cgo/messages_gen.h: the functions' numbers and the limits.
func cMessagesHeader() string {
	var b strings.Builder
	fmt.Fprintf(&b, "/* %s */\n#ifndef MESSAGES_GEN_H\n#define MESSAGES_GEN_H\n\n", notice)
	fmt.Fprintf(&b, "#define MAX_MESSAGE %dUL /* bytes */\n#define PART_SIZE %dUL /* bytes */\n#define MAX_FOUND %dUL /* handles */\n\nenum function_number {\n",
		wire.MaxMessage, boundary.PartSize, boundary.MaxFound)
	for _, f := range boundary.Functions {
		if f.Dispatched() {
			fmt.Fprintf(&b, "\tCALL_%s = %d,\n", f.Name, f.Number)
		}
	}
	fmt.Fprintf(&b, "};\n\n#define CALL_RESUME %dU\n#define CALL_REFUSED %dU\n\n#define OPERATIONS %d /* kinds of them */\n\n#endif\n",
		boundary.Resume, boundary.Refused, len(boundary.Operations)-1)
	return b.String()
}

// cFunctionList is cgo/functionlist_gen.c.
func cFunctionList() string {
	var b strings.Builder
	fmt.Fprintf(&b, "/* %s */\n#include \"boundary.h\"\n", notice)
	for _, l := range functionLists {
		fmt.Fprintf(&b, "\nconst %s %s = {\n\t.version = {%d, %d},\n", l.name, l.variable, l.major, l.minor)
		for _, f := range l.functions() {
			fmt.Fprintf(&b, "\t.%s = %[1]s,\n", f.Name)
		}
		b.WriteString("};\n")
	}
	return b.String()
}

// exportsMap is cgo/exports.map, the linker's version script.
func exportsMap() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n{\nglobal:\n", notice)
	for _, f := range boundary.Functions {
		fmt.Fprintf(&b, "\t%s;\n", f.Name)
	}
	b.WriteString("local:\n\t*;\n};\n")
	return b.String()
}

// cParameterLayouts is cgo/mechanisms_gen.c.
func cParameterLayouts() string {
	var b strings.Builder
	fmt.Fprintf(&b, "/* %s */\n#include \"call.h\"\n", notice)
	for _, p := range boundary.Parameters {
		fmt.Fprintf(&b, "\nstatic const struct parameter_field %s_fields[] = {\n", p.Name)
		for _, f := range p.Fields {
			if f.Length == "" {
				fmt.Fprintf(&b, "\t{FIELD_ULONG, offsetof(%s, %s), 0},\n", p.Name, f.C)
			} else {
				fmt.Fprintf(&b, "\t{FIELD_BUFFER, offsetof(%s, %s), offsetof(%[1]s, %[3]s)},\n", p.Name, f.C, f.Length)
			}
		}
		fmt.Fprintf(&b, "};\n\nstatic const struct parameter_layout %s_layout = {\n\tsizeof(%[1]s), %[2]d, %[1]s_fields,\n};\n", p.Name, len(p.Fields))
	}
	b.WriteString("\nconst struct parameter_layout *parameter_layout(CK_MECHANISM_TYPE mechanism)\n{\n\tswitch (mechanism) {\n")
	for _, p := range boundary.Parameters {
		for _, m := range p.Mechanisms {
			fmt.Fprintf(&b, "\tcase %s:\n", m)
		}
		fmt.Fprintf(&b, "\t\treturn &%s_layout;\n", p.Name)
	}
	b.WriteString("\t}\n\treturn NULL;\n}\n")
	return b.String()
}

// cParams are a function's parameters as C declares them.
func cParams(f boundary.Function) string {
	var params []string
	for _, a := range f.Args {
		for i, t := range cTypes(a) {
			params = append(params, t+" "+a.Params[i])
		}
	}
	return strings.Join(params, ", ")
}

// cTypes are the types of an argument's C parameters.
func cTypes(a boundary.Arg) []string {
	switch a.Kind {
	case boundary.Bytes, boundary.Template, boundary.Query, boundary.OutExact:
		return []string{a.C, "CK_ULONG"}
	case boundary.OutBuffer, boundary.OutLast, boundary.OutList:
		return []string{a.C, "CK_ULONG_PTR"}
	case boundary.OutFound:
		return []string{a.C, "CK_ULONG", "CK_ULONG_PTR"}
	}
	return []string{a.C}
}
