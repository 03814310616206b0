// Package p11 is Cryptoki (PKCS #11) in pure Go: slots, sessions, objects, attributes, mechanisms, one operation of a kind a session.
//
// Requests come in as bytes through Module.Dispatch, from whatever transport
// carried them; nothing here sees a C pointer. It never keeps a secret that the
// TPM can keep.
package p11

// The Cryptoki types (PKCS #11 v3.1, section 3; v3.2 for what came later), all CK_ULONG on the C side.
type (
	SlotID        uint64
	SessionHandle uint64
	ObjectHandle  uint64
	MechanismType uint64
	AttributeType uint64
	UserType      uint64
	State         uint64
	Flags         uint64
	ObjectClass   uint64
	// ValidationFlagsType is CK_SESSION_VALIDATION_FLAGS_TYPE.
	ValidationFlagsType uint64
	// RV is a CKR_ value and an error; rv.go makes one of every other error.
	RV uint64
)

// Version is CK_VERSION.
type Version struct{ Major, Minor byte }

// Attribute is CK_ATTRIBUTE by value. Value is nil when pValue was NULL. CK_ULONG and CK_BBOOL values are 8 and 1 bytes, native order (little-endian on the wire).
type Attribute struct {
	Type  AttributeType
	Value []byte
}

// AttributeQuery is one attribute of a C_GetAttributeValue template.
type AttributeQuery struct {
	Type     AttributeType
	Query    bool   // pValue is NULL: only the length is asked for
	Capacity uint64 // ulValueLen
}

// AttributeResult answers one AttributeQuery.
type AttributeResult struct {
	Unavailable bool   // ulValueLen becomes CK_UNAVAILABLE_INFORMATION
	Length      uint64 // the true length otherwise
	Value       []byte // copied to pValue when it is not nil (never longer than Capacity)
	Secret      bool   // Value is a copy, which other results may share, to be wiped once all were sent
}

// Mechanism is CK_MECHANISM by value. Parameter is flat: for parameters that hold pointers the C side writes each
// field in order, numbers as u64, buffers as u64 length (all ones for NULL) and bytes; flat structures (CK_RSA_PKCS_PSS_PARAMS)
// field by field the same way; parameters of mechanisms it does not know as raw bytes.
type Mechanism struct {
	Type      MechanismType
	Parameter []byte
}

// Output is where a variable-length result goes, and the size convention of PKCS #11 section 5.2.
type Output struct {
	Query    bool // the buffer is NULL: only the length is wanted
	Capacity uint64
	length   uint64
	data     []byte
}

// Put gives the result. CKR_BUFFER_TOO_SMALL, with the length told, when it does not fit.
func (o *Output) Put(b []byte) error {
	o.length = uint64(len(b))
	if o.Query {
		return nil
	}
	if o.Capacity < o.length {
		return CKR_BUFFER_TOO_SMALL
	}
	o.data = b
	return nil
}

// Room answers a size query or a too small buffer before any work: done is true when the call is over (err says how).
// n is the result's (largest) length.
func (o *Output) Room(n int) (done bool, err error) {
	o.length = uint64(n)
	if o.Query {
		return true, nil
	}
	if o.Capacity < o.length {
		return true, CKR_BUFFER_TOO_SMALL
	}
	return false, nil
}

// Result is what Put or Room left: the length for *pulLen and the bytes to copy (nil for none).
func (o *Output) Result() (length uint64, data []byte) { return o.length, o.data }

// Info is CK_INFO. Strings are padded with spaces by the boundary.
type Info struct {
	CryptokiVersion    Version
	ManufacturerID     string
	Flags              Flags
	LibraryDescription string
	LibraryVersion     Version
}

// SlotInfo is CK_SLOT_INFO.
type SlotInfo struct {
	SlotDescription, ManufacturerID  string
	Flags                            Flags
	HardwareVersion, FirmwareVersion Version
}

// TokenInfo is CK_TOKEN_INFO.
type TokenInfo struct {
	Label, ManufacturerID, Model, SerialNumber                                 string
	Flags                                                                      Flags
	MaxSessionCount, SessionCount, MaxRwSessionCount, RwSessionCount           uint64
	MaxPinLen, MinPinLen                                                       uint64
	TotalPublicMemory, FreePublicMemory, TotalPrivateMemory, FreePrivateMemory uint64
	HardwareVersion, FirmwareVersion                                           Version
	UTCTime                                                                    string
}

// SessionInfo is CK_SESSION_INFO.
type SessionInfo struct {
	SlotID      SlotID
	State       State
	Flags       Flags
	DeviceError uint64
}

// MechanismInfo is CK_MECHANISM_INFO.
type MechanismInfo struct {
	MinKeySize, MaxKeySize uint64
	Flags                  Flags
}
