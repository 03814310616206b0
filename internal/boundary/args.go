package boundary

// Arguments that many functions have.
var (
	session   = Arg{Kind: Ulong, C: "CK_SESSION_HANDLE", Params: []string{"hSession"}, Name: "session", Go: "SessionHandle"}
	slot      = Arg{Kind: Ulong, C: "CK_SLOT_ID", Params: []string{"slotID"}, Name: "slot", Go: "SlotID"}
	mechanism = Arg{Kind: Mechanism, C: "CK_MECHANISM_PTR", Params: []string{"pMechanism"}, Name: "mechanism", Go: "Mechanism"}
	// cancelling is a mechanism of a function that ends an operation when it is NULL.
	cancelling = Arg{Kind: OptionalMechanism, C: "CK_MECHANISM_PTR", Params: []string{"pMechanism"}, Name: "mechanism", Go: "Mechanism"}
	// perMessage is what a mechanism wants to know of each message.
	perMessage = Arg{Kind: Bytes, C: "CK_VOID_PTR", Params: []string{"pParameter", "ulParameterLen"}, Name: "parameter", Go: "[]byte", TooLong: "CKR_MECHANISM_PARAM_INVALID"}
	associated = Arg{Kind: Bytes, C: "CK_BYTE_PTR", Params: []string{"pAssociatedData", "ulAssociatedDataLen"}, Name: "associated", Go: "[]byte", TooLong: "CKR_DATA_LEN_RANGE"}
)

func ignored(c, name string) Arg { return Arg{Kind: Ignored, C: c, Params: []string{name}} }

func reserved(name string) Arg {
	return Arg{Kind: Reserved, C: "CK_VOID_PTR", Params: []string{name}}
}

func initializeArgs(name string) Arg {
	return Arg{Kind: InitializeArgs, C: "CK_VOID_PTR", Params: []string{name}}
}

func ulong(c, name, goType string) Arg {
	return Arg{Kind: Ulong, C: c, Params: []string{name}, Name: lowerFirst(goType), Go: goType}
}

func object(name, goName string) Arg {
	return Arg{Kind: Ulong, C: "CK_OBJECT_HANDLE", Params: []string{name}, Name: goName, Go: "ObjectHandle"}
}

func boolean(name string) Arg {
	return Arg{Kind: Bool, C: "CK_BBOOL", Params: []string{name}, Name: name, Go: "bool"}
}

func label(name, goName string) Arg {
	return Arg{Kind: Label, C: "CK_UTF8CHAR_PTR", Params: []string{name}, Name: goName, Go: "[]byte"}
}

func bytes(p, n, goName, tooLong string) Arg {
	return Arg{Kind: Bytes, C: "CK_BYTE_PTR", Params: []string{p, n}, Name: goName, Go: "[]byte", TooLong: tooLong}
}

func pin(p, n, goName string) Arg {
	return Arg{Kind: Bytes, C: "CK_UTF8CHAR_PTR", Params: []string{p, n}, Name: goName, Go: "[]byte", TooLong: "CKR_PIN_LEN_RANGE"}
}

func data(p, n, goName string) Arg { return bytes(p, n, goName, "CKR_DATA_LEN_RANGE") }

func encrypted(p, n, goName string) Arg {
	return bytes(p, n, goName, "CKR_ENCRYPTED_DATA_LEN_RANGE")
}

func signature(p, n string) Arg { return bytes(p, n, "signature", "CKR_SIGNATURE_LEN_RANGE") }

func template(p, n, goName string) Arg {
	return Arg{Kind: Template, C: "CK_ATTRIBUTE_PTR", Params: []string{p, n}, Name: goName, Go: "[]Attribute"}
}

func query(p, n string) Arg {
	return Arg{Kind: Query, C: "CK_ATTRIBUTE_PTR", Params: []string{p, n}, Name: "queries", Go: "[]AttributeQuery"}
}

func outBuffer(p, pn string) Arg {
	return Arg{Kind: OutBuffer, C: "CK_BYTE_PTR", Params: []string{p, pn}, Name: "out", Go: "*Output"}
}

// outLast is a buffer of a function that gives nothing as long as the pointer to its length is NULL.
func outLast(p, pn string) Arg {
	return Arg{Kind: OutLast, C: "CK_BYTE_PTR", Params: []string{p, pn}, Name: "out", Go: "*Output"}
}

func outExact(p, n string) Arg {
	return Arg{Kind: OutExact, C: "CK_BYTE_PTR", Params: []string{p, n}, Name: "n", Go: "[]byte"}
}

func outUlong(c, p, goName, goType string) Arg {
	return Arg{Kind: OutUlong, C: c + "_PTR", Params: []string{p}, Name: goName, Go: goType}
}

func outObject(p, goName string) Arg {
	return Arg{Kind: OutUlong, C: "CK_OBJECT_HANDLE_PTR", Params: []string{p}, Name: goName, Go: "ObjectHandle"}
}

func outList(c, p, pn, goType string) Arg {
	return Arg{Kind: OutList, C: c + "_PTR", Params: []string{p, pn}, Name: "list", Go: goType}
}

func outFound(p, n, pn string) Arg {
	return Arg{Kind: OutFound, C: "CK_OBJECT_HANDLE_PTR", Params: []string{p, n, pn}, Name: "max", Go: "ObjectHandle"}
}

func outStruct(c, p, goType string) Arg {
	return Arg{Kind: OutStruct, C: c + "_PTR", Params: []string{p}, Name: "info", Go: goType}
}

func lowerFirst(s string) string { return string(s[0]|0x20) + s[1:] }
