package boundary

// Struct is a C structure that a function fills.
type Struct struct {
	Name   string // in C
	Go     string // in package p11
	Fields []Field
}

// Field is a member of a Struct.
type Field struct {
	C, Go string
	Type  FieldType
	Size  int // of a TextField, in bytes
}

// FieldType is how a Field looks.
type FieldType int

const (
	NumberField  FieldType = iota // CK_ULONG: u64
	TextField                     // CK_UTF8CHAR[Size]: as many bytes, padded with spaces
	VersionField                  // CK_VERSION: two bytes
)

// Structs are the structures of Kind OutStruct (PKCS #11 2.40, sections 3.1 to 3.5).
var Structs = []Struct{
	{"CK_INFO", "Info", []Field{
		{C: "cryptokiVersion", Go: "CryptokiVersion", Type: VersionField},
		{C: "manufacturerID", Go: "ManufacturerID", Type: TextField, Size: 32},
		{C: "flags", Go: "Flags"},
		{C: "libraryDescription", Go: "LibraryDescription", Type: TextField, Size: 32},
		{C: "libraryVersion", Go: "LibraryVersion", Type: VersionField},
	}},
	{"CK_SLOT_INFO", "SlotInfo", []Field{
		{C: "slotDescription", Go: "SlotDescription", Type: TextField, Size: 64},
		{C: "manufacturerID", Go: "ManufacturerID", Type: TextField, Size: 32},
		{C: "flags", Go: "Flags"},
		{C: "hardwareVersion", Go: "HardwareVersion", Type: VersionField},
		{C: "firmwareVersion", Go: "FirmwareVersion", Type: VersionField},
	}},
	{"CK_TOKEN_INFO", "TokenInfo", []Field{
		{C: "label", Go: "Label", Type: TextField, Size: 32},
		{C: "manufacturerID", Go: "ManufacturerID", Type: TextField, Size: 32},
		{C: "model", Go: "Model", Type: TextField, Size: 16},
		{C: "serialNumber", Go: "SerialNumber", Type: TextField, Size: 16},
		{C: "flags", Go: "Flags"},
		{C: "ulMaxSessionCount", Go: "MaxSessionCount"},
		{C: "ulSessionCount", Go: "SessionCount"},
		{C: "ulMaxRwSessionCount", Go: "MaxRwSessionCount"},
		{C: "ulRwSessionCount", Go: "RwSessionCount"},
		{C: "ulMaxPinLen", Go: "MaxPinLen"},
		{C: "ulMinPinLen", Go: "MinPinLen"},
		{C: "ulTotalPublicMemory", Go: "TotalPublicMemory"},
		{C: "ulFreePublicMemory", Go: "FreePublicMemory"},
		{C: "ulTotalPrivateMemory", Go: "TotalPrivateMemory"},
		{C: "ulFreePrivateMemory", Go: "FreePrivateMemory"},
		{C: "hardwareVersion", Go: "HardwareVersion", Type: VersionField},
		{C: "firmwareVersion", Go: "FirmwareVersion", Type: VersionField},
		{C: "utcTime", Go: "UTCTime", Type: TextField, Size: 16},
	}},
	{"CK_SESSION_INFO", "SessionInfo", []Field{
		{C: "slotID", Go: "SlotID"},
		{C: "state", Go: "State"},
		{C: "flags", Go: "Flags"},
		{C: "ulDeviceError", Go: "DeviceError"},
	}},
	{"CK_MECHANISM_INFO", "MechanismInfo", []Field{
		{C: "ulMinKeySize", Go: "MinKeySize"},
		{C: "ulMaxKeySize", Go: "MaxKeySize"},
		{C: "flags", Go: "Flags"},
	}},
}

// Parameter is a mechanism parameter that is flattened on the wire: every field in order, a number as u64, a buffer as Bytes.
// A pointer to bytes and the length that belongs to it are one field. Parameters that are not in Parameters go as they are.
type Parameter struct {
	Name       string // C name of the structure
	Mechanisms []string
	Fields     []ParameterField
}

// ParameterField is a CK_ULONG, or a buffer if Length names the member with its length.
type ParameterField struct{ C, Length string }

// Parameters are the structures known (PKCS #11 2.40 current mechanisms, sections 2.1.7, 2.1.9 and 2.12.3).
var Parameters = []Parameter{
	{
		Name: "CK_RSA_PKCS_PSS_PARAMS",
		Mechanisms: []string{
			"CKM_RSA_PKCS_PSS", "CKM_SHA1_RSA_PKCS_PSS", "CKM_SHA224_RSA_PKCS_PSS", "CKM_SHA256_RSA_PKCS_PSS",
			"CKM_SHA384_RSA_PKCS_PSS", "CKM_SHA512_RSA_PKCS_PSS", "CKM_SHA3_224_RSA_PKCS_PSS",
			"CKM_SHA3_256_RSA_PKCS_PSS", "CKM_SHA3_384_RSA_PKCS_PSS", "CKM_SHA3_512_RSA_PKCS_PSS",
		},
		Fields: []ParameterField{{C: "hashAlg"}, {C: "mgf"}, {C: "sLen"}},
	},
	{
		Name:       "CK_RSA_PKCS_OAEP_PARAMS",
		Mechanisms: []string{"CKM_RSA_PKCS_OAEP"},
		Fields:     []ParameterField{{C: "hashAlg"}, {C: "mgf"}, {C: "source"}, {C: "pSourceData", Length: "ulSourceDataLen"}},
	},
	{
		Name:       "CK_GCM_PARAMS",
		Mechanisms: []string{"CKM_AES_GCM"},
		Fields:     []ParameterField{{C: "pIv", Length: "ulIvLen"}, {C: "ulIvBits"}, {C: "pAAD", Length: "ulAADLen"}, {C: "ulTagBits"}},
	},
	{
		Name:       "CK_ECDH1_DERIVE_PARAMS",
		Mechanisms: []string{"CKM_ECDH1_DERIVE"},
		Fields:     []ParameterField{{C: "kdf"}, {C: "pSharedData", Length: "ulSharedDataLen"}, {C: "pPublicData", Length: "ulPublicDataLen"}},
	},
}
