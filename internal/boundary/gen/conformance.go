package main

import (
	"fmt"
	"strings"

	"github.com/tpm2-p11/tpm2-p11/internal/boundary"
)

// cConformance is tests/testdata/conformance_gen.h: every function with arguments that are right, and each way to get one of them wrong
// with the answer that the standard has for it. conformance.c, which includes it, has the arguments.
func cConformance() string {
	var b strings.Builder
	fmt.Fprintf(&b, "/* %s */\n\n", notice)
	for _, f := range boundary.Functions {
		b.WriteString(cUsualCall(f))
	}
	b.WriteString("static const struct function functions[] = {\n")
	for _, f := range boundary.Functions {
		fmt.Fprintf(&b, "\t{%q, call_%[1]s, usual_%[1]s, %[2]s, %[3]s},\n", f.Name, cBeforeInitialize(f), cUsualAnswer(f))
	}
	b.WriteString("};\n\nstatic const struct misuse misuses[] = {\n")
	for i, f := range boundary.Functions {
		if !f.Dispatched() && f.Status != boundary.Composed || f.Name == "C_Initialize" {
			continue
		}
		at := 0
		for _, a := range f.Args {
			for _, m := range misusesOf(f, a) {
				fmt.Fprintf(&b, "\t{%d, \"%s %s\", %d, {.%s}, %s},\n", i, a.Params[min(m.param, len(a.Params)-1)], m.what, at+m.param, m.value, m.want)
			}
			at += len(cTypes(a))
		}
	}
	b.WriteString("};\n")
	return b.String()
}

// cUsualCall are two functions of one: the call by a list of arguments, and the list with arguments that are right.
func cUsualCall(f boundary.Function) string {
	var call, usual []string
	for _, a := range f.Args {
		values := cUsualValues(f, a)
		for i, t := range cTypes(a) {
			member := "number"
			if strings.HasSuffix(t, "_PTR") || t == "CK_NOTIFY" {
				member = "pointer"
			}
			at := len(call)
			call = append(call, fmt.Sprintf("a[%d].%s", at, member))
			usual = append(usual, fmt.Sprintf("\ta[%d].%s = %s;\n", at, member, values[i]))
		}
	}
	return fmt.Sprintf("static CK_RV call_%s(const union argument *a)\n{\n\treturn all->%[1]s(%[2]s);\n}\n\nstatic void usual_%[1]s(union argument *a)\n{\n%[3]s}\n\n",
		f.Name, strings.Join(call, ", "), strings.Join(usual, ""))
}

// cUsualValues are what is right for an argument, by its C parameters.
func cUsualValues(f boundary.Function, a boundary.Arg) []string {
	switch a.Kind {
	case boundary.Ulong:
		switch a.Go {
		case "SessionHandle":
			return []string{"session"}
		case "ObjectHandle":
			return []string{"key"}
		case "Flags":
			return []string{"CKF_SERIAL_SESSION | CKF_DONT_BLOCK"}
		}
		return []string{"0"}
	case boundary.Bool:
		return []string{"CK_TRUE"}
	case boundary.Label, boundary.OutStruct:
		return []string{"buffer"}
	case boundary.Bytes, boundary.OutExact:
		return []string{"buffer", "BUFFER_LENGTH"}
	case boundary.Mechanism, boundary.OptionalMechanism:
		return []string{"&mechanism"}
	case boundary.Template, boundary.Query:
		return []string{"&attribute", "1"}
	case boundary.OutBuffer, boundary.OutLast:
		return []string{"buffer", "&length"}
	case boundary.OutList:
		return []string{"list", "&count"}
	case boundary.OutFound:
		return []string{"list", "LIST_LENGTH", "&count"}
	case boundary.OutUlong:
		return []string{"&number"}
	}
	if f.Status == boundary.InC && a.C == "CK_FLAGS" {
		return []string{"0"}
	}
	return []string{"NULL"}
}

