// Package promises is the table of what can break, and of what each door to the keys then answers: the module, the Go package
// signer, and the command. docs/RELIABILITY.md is written from it, and the tests of the doors run it. It is for tests.
package promises

import (
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/tpm2-p11/tpm2-p11/internal/faulttpm"
	"github.com/tpm2-p11/tpm2-p11/internal/tpmtest"
)

//go:generate go run ./gen

// Row is one fault, and what is promised then.
type Row struct {
	Fault string // what happens, in the words of the page
	Name  string // of the subtests; "" for a row that other tests show
	Token Token  // on which it is tried
	Use   Use    // what is tried while it happens
	// Apart is a row that spends its TPM, or takes long: it has one to itself.
	Apart bool
	Long  bool // it takes a minute, most of it waiting
	// Errno is a row of the disk: what system calls that change the store fail with.
	Errno syscall.Errno
	Begin func(*Machine) // lets it happen
	End   func(*Machine) // makes it good again; nil: takes the fault from the wire. Where Lost is set it is what is left to do
	Lost  bool           // the key does not come back

	Module  string  // the CKR_ name; "" for a door that has nothing to do with it
	Signer  string  // the error's name in package signer, "nil" for none; "" likewise
	Command Command // likewise without Exit
	After   string  // what is so afterwards, where the row's faults are over

	Shown []string // tests besides those of the doors that run the row
}

// Command is what the command says.
type Command struct {
	Exit  string   // "0", "1", "2"
	Words []string // in what it prints when it fails
}

// Token is what a row needs.
type Token int

// The tokens.
const (
	Open    Token = iota // without PIN
	Guarded              // with the PIN
)

// The PINs of a guarded token.
const (
	PIN      = "314159"
	SOPIN    = "27182818"
	WrongPIN = "141421"
)

// Use is one thing to do with a key.
type Use struct {
	Verb       Verb
	Key        string // the label
	PIN        string // of a guarded token, to log in by anew; "" is no login but that of the beginning
	Ciphertext string // to decrypt; "" is a good one
}

// Right is the same use without what is wrong about it.
func (u Use) Right() Use {
	u.PIN, u.Ciphertext = "", ""
	return u
}

// Verb is what is done.
type Verb int

// The verbs.
const (
	Sign Verb = iota
	Decrypt
	Create // another key; signer has no such function
)

// Keys are those of the tokens.
var Keys = []Key{
	{Label: "web", Type: "p256"},
	{Label: "rsa", Type: "rsa2048"},
	{Label: "wrapped", Type: "p256", Wrapped: true},
	{Label: "bound", Type: "p256", PCR: true},
	{Label: "mail", Type: "rsa2048", Decrypt: true},
}

// KeysOf are those that some rows use.
func KeysOf(rows []Row) (keys []Key) {
	for _, k := range Keys {
		if slices.ContainsFunc(rows, func(r Row) bool { return r.Use.Key == k.Label }) {
			keys = append(keys, k)
		}
	}
	return keys
}

// Key is one of them.
type Key struct {
	Label, Type      string // as the command's --type has it
	Wrapped, Decrypt bool
	PCR              bool // bound to BoundPCR of SHA-256
}

// BoundPCR is the PCR that bound keys are bound to.
const BoundPCR = 8

// Section is some rows of the page.
type Section struct {
	Title string
	Intro string
	Rows  []Row
}

// Table is all of it.
var Table = []Section{wire, machine, disk}

// Batch is rows that one TPM is for, in their order.
type Batch struct {
	Name  string // without spaces and slashes
	Token Token
	Rows  []Row
}

// Batches are the rows that are run; with short without the long ones.
func Batches(short bool) []Batch {
	all := []Batch{{Name: "open", Token: Open}, {Name: "guarded", Token: Guarded}}
	for _, s := range Table {
		for _, r := range s.Rows {
			switch {
			case r.Name == "" || r.Long && short:
			case r.Apart:
				all = append(all, Batch{strings.NewReplacer(" ", "_", ",", "").Replace(r.Name), r.Token, []Row{r}})
			default:
				all[r.Token].Rows = append(all[r.Token].Rows, r)
			}
		}
	}
	return all
}

// Machine is where a row happens: a TPM, and the wire from a door to it.
type Machine struct {
	TB   testing.TB
	TPM  *tpmtest.TPM
	Wire *faulttpm.Proxy

	undo []func() // what Begin leaves to End
}

// NewMachine starts a proxy before a TPM, until the test's end.
func NewMachine(t testing.TB, tpm *tpmtest.TPM) *Machine {
	t.Helper()
	wire, err := faulttpm.Listen(tpm.Socket()+"f", tpm.Socket())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(wire.Close)
	return &Machine{TB: t, TPM: tpm, Wire: wire}
}

// Begin lets a row's fault happen.
func (m *Machine) Begin(r Row) {
	m.TB.Helper()
	if r.Begin != nil {
		r.Begin(m)
	}
}

// End makes it good again.
func (m *Machine) End(r Row) {
	m.TB.Helper()
	m.Wire.Inject(nil)
	for _, undo := range slices.Backward(m.undo) {
		undo()
	}
	m.undo = nil
	if r.End != nil {
		r.End(m)
	}
}
