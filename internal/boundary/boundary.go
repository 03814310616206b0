// Package boundary describes Cryptoki's C functions once: names, arguments, directions, how a buffer and its length belong together.
//
// The generator in gen makes of it the C entry points, their marshalling, the
// function list and the exports of cgo, and the interface and dispatch of p11.
// What the table does not say about a call, neither side of it knows. Nothing
// of this package is linked into the module.
//
// The bytes of a call, all numbers little-endian: a request is the u32 number
// of the function and its arguments in order; a response is the u64 CKR_ value
// and, where there are any, the outputs in order. [Kind] says what each looks
// like. Request and response have at most wire.MaxMessage bytes.
package boundary

//go:generate go run ./gen

// Function is one C function.
type Function struct {
	Number  uint32 // on the wire, from 1
	Name    string // "C_Sign"
	Args    []Arg
	Since   Version // the first function list that has it
	Status  Status
	InParts bool // a long buffer is cut into several calls: the function has the same meaning so

	Changes   bool // makes, changes or deletes what outlives a session: forked children need leave for it, and it is never sent twice
	Own       bool // besides Changes: or a session object instead, which is the application's own; p11 sees which it is
	Once      bool // never sent twice for another reason: a wrong PIN counts each time
	Session   SessionEffect
	Operation Operation // of a session, that the call is a step of
	Step      Step
}

// SessionEffect is what a call does to sessions.
type SessionEffect int

const (
	NoEffect  SessionEffect = iota
	Opens                   // opens one: its slot and flags are the first arguments, its handle the only output
	Closes                  // closes the one that is its first argument
	ClosesAll               // closes all of the slot that is its first argument
	Cancels                 // ends operations of the one that is its first argument: those whose flags are in its second
)

// Operation is something that a session does over several calls, at most one of each kind at a time.
type Operation int

const (
	NoOperation Operation = iota
	Search
	Encryption
	Decryption
	Digesting
	Signing
	Verifying
	MessageSigning
	MessageVerifying
	Recovering // signing data that the signature holds
	Uncovering // verifying that
)

func (o Operation) String() string {
	return [...]string{"nothing", "Search", "Encryption", "Decryption", "Digesting", "Signing", "Verifying", "MessageSigning", "MessageVerifying", "Recovering", "Uncovering"}[o]
}

// Operations are what C_SessionCancel calls the operations (CKF_ flags of PKCS #11 v3.2, section 3.5), in their order.
var Operations = []uint64{
	Search: 0x40, Encryption: 0x100, Decryption: 0x200, Digesting: 0x400, Signing: 0x800, Verifying: 0x2000,
	MessageSigning: 0x08, MessageVerifying: 0x10, Recovering: 0x1000, Uncovering: 0x4000,
}

// Step is where in an operation a call stands.
type Step int

const (
	NoStep    Step = iota
	Begins         // makes it active; a NULL mechanism ends it
	Continues      // changes it: it cannot be begun anew without being done again
	Uses           // needs it, and leaves it as it was
	Ends           // ends it, unless only a length was asked for or a buffer was too small
)

// Version is a version of CK_FUNCTION_LIST. The zero value is 2.40.
type Version int

// The versions of the function list.
const (
	V2_40 Version = iota
	V3_0
	V3_2
)

// Status is what happens to a call.
type Status int

const (
	Supported   Status = iota // goes to the method of p11.Module of the same name
	ByHand                    // the same, with a C entry point written by hand
	InC                       // answered in hand-written C, unknown to p11
	Composed                  // the same, by two other functions on the same data
	Unsupported               // answered with CKR_FUNCTION_NOT_SUPPORTED
	NotParallel               // answered with CKR_FUNCTION_NOT_PARALLEL, as the legacy functions are
)

// EndsWhenRefused tells whether a failed call ends the operation that it is a step of. A search goes on until
// C_FindObjectsFinal, and of a message-based process only the message ends.
func (f Function) EndsWhenRefused() bool {
	return (f.Step == Continues || f.Step == Ends) && f.Operation != Search
}

// Dispatched tells whether p11 has a method for the function.
func (f Function) Dispatched() bool { return f.Status == Supported || f.Status == ByHand }

// Method is the name of p11's method: the function's without C_.
func (f Function) Method() string { return f.Name[len("C_"):] }

// Kind is the shape of an argument, in C, on the wire and in Go.
type Kind int

const (
	Ignored           Kind = iota // not sent: callbacks, and what C alone looks at
	Reserved                      // not sent, and must be NULL
	InitializeArgs                // CK_C_INITIALIZE_ARGS: u8 whether there is one, u64 flags
	Ulong                         // CK_ULONG by value: u64
	Bool                          // CK_BBOOL by value: u8 0 or 1
	Label                         // 32 characters without a length: 32 bytes
	Bytes                         // buffer and length: u64 length (all ones for NULL), bytes
	Mechanism                     // CK_MECHANISM_PTR: u64 type, parameter as Bytes
	OptionalMechanism             // the same, where NULL is sent as the type with all ones and a NULL parameter
	Template                      // CK_ATTRIBUTE array and count: u64 count, each u64 type and value as Bytes
	Query                         // the same for reading: u64 count, each u64 type, u8 pValue is NULL, u64 ulValueLen;
	//                            back: u64 count, each u8 unavailable, u64 length, value as Bytes
	OutBuffer // buffer and CK_ULONG_PTR: u8 buffer is NULL, u64 room; back: u64 length, Bytes
	OutLast   // the same where both may be NULL: before it u8 the length's pointer is not NULL; back nothing if it was
	OutExact  // buffer and length that are filled whole: u64 length; back: Bytes
	OutUlong  // CK_ULONG_PTR: back: u64
	OutList   // array and CK_ULONG_PTR: back: u64 count, u64 each
	OutFound  // array, its size and CK_ULONG_PTR: u64 size; back: u64 count, u64 each
	OutStruct // pointer to one of Structs: back: its fields in order
)

// Arg is one argument: one to three C parameters.
type Arg struct {
	Kind    Kind
	C       string   // type of the first C parameter
	Params  []string // names of the C parameters
	Name    string   // name in Go
	Go      string   // type in Go (of an element, for lists)
	TooLong string   // the CKR_ value for Bytes that do not fit into a message
}