// cBeforeInitialize is what a function answers to the usual arguments before C_Initialize and after C_Finalize.
func cBeforeInitialize(f boundary.Function) string {
	switch {
	case f.Status == boundary.InC:
		return "CKR_ARGUMENTS_BAD" // the usual pointers are NULL
	case f.Name == "C_Initialize":
		return "NOT_TRIED"
	}
	return "CKR_CRYPTOKI_NOT_INITIALIZED"
}

// cUsualAnswer is what a function that needs an operation, or is not there, answers to the usual arguments.
func cUsualAnswer(f boundary.Function) string {
	switch {
	case f.Status == boundary.Unsupported:
		return "CKR_FUNCTION_NOT_SUPPORTED"
	case f.Status == boundary.NotParallel:
		return "CKR_FUNCTION_NOT_PARALLEL"
	case f.Status == boundary.Composed, f.Step == boundary.Continues, f.Step == boundary.Uses, f.Step == boundary.Ends:
		return "CKR_OPERATION_NOT_INITIALIZED"
	}
	return "NOT_TRIED"
}

// misuse is one C parameter of an argument with another value.
type misuse struct {
	what        string
	param       int
	value, want string
}

func misusesOf(f boundary.Function, a boundary.Arg) []misuse {
	const null, absurd, bad = "pointer = NULL", "number = ABSURD", "CKR_ARGUMENTS_BAD"
	switch a.Kind {
	case boundary.Ulong:
		switch a.Go {
		case "SessionHandle":
			return []misuse{{"is no session", 0, "number = 0", "CKR_SESSION_HANDLE_INVALID"}, {"is closed", 0, "number = CLOSED", "CKR_SESSION_HANDLE_INVALID"}}
		case "SlotID":
			return []misuse{{"is no slot", 0, absurd, "CKR_SLOT_ID_INVALID"}}
		}
	case boundary.Reserved:
		return []misuse{{"is used", 0, "pointer = buffer", bad}}
	case boundary.Label, boundary.OutUlong, boundary.OutStruct:
		return []misuse{{"is NULL", 0, null, bad}}
	case boundary.Bytes:
		tooLong := a.TooLong
		if f.InParts {
			tooLong = bad
		}
		return []misuse{{"is NULL with a length", 0, null, bad}, {"is absurd", 1, absurd, tooLong}}
	case boundary.Mechanism, boundary.OptionalMechanism:
		return []misuse{
			{"is NULL", 0, null, bad},
			{"has a NULL parameter with a length", 0, "pointer = &null_mechanism", "CKR_MECHANISM_PARAM_INVALID"},
			{"has a parameter of absurd length", 0, "pointer = &absurd_mechanism", "CKR_MECHANISM_PARAM_INVALID"},
		}
	case boundary.Template:
		return []misuse{
			{"is NULL with a count", 0, null, bad},
			{"is absurd", 1, absurd, bad},
			{"has a NULL value with a length", 0, "pointer = &null_attribute", "CKR_ATTRIBUTE_VALUE_INVALID"},
			{"has a value of absurd length", 0, "pointer = &absurd_attribute", "CKR_ATTRIBUTE_VALUE_INVALID"},
			{"has attributes in an attribute", 0, "pointer = &nested_attribute", "CKR_ATTRIBUTE_VALUE_INVALID"},
		}
	case boundary.Query:
		return []misuse{{"is NULL with a count", 0, null, bad}, {"is absurd", 1, absurd, bad}}
	case boundary.OutBuffer, boundary.OutLast, boundary.OutList:
		return []misuse{{"is NULL", 1, null, bad}}
	case boundary.OutExact:
		return []misuse{{"is NULL with a length", 0, null, bad}, {"is absurd", 1, absurd, bad}}
	case boundary.OutFound:
		return []misuse{{"is NULL with a length", 0, null, bad}, {"is absurd", 1, absurd, bad}, {"is NULL", 2, null, bad}}
	}
	return nil
}
